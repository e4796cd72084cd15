package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// served is a server's Conn. It holds buffers only while bytes are on their way, and
// where there is a Watcher a goroutine neither: thousands of them wait at a time.
type served struct {
	conn     net.Conn
	limit    int64
	silence  time.Duration
	patience time.Duration // of one write
	place    place
	closed   atomic.Bool

	// The reader's own.
	in    *bufio.Reader // nil at rest
	open  *incoming     // the message that is being read; nil between two
	due   time.Time     // of that message
	wrong error         // why nothing can be read any more

	writing sync.Mutex // held while one message goes out
	deaf    error      // why nothing can be written any more; guarded by writing
}

// inputs and outputs are the buffers of connections on which bytes are on their way.
var (
	inputs  = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, inputBuffer) }}
	outputs = sync.Pool{New: func() any { return new([writeBuffer]byte) }}
)

func newServed(conn net.Conn, o ConnOptions) *served {
	o.setDefaults()
	s := &served{conn: conn, limit: o.MaxMessage, silence: o.Silence, patience: o.WriteWait}
	s.place.of(o.Watcher, conn)
	return s
}

func (s *served) input() *bufio.Reader {
	if s.in == nil {
		s.in = inputs.Get().(*bufio.Reader) //nolint:forcetypeassert // the pool's own
		s.in.Reset(s.conn)
	}
	return s.in
}

// empty gives the buffer away if nothing is in it.
func (s *served) empty() bool {
	if s.in == nil {
		return true
	}
	if s.in.Buffered() > 0 {
		return false
	}
	s.in.Reset(nil)
	inputs.Put(s.in)
	s.in = nil
	return true
}

// alive pushes the read deadline; inside of a message only its bytes do that, or
// control frames between its parts would keep it open for ever.
func (s *served) alive() error {
	if s.open != nil {
		return nil
	}
	return s.conn.SetReadDeadline(time.Now().Add(s.silence))
}

// Next implements Conn.
func (s *served) Next() (io.Reader, error) {
	if s.wrong != nil {
		return nil, s.wrong
	}
	if s.open != nil {
		if _, err := io.Copy(io.Discard, s.open); err != nil { // what its reader left
			return nil, err
		}
	}
	if s.place.expired.Load() {
		return nil, s.ended(os.ErrDeadlineExceeded)
	}
	if err := s.alive(); err != nil {
		return nil, s.ended(err)
	}
	for {
		head, err := s.head(false)
		switch {
		case err != nil:
			return nil, s.ended(err)
		case !head.control():
			now := time.Now()
			s.due = time.Time{}
			s.open = &incoming{served: s, frame: head, size: head.size, pace: NewPace(now), end: now.Add(messagePatience)}
			if err := s.open.fits(); err != nil {
				return nil, s.ended(err)
			}
			return s.open, nil
		case s.place.watcher != nil:
			return nil, nil //nolint:nilnil // as promised: the connection may rest now
		}
	}
}

// head reads the head of the next frame, and the whole frame if it controls the
// connection.
func (s *served) head(inside bool) (frameHead, error) {
	head, err := readHead(s.input(), inside)
	var fault frameError
	if errors.As(err, &fault) {
		s.object(websocket.CloseProtocolError, string(fault))
	}
	if err == nil && head.control() {
		err = s.control(&head)
	}
	return head, err
}

// control does what a control frame asks for; its end of the connection is an error.
func (s *served) control(head *frameHead) error {
	var buffer [maxControl]byte
	payload := buffer[:head.size]
	if _, err := io.ReadFull(s.in, payload); err != nil {
		return err
	}
	unmask(head.mask, 0, payload)
	switch head.op {
	case opPing:
		return s.pong(payload)
	case opPong:
		return s.alive()
	}
	code, text, err := parseClose(payload)
	var fault frameError
	if errors.As(err, &fault) {
		s.object(websocket.CloseProtocolError, string(fault))
		return err
	}
	s.object(code, "")
	return &websocket.CloseError{Code: code, Text: text}
}

// object sends a close frame if nothing is on its way just now. Whoever does not
// take it has gone, or sees the connection end.
func (s *served) object(code int, text string) {
	frame := websocket.FormatCloseMessage(code, text)
	_ = s.tryControl(opClose, frame[:min(len(frame), maxControl)], closePatience)
}

// pong answers a ping, unless something is on its way just now: then that shows the
// other side that we live, and who does not read what we write need not ping.
func (s *served) pong(payload []byte) error {
	if err := s.alive(); err != nil {
		return err
	}
	err := s.tryControl(opPong, payload, pingPatience)
	var slow net.Error
	if errors.Is(err, errBusyWriting) || errors.Is(err, websocket.ErrCloseSent) || errors.As(err, &slow) && slow.Timeout() {
		return nil // reading shows what became of the connection
	}
	return err
}

