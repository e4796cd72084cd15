package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"raptorpack/notifier"
	"raptorpack/wire"
)

// connection is one WebSocket of a client. A goroutine reads what comes, and is there
// only then; work is pushed by others.
type connection struct {
	wire.Conn
	route   string
	address string
	slot    int // guarded by the wheel

	// busy says that a frame is whole and its answer not sent.
	busy atomic.Bool

	// talking says that a frame is being read or answered.
	talking atomic.Bool

	// newcomer says that no frame was authentic yet; newcomers counts it then.
	newcomer atomic.Bool
}

const (
	// newcomerGrace is how long a WebSocket may be open without saying who it is, or
	// three quarters of the time between pings if that is shorter. Clients open one
	// when they have something to send.
	newcomerGrace = 30 * time.Second

	// maxNewcomers bounds those of one source: clients behind one address become
	// known within moments, however many they are.
	maxNewcomers = 1024
)

// conversation is what one route does with the frames of a connection. Waiting
// for a frame happens outside.
type conversation interface {
	// frame takes one frame and reports whether to go on.
	frame(ctx context.Context, r io.Reader) bool

	// close is called once, when no frame will come.
	close()
}

// handOver ends the connection so that the client goes elsewhere; a frame that
// was taken is answered first.
func (c *connection) handOver() {
	if !c.busy.Load() {
		closeQuietly(c)
	}
}

// closeQuietly closes a connection whose end is known already.
func closeQuietly(c *connection) { _ = c.Close() }

// upgrade makes a WebSocket of a request and serves it in a goroutine of its
// own, so that the HTTP server's buffers are given back.
func (f *Frontend) upgrade(w http.ResponseWriter, r *http.Request, route string, begin func(*connection) conversation) {
	address := f.address(r)
	source := f.source(address)
	if !f.newcomers.take(source, 1) {
		f.write(w, r, route, later("newcomers", fmt.Errorf("%d websockets of %s do not say who they are", maxNewcomers, source)))
		return
	}
	conn, err := wire.Upgrade(w, r, wire.ConnOptions{
		MaxMessage: f.options.MaxBody, PingWait: f.options.PingWait,
		// A client drops us after 1.1 intervals; we are more patient, since
		// one late pong of a loaded machine is no reason to begin anew.
		Silence: f.silence(), Watcher: f.watcher,
	})
	if err != nil {
		f.newcomers.give(source, 1)
		f.log.Debug("no websocket", "route", route, "address", address, "err", err)
		return
	}
	c := &connection{Conn: conn, route: route, address: address}
	c.newcomer.Store(true)
	// The request ends when the handler returns. Nothing ends the new context:
	// closing the connection does, and every wait beside reading has its limit. It
	// serves until the connection rests for the first time; then that of Run does.
	ctx := context.WithoutCancel(r.Context())
	if !f.sockets.add(c) {
		f.welcome(c)
		closeQuietly(c)
		return
	}
	f.serveSocket(ctx, c, begin(c))
}

// serveSocket starts the connection's goroutine, which sockets waits for. Between two
// frames there is none if the connection can rest, as thousands do; where it cannot,
// the loop waits with next to nothing above it on the stack, since some hundred bytes
// more would make that of each idle connection 8 KB instead of 4.
func (f *Frontend) serveSocket(ctx context.Context, c *connection, talk conversation) {
	f.enter(c)
	var listen func(context.Context)
	listen = func(ctx context.Context) {
		for {
			r, err := c.Conn.Next()
			if err != nil || r != nil && !f.converse(ctx, c, talk, r) {
				f.leave(ctx, c, talk, err)
				return
			}
			if c.Conn.Rest(listen) {
				return
			}
		}
	}
	go listen(ctx)
}

// converse takes one frame. Whatever goes wrong in it ends this connection only.
func (f *Frontend) converse(ctx context.Context, c *connection, talk conversation, r io.Reader) (more bool) {
	c.talking.Store(true)
	defer func() {
		c.talking.Store(false)
		if fault := recover(); fault != nil {
			f.panicked(c.route, fault)
			more = false
		}
	}()
	return talk.frame(ctx, r)
}

// silence is how long a WebSocket may say nothing.
func (f *Frontend) silence() time.Duration { return f.options.PingWait * 3 / 2 }

