package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// tape is a connection whose other side has said everything already.
type tape struct {
	net.Conn
	in  bytes.Reader
	out bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error)       { return t.in.Read(p) }
func (t *tape) Write(p []byte) (int, error)      { return t.out.Write(p) }
func (t *tape) SetDeadline(time.Time) error      { return nil }
func (t *tape) SetReadDeadline(time.Time) error  { return nil }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }
func (t *tape) Close() error                     { return nil }

// hijacked gives a tape to whoever upgrades.
type hijacked struct {
	*httptest.ResponseRecorder
	tape *tape
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.tape, bufio.NewReadWriter(bufio.NewReader(h.tape), bufio.NewWriter(h.tape)), nil
}

// heard is what came of a tape: messages, how reading ended, and what was answered.
type heard struct {
	messages [][]byte
	large    bool
	end      websocket.CloseError
	answers  []byte
}

const tapeLimit = 1000

// byLibrary plays a tape to the library that agents use.
func byLibrary(t *testing.T, said []byte) heard {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
		r.Header.Set(name, value)
	}
	one := &tape{}
	ws, err := (&websocket.Upgrader{}).Upgrade(hijacked{httptest.NewRecorder(), one}, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	one.out.Reset() // the handshake
	one.in.Reset(said)
	ws.SetReadLimit(tapeLimit)
	var h heard
	for {
		_, message, err := ws.ReadMessage()
		if err != nil {
			h.large = errors.Is(err, websocket.ErrReadLimit)
			h.closed(err)
			break
		}
		h.messages = append(h.messages, message)
	}
	h.answers = one.out.Bytes()
	return h
}

func (h *heard) closed(err error) {
	var end *websocket.CloseError
	if errors.As(err, &end) && end.Code != websocket.CloseAbnormalClosure { // which is the library's word for the end of the tape
		h.end = *end
	}
}

// byOurs plays it to a server's connection.
func byOurs(said []byte) heard {
	one := &tape{}
	one.in.Reset(said)
	s := newServed(one, ConnOptions{MaxMessage: tapeLimit})
	var h heard
	for {
		r, err := s.Next()
		var message []byte
		if err == nil {
			message, err = io.ReadAll(r)
		}
		if err != nil {
			h.large = errors.Is(err, ErrTooLarge)
			h.closed(err)
			break
		}
		h.messages = append(h.messages, message)
	}
	h.answers = one.out.Bytes()
	return h
}

// masked makes a frame as a client sends it.
func masked(first byte, payload string) string {
	out := []byte{first}
	switch n := len(payload); {
	case n <= maxControl:
		out = append(out, maskBit|byte(n))
	case n < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, maskBit|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, maskBit|127), uint64(n))
	}
	mask := [4]byte{1, 0x80, 3, 0xff}
	out = append(out, mask[:]...)
	data := []byte(payload)
	unmask(mask, 0, data)
	return string(append(out, data...))
}

// Whatever a client sends, our reading of it is that of the library at its other end:
// the same messages, the same end, the same bytes in answer.
func FuzzServed(f *testing.F) {
	long := string(bytes.Repeat([]byte("0123456789"), 90))
	for _, said := range []string{
		"", masked(0x82, "one") + masked(0x81, "two"), masked(0x82, ""), masked(0x02, "in ") + masked(0x00, "three ") + masked(0x80, "parts"),
		masked(0x02, "a") + masked(0x89, "ping") + masked(0x80, "b"), masked(0x8a, "pong") + masked(0x82, long),
		masked(0x82, long+long), masked(0x02, long) + masked(0x80, long), masked(0x88, "\x03\xe8bye"), masked(0x88, ""), masked(0x88, "x"),
		masked(0x88, "\x03\xed"), masked(0x88, "\x03\xec"), masked(0x88, "\x03\xf4x"), masked(0x88, "\x0b\xb8\xff"), masked(0x88, "\x0f\xa0"), masked(0x89, long), masked(0x09, "x"),
		masked(0xc2, "x"), masked(0xf3, "x"), masked(0x80, "x"), masked(0x02, "x") + masked(0x82, "y"), "\x82\x01x", "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00x", masked(0x02, "x") + "\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00x",
		masked(0x82, "whole") + "\x82\x85\x00\x00", masked(0x02, "half"), masked(0x82, "x")[:6], "\x82\xfe\x00",
	} {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		theirs, ours := byLibrary(t, said), byOurs(said)
		if len(theirs.messages) != len(ours.messages) {
			t.Fatalf("%d messages, the library has %d", len(ours.messages), len(theirs.messages))
		}
		for n := range theirs.messages {
			if !bytes.Equal(theirs.messages[n], ours.messages[n]) {
				t.Errorf("message %d: %q, not %q", n, ours.messages[n], theirs.messages[n])
			}
		}
		if theirs.large != ours.large || theirs.end != ours.end {
			t.Errorf("ended by %+v, too large %t; the library by %+v, %t", ours.end, ours.large, theirs.end, theirs.large)
		}
		if !bytes.Equal(theirs.answers, ours.answers) {
			t.Errorf("answered %q, not %q", ours.answers, theirs.answers)
		}
	})
}

// What we send is what the library at the other end reads, whatever its size.
func TestServedWritesFrames(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, writeBuffer - 4, writeBuffer - 3, writeBuffer, 1<<16 - 1, 1 << 16, 1 << 20} {
		one, message := &tape{}, bytes.Repeat([]byte{7}, size)
		s := newServed(one, ConnOptions{})
		if err := s.Write(message); err != nil {
			t.Fatal(err)
		}
		if err := s.Ping(); err != nil {
			t.Fatal(err)
		}
		out := one.out.Bytes()
		want := appendHead(nil, opBinary, size)
		if !bytes.HasPrefix(out, want) || !bytes.Equal(out[len(want):len(out)-2], message) || !bytes.Equal(out[len(out)-2:], []byte{0x89, 0}) {
			t.Errorf("frame of %d bytes: %d bytes, begins with %x", size, len(out), out[:min(len(out), 12)])
		}
	}
}