// ended keeps why reading ended.
func (s *served) ended(err error) error {
	if errors.Is(err, ErrTooLarge) {
		s.wrong = fmt.Errorf("message over %d bytes: %w", s.limit, err)
	} else {
		s.wrong = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return s.wrong
}

// incoming reads one message and keeps the deadline ahead of a slow sender, but not
// forever.
type incoming struct {
	*served
	frame frameHead // that is being read
	at    int64     // of its payload
	size  int64     // of the message, as far as heads of frames told
	pace  Pace
	end   time.Time
}

// Read implements io.Reader.
func (m *incoming) Read(p []byte) (int, error) {
	if m.wrong != nil {
		return 0, m.wrong
	}
	if m.open != m {
		return 0, io.EOF
	}
	if due := earlier(m.pace.Deadline(time.Now()), m.end); due.Sub(m.due).Abs() > deadlineStep {
		if err := m.conn.SetReadDeadline(due); err != nil {
			return 0, m.ended(err)
		}
		m.due = due
	}
	if done, err := m.onward(); done || err != nil {
		return 0, err
	}
	n, err := m.in.Read(p[:min(int64(len(p)), m.frame.size-m.at)])
	unmask(m.frame.mask, m.at, p[:n])
	m.at += int64(n)
	m.pace.Took(n, time.Now())
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = m.ended(err)
	}
	return n, err
}

// onward goes to the frame in which the message goes on, or reports its end.
func (m *incoming) onward() (done bool, err error) {
	for {
		if m.at < m.frame.size {
			return false, nil
		}
		if m.frame.final {
			m.open = nil
			return true, io.EOF
		}
		head, err := m.head(true)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return true, m.ended(err)
		}
		if head.control() {
			continue
		}
		m.frame, m.at, m.size = head, 0, m.size+head.size
		if err := m.fits(); err != nil {
			return true, m.ended(err)
		}
	}
}

// fits holds the message against the limit.
func (m *incoming) fits() error {
	if m.size >= 0 && m.size <= m.limit {
		return nil
	}
	if m.size > 0 { // or its size cannot even be told
		m.object(websocket.CloseMessageTooBig, "")
	}
	return ErrTooLarge
}

// Rest implements Conn.
func (s *served) Rest(resume func(context.Context)) bool {
	if s.place.watcher == nil || s.wrong != nil || s.open != nil || !s.drained() {
		return false
	}
	return s.place.rest(s, resume)
}

// drained reports whether all that came was read, and then holds no buffer. What a
// layer above TCP has read and keeps is asked for with a deadline that is over, so
// that it does not wait for more.
func (s *served) drained() bool {
	if s.place.layered {
		if s.conn.SetReadDeadline(longAgo) != nil {
			return false
		}
		_, err := s.input().Peek(1)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return false // which Next meets again
		}
	}
	return s.empty() && s.conn.SetReadDeadline(time.Time{}) == nil
}

var longAgo = time.Unix(1, 0)

// Write implements Conn.
func (s *served) Write(message []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.frame(opBinary, message, s.patience); err != nil {
		return fmt.Errorf("write message: %w: %w", ErrClosed, err)
	}
	return nil
}

// errBusyWriting means that something is on its way just now.
var errBusyWriting = errors.New("a message is being written")

func (s *served) tryControl(op int, payload []byte, patience time.Duration) error {
	if !s.writing.TryLock() {
		return errBusyWriting
	}
	defer s.writing.Unlock()
	err := s.frame(op, payload, patience)
	if op == opClose && err == nil {
		s.deaf = websocket.ErrCloseSent
	}
	return err
}

// frame sends one frame. The lock is held.
func (s *served) frame(op int, payload []byte, patience time.Duration) error {
	if s.deaf != nil {
		return s.deaf
	}
	if s.deaf = s.conn.SetWriteDeadline(time.Now().Add(patience)); s.deaf != nil {
		return s.deaf
	}
	buffer := outputs.Get().(*[writeBuffer]byte) //nolint:forcetypeassert // the pool's own
	defer outputs.Put(buffer)
	out := appendHead(buffer[:0], op, len(payload))
	first := min(len(payload), len(buffer)-len(out))
	if _, s.deaf = s.conn.Write(append(out, payload[:first]...)); s.deaf == nil && first < len(payload) {
		_, s.deaf = s.conn.Write(payload[first:])
	}
	return s.deaf
}

// Ping implements Conn.
func (s *served) Ping() error {
	if err := s.tryControl(opPing, nil, pingPatience); err != nil && !errors.Is(err, errBusyWriting) {
		return fmt.Errorf("ping: %w: %w", ErrClosed, err)
	}
	return nil
}

// Close implements Conn.
func (s *served) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	farewell := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if s.tryControl(opClose, farewell, closePatience) != nil {
		// Whoever does not take that does not take the farewell of TLS either,
		// which would wait for seconds.
		if t, ok := s.conn.(*tls.Conn); ok {
			_ = t.NetConn().Close() // closed once more below
		}
	}
	err := s.conn.Close()
	s.place.leave()
	return err
}
