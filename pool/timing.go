package pool

import (
	"bytes"
	"sync/atomic"
	"time"
)

// timing measures posts from their first byte to the first byte of the answer, by
// looking at what goes over a connection to the control endpoint. Over TLS nothing
// can be seen, and nothing is counted.
type timing struct {
	at *histogram

	control atomic.Bool  // what was asked for last is the control endpoint
	socket  atomic.Bool  // the answer to a handshake came: frames from now on
	begun   atomic.Int64 // Unix nanoseconds when the post began that waits; 0: none
}

// goes looks at bytes that are about to be written.
func (t *timing) goes(b []byte) {
	if t.socket.Load() {
		// Pongs are written in between; they are no posts.
		if t.control.Load() && data(b) {
			t.begun.CompareAndSwap(0, time.Now().UnixNano())
		}
		return
	}
	post := bytes.HasPrefix(b, []byte("POST "))
	if !post && !bytes.HasPrefix(b, []byte("GET ")) {
		return // the rest of a post
	}
	line, _, _ := bytes.Cut(b, []byte("\r\n"))
	control := bytes.Contains(line, []byte("/control"))
	t.control.Store(control)
	if post && control {
		t.begun.Store(time.Now().UnixNano())
	}
}

// came looks at bytes that were read.
func (t *timing) came(b []byte) {
	if !t.control.Load() || len(b) == 0 {
		return
	}
	if bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) {
		t.socket.Store(true)
		return
	}
	begun := t.begun.Load()
	if begun != 0 && (data(b) || !t.socket.Load()) && t.begun.CompareAndSwap(begun, 0) {
		t.at.add(time.Duration(time.Now().UnixNano() - begun))
	}
}

// data reports whether bytes begin with the head of a text or binary frame (RFC
// 6455, 5.2); the highest bit says that the frame is the last of its message.
func data(b []byte) bool {
	return len(b) > 0 && (b[0]&0x7f == 1 || b[0]&0x7f == 2)
}
