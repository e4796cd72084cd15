package flows

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
)

const (
	// maxInflated bounds one compressed part of a packet, in plain bytes.
	maxInflated = 64 << 20

	// maxPacketInflated bounds all of a packet's parts together.
	maxPacketInflated = 128 << 20

	// deflateRatio is more than deflate can reach (RFC 1951: 1032 to 1).
	deflateRatio = 1100
)

// errInflate means that compressed bytes are damaged, or not as long as said.
var errInflate = errors.New("compressed bytes are not what they claim")

var inflaters = sync.Pool{}

// inflate gives the plain bytes of zlib data whose length the client declares.
// Memory is only taken for what the data can hold.
func (p *packet) inflate(data []byte, declared uint64, limit int64) ([]byte, error) {
	if declared == 0 || declared > uint64(limit) || declared > uint64(len(data))*deflateRatio {
		return nil, fmt.Errorf("%d bytes said to be %d: %w", len(data), declared, errInflate)
	}
	if p.inflated += int64(declared); p.inflated > maxPacketInflated {
		return nil, fmt.Errorf("packet beyond %d bytes: %w", maxPacketInflated, errInflate)
	}
	z, err := inflater(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInflate, err)
	}
	defer inflaters.Put(z)
	out := make([]byte, declared)
	if _, err := io.ReadFull(z, out); err != nil {
		return nil, fmt.Errorf("%w: %w", errInflate, err)
	}
	// One read more: the end has to be there, with the right checksum.
	if n, err := z.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, fmt.Errorf("longer than %d bytes: %w", declared, errInflate)
	}
	return out, nil
}

func inflater(data []byte) (io.ReadCloser, error) {
	in := bytes.NewReader(data)
	z, ok := inflaters.Get().(io.ReadCloser)
	if !ok {
		return zlib.NewReader(in)
	}
	if err := z.(zlib.Resetter).Reset(in, nil); err != nil {
		inflaters.Put(z)
		return nil, err
	}
	return z, nil
}
