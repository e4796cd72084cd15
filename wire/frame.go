package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// Frame is a server's message over a WebSocket: an emulated HTTP answer
// (protocol section 3.4).
type Frame struct {
	Code int    // emulated HTTP status; always set, a client takes 0 as an error
	Err  string // text for people
	Data []byte // emulated body
}

// Append writes the frame as JSON: {"code":200,"err":"...","data":"..."}.
func (f Frame) Append(dst []byte) []byte {
	dst = fmt.Appendf(dst, `{"code":%d`, f.Code)
	if f.Err != "" {
		text, err := json.Marshal(f.Err)
		if err != nil {
			panic(err) // a string always marshals
		}
		dst = append(append(dst, `,"err":`...), text...)
	}
	if len(f.Data) > 0 {
		dst = append(dst, `,"data":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, f.Data)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

// ParseFrame reads a server's message. A missing code is 0. ErrMalformed
// otherwise.
func ParseFrame(message []byte) (Frame, error) {
	var raw struct {
		Code int    `json:"code"`
		Err  string `json:"err"`
		Data []byte `json:"data"`
	}
	if err := json.Unmarshal(message, &raw); err != nil {
		return Frame{}, fmt.Errorf("server frame of %d bytes: %w", len(message), ErrMalformed)
	}
	return Frame(raw), nil
}
