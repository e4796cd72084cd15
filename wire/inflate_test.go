package wire_test

import (
	"bytes"
	"errors"
	"testing"

	"raptorpack/wire"
)

// A stream that is too long must cost no more memory than one that is not: it is
// measured before room is taken for it.
func TestOverlongStreamsTakeNoRoom(t *testing.T) {
	const limit = 40 << 20
	for name, c := range map[string]struct {
		stream   []byte
		want     error
		reserved int64 // at most
	}{
		"too long": {wire.Deflate(make([]byte, limit+1)), wire.ErrTooLarge, 10 << 20},
		"fits":     {wire.Deflate(bytes.Repeat([]byte("0123456789abcdef"), limit/16)), nil, limit + 10<<20},
		"cut":      {cut(wire.Deflate(make([]byte, limit)), 3), wire.ErrMalformed, 10 << 20},
		"followed": {append(wire.Deflate(make([]byte, limit)), 'x'), wire.ErrMalformed, limit + 10<<20},
	} {
		var reserved int64
		plain, err := wire.Inflate(c.stream, limit, func(n int64) error { reserved += n; return nil })
		if !errors.Is(err, c.want) || reserved > c.reserved {
			t.Errorf("%s: %v, %d bytes reserved", name, err, reserved)
		}
		if c.want == nil && (len(plain) != limit || plain[limit-1] != 'f') {
			t.Errorf("%s: %d bytes", name, len(plain))
		}
	}
	if _, err := wire.Inflate(wire.Deflate(make([]byte, 20<<20)), limit, func(n int64) error {
		if n > 16<<20 {
			return wire.ErrBusy
		}
		return nil
	}); !errors.Is(err, wire.ErrBusy) {
		t.Errorf("no room: %v", err)
	}
}

func cut(b []byte, n int) []byte { return b[:len(b)-n] }
