package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// The frames of RFC 6455, section 5.2, as a server meets them: what comes is masked,
// what goes is not.
const (
	opContinuation = 0x0
	opText         = websocket.TextMessage
	opBinary       = websocket.BinaryMessage
	opClose        = websocket.CloseMessage
	opPing         = websocket.PingMessage
	opPong         = websocket.PongMessage

	finalBit    = 0x80
	maskBit     = 0x80
	maxControl  = 125 // bytes of a control frame's payload
	maxHeadSize = 10  // of a frame of ours: no mask
)

// frameError is a frame that RFC 6455 does not allow; the text is told to its sender.
type frameError string

func (e frameError) Error() string { return "websocket: " + string(e) }

// frameHead is what stands before a frame's payload.
type frameHead struct {
	op    int
	final bool
	size  int64
	mask  [4]byte
}

func (h *frameHead) control() bool { return h.op >= opClose }

// readHead reads the head of one frame; inside says that a message has begun.
func readHead(r *bufio.Reader, inside bool) (frameHead, error) {
	p, err := take(r, 2)
	if err != nil {
		return frameHead{}, err
	}
	h := frameHead{op: int(p[0] & 0xf), final: p[0]&finalBit != 0, size: int64(p[1] & 0x7f)}
	if wrong := h.faults(p[0], p[1], inside); len(wrong) > 0 {
		return h, frameError(strings.Join(wrong, ", "))
	}
	switch h.size {
	case 126:
		if p, err = take(r, 2); err == nil {
			h.size = int64(binary.BigEndian.Uint16(p))
		}
	case 127:
		if p, err = take(r, 8); err == nil {
			h.size = int64(binary.BigEndian.Uint64(p))
		}
	}
	if err != nil {
		return h, err
	}
	if h.size < 0 {
		return h, ErrTooLarge
	}
	if p, err = take(r, len(h.mask)); err == nil {
		copy(h.mask[:], p)
	}
	return h, err
}

// take reads the next n bytes, which are good until the next read.
func take(r *bufio.Reader, n int) ([]byte, error) {
	p, err := r.Peek(n)
	if err != nil {
		return nil, err
	}
	_, err = r.Discard(n)
	return p, err
}

// faults lists what is wrong with the first two bytes of a frame.
func (h *frameHead) faults(first, second byte, inside bool) []string {
	var wrong []string
	for n, bit := range []byte{0x40, 0x20, 0x10} {
		if first&bit != 0 {
			wrong = append(wrong, fmt.Sprintf("RSV%d set", n+1))
		}
	}
	switch h.op {
	case opClose, opPing, opPong:
		if h.size > maxControl {
			wrong = append(wrong, "len > 125 for control")
		}
		if !h.final {
			wrong = append(wrong, "FIN not set on control")
		}
	case opText, opBinary:
		if inside {
			wrong = append(wrong, "data before FIN")
		}
	case opContinuation:
		if !inside {
			wrong = append(wrong, "continuation after FIN")
		}
	default:
		wrong = append(wrong, fmt.Sprintf("bad opcode %d", h.op))
	}
	if second&maskBit == 0 {
		wrong = append(wrong, "bad MASK")
	}
	return wrong
}

// unmask undoes the mask of a payload of which at bytes were read before.
func unmask(mask [4]byte, at int64, p []byte) {
	var turned [4]byte
	for i := range turned {
		turned[i] = mask[(at+int64(i))&3]
	}
	word := uint64(binary.LittleEndian.Uint32(turned[:]))
	word |= word << 32
	n := 0
	for ; n+8 <= len(p); n += 8 {
		binary.LittleEndian.PutUint64(p[n:], binary.LittleEndian.Uint64(p[n:])^word)
	}
	for ; n < len(p); n++ {
		p[n] ^= turned[n&3]
	}
}

// appendHead appends the head of a frame of ours.
func appendHead(b []byte, op, size int) []byte {
	b = append(b, finalBit|byte(op))
	switch {
	case size <= maxControl:
		return append(b, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(size))
}

// parseClose reads the payload of a close frame.
func parseClose(payload []byte) (code int, text string, err error) {
	if len(payload) < 2 {
		return websocket.CloseNoStatusReceived, "", nil
	}
	code, text = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
	if !mayClose(code) {
		return code, text, frameError(fmt.Sprintf("bad close code %d", code))
	}
	if !utf8.ValidString(text) {
		return code, text, frameError("invalid utf8 payload in close frame")
	}
	return code, text, nil
}

// mayClose reports whether a close frame may carry a code: RFC 6455, sections 7.4.1
// and 7.4.2, and the registry of IANA that it founded.
func mayClose(code int) bool {
	switch code {
	case websocket.CloseNoStatusReceived, websocket.CloseAbnormalClosure, 1004:
		return false
	}
	return code >= websocket.CloseNormalClosure && code <= websocket.CloseTryAgainLater || code >= 3000 && code <= 4999
}
