package wire

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// Request is one packet on its way to a server.
type Request struct {
	Packet []byte // from Session.Seal; kept until Exchange returns

	// Urgent asks not to be queued behind others (X-Priority); HTTP only.
	Urgent bool

	// Redirected marks the requests that follow a redirect (?r=1); HTTP only.
	Redirected bool
}

// Answer is what came back: over a WebSocket the emulated status and body.
type Answer struct {
	Code     int
	Text     string // for people
	Body     []byte // give it to Session.Open when Code is 200
	Location string // of a redirect
}

// Endpoint is one endpoint of one server URL. Over HTTP each Exchange is a POST;
// over a WebSocket they share a connection, which is opened when needed, answers
// pings between exchanges, and is dropped after an error, a cancelled Exchange
// or a code other than 200. One Exchange at a time; Close may come any time.
type Endpoint struct {
	transport *Transport
	url       *url.URL

	mu     sync.Mutex
	link   *link
	closed bool
}

// Endpoint makes an endpoint such as PathReader below a base URL. It does not
// connect.
func (t *Transport) Endpoint(base, path string) (*Endpoint, error) {
	u, err := resolve(base, path)
	if err != nil {
		return nil, err
	}
	return &Endpoint{transport: t, url: u}, nil
}

// URL is the whole address of the endpoint.
func (e *Endpoint) URL() string { return e.url.String() }

// Exchange sends a packet and waits for one answer. For the reader that may
// take as long as there is nothing to do. An error means that no answer came;
// whether the packet arrived is not known then.
func (e *Endpoint) Exchange(ctx context.Context, q Request) (Answer, error) {
	if !strings.HasPrefix(e.url.Scheme, "ws") {
		return e.transport.post(ctx, e.url, q)
	}
	l, err := e.connected(ctx)
	if err != nil {
		return Answer{}, err
	}
	answer, err := l.exchange(ctx, q.Packet)
	if err != nil || answer.Code != http.StatusOK {
		e.drop(l)
	}
	if err != nil {
		return Answer{}, fmt.Errorf("exchange with %s: %w", e.url, err)
	}
	return answer, nil
}

// Close drops the connection and waits for its goroutine.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	e.closed = true
	l := e.link
	e.link = nil
	e.mu.Unlock()
	if l != nil {
		l.close()
	}
	return nil
}

func (e *Endpoint) connected(ctx context.Context) (*link, error) {
	e.mu.Lock()
	l, closed := e.link, e.closed
	e.mu.Unlock()
	if closed {
		return nil, fmt.Errorf("exchange with %s: %w", e.url, ErrClosed)
	}
	if l != nil && !l.over() {
		return l, nil
	}
	if l != nil {
		e.drop(l)
	}
	conn, err := e.transport.dialSocket(ctx, e.url)
	if err != nil {
		return nil, err
	}
	l = newLink(conn, e.transport.options.MaxAnswer)
	e.mu.Lock()
	closed = e.closed
	if !closed {
		e.link = l
	}
	e.mu.Unlock()
	if closed {
		l.close()
		return nil, fmt.Errorf("exchange with %s: %w", e.url, ErrClosed)
	}
	return l, nil
}

func (e *Endpoint) drop(l *link) {
	e.mu.Lock()
	if e.link == l {
		e.link = nil
	}
	e.mu.Unlock()
	l.close()
}

// link is a connected WebSocket of an agent with the goroutine that reads it, so
// that pings are answered while nobody waits for an answer.
type link struct {
	conn  Conn
	limit int64

	// frames has a few places for batches pushed between two exchanges; when it
	// is full reading waits, and the server with it.
	frames chan Frame
	quit   chan struct{} // closed by close
	done   chan struct{} // closed when the reader has ended
	once   sync.Once
	err    error // why the reader ended; read it after done
}

func newLink(conn Conn, limit int64) *link {
	l := &link{conn: conn, limit: limit/3*4 + 4096, frames: make(chan Frame, 4), quit: make(chan struct{}), done: make(chan struct{})}
	go l.read()
	return l
}

func (l *link) read() {
	defer close(l.done)
	for l.err == nil {
		l.err = l.readOne()
	}
	// A write that waits for the other side has lost it too.
	l.conn.Close()
}

func (l *link) readOne() error {
	r, err := l.conn.Next()
	if err != nil {
		return err
	}
	text, err := ReadWithin(r, l.limit, nil)
	if err != nil {
		return err
	}
	frame, err := ParseFrame(text)
	if err != nil {
		return err
	}
	select {
	case l.frames <- frame:
		return nil
	case <-l.quit:
		return ErrClosed
	}
}

func (l *link) over() bool {
	select {
	case <-l.done:
		return len(l.frames) == 0
	default:
		return false
	}
}

func (l *link) exchange(ctx context.Context, packet []byte) (Answer, error) {
	// A write may wait for the network: a cancelled exchange ends the link.
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	defer stop()
	if err := l.conn.Write(packet); err != nil {
		return Answer{}, err
	}
	select {
	case frame := <-l.frames:
		return frame.answer(), nil
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	case <-l.done:
	}
	select { // the last frame may have come just before the end
	case frame := <-l.frames:
		return frame.answer(), nil
	default:
		return Answer{}, l.err
	}
}

func (f Frame) answer() Answer { return Answer{Code: f.Code, Text: f.Err, Body: f.Data} }

func (l *link) close() {
	l.once.Do(func() { close(l.quit) })
	l.conn.Close()
	<-l.done
}
