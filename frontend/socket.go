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

	"raptorpack/notifier"
	"raptorpack/wire"
)

// connection is one WebSocket of a client. Its goroutine reads; work is pushed
// by others.
type connection struct {
	wire.Conn
	route   string
	address string
	slot    int // guarded by the wheel

	// busy says that a frame is whole and its answer not sent.
	busy atomic.Bool
}

// conversation is what one route does with the frames of a connection. Waiting
// for a frame happens outside, on a shallow stack, since that is what thousands
// of goroutines do.
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
	conn, err := wire.Upgrade(w, r, wire.ConnOptions{
		MaxMessage: f.options.MaxBody, PingWait: f.options.PingWait,
		// A client drops us after 1.1 intervals; we are more patient, since
		// one late pong of a loaded machine is no reason to begin anew.
		Silence: f.options.PingWait * 3 / 2,
	})
	if err != nil {
		f.log.Debug("no websocket", "route", route, "address", address, "err", err)
		return
	}
	c := &connection{Conn: conn, route: route, address: address}
	// The request ends when the handler returns. Nothing ends the new context:
	// closing the connection does, and every wait beside reading has its limit.
	ctx := context.WithoutCancel(r.Context())
	if !f.sockets.add(c) {
		closeQuietly(c)
		return
	}
	f.serveSocket(ctx, c, begin(c))
}

// serveSocket starts the connection's goroutine, which sockets waits for. Its
// loop stands in the goroutine's first function and waits for a frame with next
// to nothing above it on the stack: some hundred bytes more would make each idle
// connection's stack 8 KB instead of 4.
func (f *Frontend) serveSocket(ctx context.Context, c *connection, talk conversation) {
	f.enter(c)
	go func() {
		var err error
		for more := true; more && err == nil; {
			var r io.Reader
			if r, err = c.Conn.Next(); err == nil {
				more = talk.frame(ctx, r)
			}
		}
		f.leave(ctx, c, talk, err)
	}()
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
	f.wheel.remove(c)
	f.metrics.connections.WithLabelValues(c.kind()).Dec()
}

func (c *connection) kind() string { return strings.TrimPrefix(c.route, "server.") + "_socket" }

// ping is called by the wheel. A connection that cannot be pinged is over.
func (f *Frontend) ping(c *connection) {
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
	a, peer := k.control(ctx, body, t)
	t.close()
	k.known = k.known || peer != nil
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
	r.attachment = f.options.Collections.Attach(peer.Org, peer.Client)
	r.waiter = f.options.Board.RegisterBell(peer.Org, peer.Client, r)
}

// close implements conversation.
func (r *reader) close() {
	if r.waiter == nil {
		return
	}
	r.frontend.pushes.forget(r)
	r.waiter.Close()
	r.delivering.Lock() // nothing is taken from a closed attachment
	defer r.delivering.Unlock()
	r.closed = true
	r.attachment.Close()
}

// Ring implements notifier.Bell.
func (r *reader) Ring() { r.frontend.pushes.ring(r) }

// deliver is called by one pusher at a time.
func (r *reader) deliver(ctx context.Context) {
	r.delivering.Lock()
	defer r.delivering.Unlock()
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
	body, err := r.frontend.seal(ctx, d)
	if err != nil {
		return fmt.Errorf("deliver %d messages: %w", len(d.Messages), err)
	}
	return r.Write(wire.Frame{Code: http.StatusOK, Data: body}.Append(nil))
}
