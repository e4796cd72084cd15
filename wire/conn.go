package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Conn is one WebSocket. One goroutine may read; any may write or ping.
type Conn interface {
	// Next waits for the next message and returns a reader of it, which is
	// good until the next call. Pings and pongs are answered meanwhile; where a
	// Watcher is, Next returns after each of them with no reader and no error,
	// since the connection may rest again.
	Next() (io.Reader, error)

	// Rest gives up the goroutine that reads: resume is called in a new one when
	// Next has something to say, which is to be called then before another Rest.
	// False: call Next now. After true the caller must not touch the connection's
	// reading side any more.
	Rest(resume func(context.Context)) bool

	// Write sends one message, whole or not at all; after an error the
	// connection is of no use.
	Write(message []byte) error

	// Ping sends a ping, unless a message is on its way just now: then that
	// shows the other side that we live.
	Ping() error

	// Close ends the connection, with a close frame if it goes out at once. It
	// waits no longer than a moment for the other side. Further calls do nothing.
	Close() error
}

const (
	// readBuffer serves frame headers and control frames at the agent's side;
	// messages are read past it. Idle connections keep it, so it is small.
	readBuffer    = 256
	inputBuffer   = 4096 // at the server's side, where idle connections have none
	writeBuffer   = 4096
	pingPatience  = 500 * time.Millisecond
	closePatience = 100 * time.Millisecond

	// messagePatience bounds the time of one message from its first to its
	// last byte, as the stock server bounds a body; Pace bounds it further.
	messagePatience = 10 * time.Minute

	// deadlineStep is how finely the deadline of a message is kept.
	deadlineStep = time.Second
)

var writeBuffers sync.Pool

// ConnOptions are the limits of a WebSocket.
type ConnOptions struct {
	// MaxMessage bounds a message; zero is 10 MiB.
	MaxMessage int64

	// PingWait is the interval of the server's pings (ws_ping_wait_sec); zero
	// is 60 s.
	PingWait time.Duration

	// Silence ends the connection when nothing comes for so long; zero is 1.1
	// times PingWait.
	Silence time.Duration

	// WriteWait bounds one write; zero is 30 s.
	WriteWait time.Duration

	// Watcher is where the connection may rest; nil: nowhere.
	Watcher *Watcher
}

func (o *ConnOptions) setDefaults() {
	setDefault(&o.MaxMessage, 10<<20)
	setDefault(&o.PingWait, time.Minute)
	setDefault(&o.Silence, o.PingWait+o.PingWait/10)
	setDefault(&o.WriteWait, 30*time.Second)
}

// IsUpgrade reports whether a request asks for a WebSocket.
func IsUpgrade(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// Upgrade turns a request into a WebSocket. The handler must return soon after,
// so that the server's buffers and goroutine go away; the connection then lives
// in a goroutine of the caller's. On an error the answer is written already.
func Upgrade(w http.ResponseWriter, r *http.Request, o ConnOptions) (Conn, error) {
	upgrader := websocket.Upgrader{
		HandshakeTimeout: 10 * time.Second, ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers,
	}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	// The library has read nothing yet. Its connection would keep buffers, and
	// cannot stop between two frames.
	return newServed(ws.NetConn(), o), nil
}

// Rest implements Conn: an agent has few connections, and all are read.
func (s *socket) Rest(func(context.Context)) bool { return false }

// socket is an agent's Conn, on gorilla/websocket.
type socket struct {
	ws       *websocket.Conn
	limit    int64
	silence  time.Duration
	patience time.Duration // of one write
	due      time.Time     // of the open message, zero between two; the reader's own
	closed   atomic.Bool

	writing sync.Mutex // held while one message goes out
}

func newSocket(ws *websocket.Conn, o ConnOptions) *socket {
	o.setDefaults()
	s := &socket{ws: ws, limit: o.MaxMessage, silence: o.Silence, patience: o.WriteWait}
	ws.SetReadLimit(o.MaxMessage)
	ws.SetPongHandler(func(string) error { return s.alive() })
	ws.SetPingHandler(s.pong)
	return s
}

// alive pushes the read deadline; inside of a message only its bytes do that, or
// control frames between its parts would keep it open for ever. It runs in the
// reading goroutine, outside the frame of Next, whose size each idle connection
// keeps.
//
//go:noinline
func (s *socket) alive() error {
	if !s.due.IsZero() {
		return nil
	}
	return s.ws.SetReadDeadline(time.Now().Add(s.silence))
}

// pong answers a ping, unless something is on its way just now: then that shows the
// other side that we live, and who does not read what we write need not ping.
func (s *socket) pong(payload string) error {
	if err := s.alive(); err != nil {
		return err
	}
	if !s.writing.TryLock() {
		return nil
	}
	defer s.writing.Unlock()
	err := s.ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(pingPatience))
	var slow net.Error
	if errors.Is(err, websocket.ErrCloseSent) || errors.As(err, &slow) && slow.Timeout() {
		return nil // reading shows what became of the connection
	}
	return err
}

// Next implements Conn.
func (s *socket) Next() (io.Reader, error) {
	s.due = time.Time{}
	if err := s.alive(); err != nil {
		return nil, s.ended(err)
	}
	_, r, err := s.ws.NextReader()
	if err != nil {
		return nil, s.ended(err)
	}
	return s.message(r), nil
}

//go:noinline
func (s *socket) message(r io.Reader) io.Reader {
	now := time.Now()
	return &message{socket: s, reader: r, pace: NewPace(now), end: now.Add(messagePatience)}
}

// ended tells why reading ended. It stands outside Next as alive does.
//
//go:noinline
func (s *socket) ended(err error) error {
	if errors.Is(err, websocket.ErrReadLimit) {
		return fmt.Errorf("message over %d bytes: %w: %w", s.limit, ErrTooLarge, err)
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}

// message reads one message and keeps the deadline ahead of a slow sender, but
// not forever.
type message struct {
	socket *socket
	reader io.Reader
	pace   Pace
	end    time.Time
}

func (m *message) Read(p []byte) (int, error) {
	if due := earlier(m.pace.Deadline(time.Now()), m.end); due.Sub(m.socket.due).Abs() > deadlineStep {
		if err := m.socket.ws.SetReadDeadline(due); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrClosed, err)
		}
		m.socket.due = due
	}
	n, err := m.reader.Read(p)
	m.pace.Took(n, time.Now())
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, m.socket.ended(err)
}

// Write implements Conn.
func (s *socket) Write(message []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ws.SetWriteDeadline(time.Now().Add(s.patience)); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	if err := s.ws.WriteMessage(websocket.BinaryMessage, message); err != nil {
		return fmt.Errorf("write message: %w: %w", ErrClosed, err)
	}
	return nil
}

// Ping implements Conn.
func (s *socket) Ping() error {
	if !s.writing.TryLock() {
		return nil
	}
	defer s.writing.Unlock()
	if err := s.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingPatience)); err != nil {
		return fmt.Errorf("ping: %w: %w", ErrClosed, err)
	}
	return nil
}

// Close implements Conn.
func (s *socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if !s.farewell() {
		// Whoever does not take that does not take the farewell of TLS either,
		// which would wait for seconds.
		if t, ok := s.ws.NetConn().(*tls.Conn); ok {
			_ = t.NetConn().Close() // closed once more below
		}
	}
	return s.ws.Close()
}

// farewell reports whether a close frame went out.
func (s *socket) farewell() bool {
	if !s.writing.TryLock() {
		return false
	}
	defer s.writing.Unlock()
	frame := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	return s.ws.WriteControl(websocket.CloseMessage, frame, time.Now().Add(closePatience)) == nil
}