// welcome ends a connection's time as a newcomer.
func (f *Frontend) welcome(c *connection) {
	if c.newcomer.CompareAndSwap(true, false) {
		f.newcomers.give(f.source(c.address), 1)
	}
}

func (f *Frontend) enter(c *connection) {
	f.metrics.connections.WithLabelValues(c.kind()).Inc()
	f.wheel.add(c)
}

// leave undoes enter; err is why reading ended, if it did.
func (f *Frontend) leave(ctx context.Context, c *connection, talk conversation, err error) {
	defer f.sockets.done(c)
	if err != nil {
		f.refuse(ctx, c, err)
	}
	closeQuietly(c)
	talk.close()
	f.welcome(c)
	f.wheel.remove(c)
	f.metrics.connections.WithLabelValues(c.kind()).Dec()
}

func (c *connection) kind() string { return strings.TrimPrefix(c.route, "server.") + "_socket" }

// visit is called by the wheel. A connection that cannot be pinged is over, and so
// is one of a stranger who says nothing.
func (f *Frontend) visit(c *connection) {
	if c.newcomer.Load() && !c.talking.Load() {
		closeQuietly(c)
		return
	}
	if err := c.Ping(); err != nil {
		f.metrics.pings.WithLabelValues("failed").Inc()
		closeQuietly(c)
		return
	}
	f.metrics.pings.WithLabelValues("sent").Inc()
}

// reply sends one emulated answer and reports whether the connection goes on: it
// is over after any code but 200.
func (f *Frontend) reply(ctx context.Context, c *connection, a answer, data []byte) bool {
	f.account(c.route, c.address, a)
	f.pace(ctx, a)
	frame := wire.Frame{Code: a.code, Err: a.text, Data: data}
	if err := c.Write(frame.Append(nil)); err != nil {
		f.log.Debug("answer did not go out", "route", c.route, "address", c.address, "err", err)
		return false
	}
	return a.code == http.StatusOK
}

// refuse answers a frame that was not admitted; a lost connection needs none.
func (f *Frontend) refuse(ctx context.Context, c *connection, err error) bool {
	if errors.Is(err, wire.ErrClosed) {
		f.log.Debug("websocket closed", "route", c.route, "address", c.address, "err", err)
		return false
	}
	return f.reply(ctx, c, judge(err), nil)
}

// read admits and reads one frame.
func (f *Frontend) read(ctx context.Context, c *connection, r io.Reader, known bool) ([]byte, *ticket, error) {
	return f.admission.read(ctx, r, claim{size: -1, address: c.address, source: f.source(c.address), known: known})
}

// pemTalk answers any frame with the server's certificate.
type pemTalk struct {
	*Frontend
	c *connection
}

func (f *Frontend) serverPEMSocket(c *connection) conversation { return pemTalk{f, c} }

func (p pemTalk) frame(ctx context.Context, r io.Reader) bool {
	_, t, err := p.read(ctx, p.c, r, false)
	if err != nil {
		return p.refuse(ctx, p.c, err)
	}
	t.close()
	return p.reply(ctx, p.c, ok, p.options.Identity.PEM())
}

func (pemTalk) close() {}

// controlTalk answers each frame once, after its commit.
type controlTalk struct {
	*Frontend
	c     *connection
	known bool // a frame was authentic
}

func (f *Frontend) controlSocket(c *connection) conversation { return &controlTalk{Frontend: f, c: c} }

func (k *controlTalk) frame(ctx context.Context, r io.Reader) bool {
	body, t, err := k.read(ctx, k.c, r, k.known)
	if err != nil {
		return k.refuse(ctx, k.c, err)
	}
	k.c.busy.Store(true)
	defer k.c.busy.Store(false)
	defer t.close()
	a, peer := k.control(ctx, body, t)
	t.close() // before the answer is paced
	if peer != nil {
		k.known = true
		k.welcome(k.c)
	}
	return k.reply(ctx, k.c, a, nil) && !k.draining.Load()
}

func (k *controlTalk) close() {}

// reader is a client's WebSocket that waits for work. The first frame
// authenticates it; later ones are check-ins without an answer.
type reader struct {
	*connection
	frontend *Frontend
	peer     Peer
	push     pushState // guarded by pushes

	// delivering is held while a pusher serves the reader, which includes one
	// write; whoever closes has closed the connection before and waits little.
	delivering sync.Mutex
	waiter     *notifier.Waiter // nil before the first frame
	attachment Attachment
	closed     bool
}

func (f *Frontend) readerSocket(c *connection) conversation {
	return &reader{connection: c, frontend: f}
}

func (r *reader) frame(ctx context.Context, frame io.Reader) bool {
	f := r.frontend
	packet, peer, t, err := r.checkIn(ctx, frame)
	if err != nil {
		return f.refuse(ctx, r.connection, err)
	}
	defer t.close()
	if r.waiter == nil {
		if a := f.admit(ctx, packet, peer); a.code != http.StatusOK {
			return f.reply(ctx, r.connection, a, nil)
		}
		if f.repeats(packet, peer) {
			a := f.ingest(ctx, packet, peer, t)
			t.close() // before the answer is paced
			f.reply(ctx, r.connection, a, wire.Pad)
			return false
		}
		f.welcome(r.connection)
		r.register(peer)
	}
	if packet.Standing != wire.Known || peer.Client != r.peer.Client || peer.Org != r.peer.Org {
		return f.reply(ctx, r.connection, forbidden("forged", fmt.Errorf("%s on the connection of %s", peer.Client, r.peer.Client)), nil)
	}
	if a := f.ingest(ctx, packet, peer, t); a.code != http.StatusOK {
		return f.reply(ctx, r.connection, a, nil)
	}
	r.Ring()
	return true
}

// checkIn reads and opens one frame.
func (r *reader) checkIn(ctx context.Context, frame io.Reader) (*wire.Packet, Peer, *ticket, error) {
	f := r.frontend
	body, t, err := f.read(ctx, r.connection, frame, false)
	if err != nil {
		return nil, Peer{}, nil, err
	}
	if len(body) > smallBody {
		t.close()
		return nil, Peer{}, nil, fmt.Errorf("check-in of %d bytes: %w", len(body), errOversize)
	}
	packet, peer, err := f.open(ctx, body, r.address)
	if err != nil {
		t.close()
		return nil, Peer{}, nil, err
	}
	return packet, peer, t, nil
}

// register takes the client's place on the board, before anything is looked for.
func (r *reader) register(peer Peer) {
	f := r.frontend
	r.peer = peer
	f.contest(peer)
	r.delivering.Lock() // the bell may ring before we know our place
	defer r.delivering.Unlock()
	r.waiter = f.options.Board.RegisterBell(peer.Org, peer.Client, r)
	r.attachment = f.options.Collections.Attach(peer.Org, peer.Client)
}

// close implements conversation.
func (r *reader) close() {
	if r.waiter == nil {
		return
	}
	r.frontend.pushes.forget(r)
	r.waiter.Close()
	r.frontend.partings.note(r.peer)
	r.delivering.Lock() // nothing is taken from a closed attachment
	defer r.delivering.Unlock()
	r.closed = true
	if r.attachment != nil { // or attaching itself broke
		r.attachment.Close()
	}
}

// Ring implements notifier.Bell.
func (r *reader) Ring() { r.frontend.pushes.ring(r) }

// deliver is called by one pusher at a time.
func (r *reader) deliver(ctx context.Context) {
	r.delivering.Lock()
	defer r.delivering.Unlock()
	defer func() {
		if fault := recover(); fault != nil {
			r.frontend.panicked(r.route, fault)
			closeQuietly(r.connection)
		}
	}()
	if r.closed {
		return
	}
	if r.waiter.Replaced() {
		closeQuietly(r.connection)
		return
	}
	jobs := r.attachment.Next()
	if len(jobs) == 0 {
		return
	}
	f := r.frontend
	if err := r.send(ctx, wire.Delivery{Org: r.peer.Org, Client: r.peer.Client, Messages: jobs}); err != nil {
		f.log.Debug("delivery failed", "org", r.peer.Org, "client", r.peer.Client, "err", err)
		closeQuietly(r.connection)
		return
	}
	f.metrics.delivered.Add(float64(len(jobs)))
}

func (r *reader) send(ctx context.Context, d wire.Delivery) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	body, err := r.frontend.seal(ctx, d, func() error { return nil }) // pings keep it alive
	if err != nil {
		return fmt.Errorf("deliver %d messages: %w", len(d.Messages), err)
	}
	return r.Write(wire.Frame{Code: http.StatusOK, Data: body}.Append(nil))
}
