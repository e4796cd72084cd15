// Package inflate lends decompressors of zlib streams (RFC 1950), each of which
// takes tens of kilobytes and some time to make.
package inflate

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"

	"raptorpack/internal/freelist"
)

// Reader inflates one stream that lies in memory.
type Reader struct {
	stream []byte
	source bytes.Reader
	zlib   io.ReadCloser // nil before the first stream
}

var readers = freelist.New(func() *Reader { return &Reader{} })

// NewReader lends a Reader of a stream; Close gives it back. The error says that
// the stream has no header.
func NewReader(stream []byte) (*Reader, error) {
	r := readers.Get()
	r.stream = stream
	if err := r.Rewind(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Rewind begins with the stream again.
func (r *Reader) Rewind() error {
	r.source.Reset(r.stream)
	var err error
	if r.zlib == nil {
		r.zlib, err = zlib.NewReader(&r.source)
	} else {
		err = r.zlib.(zlib.Resetter).Reset(&r.source, nil)
	}
	if err != nil {
		return fmt.Errorf("zlib header: %w", err)
	}
	return nil
}

// Read implements io.Reader. io.EOF comes only behind an end that is whole.
func (r *Reader) Read(plain []byte) (int, error) { return r.zlib.Read(plain) }

// Behind is how many bytes lie behind the stream once Read has met its end.
func (r *Reader) Behind() int { return r.source.Len() }

// Close gives the Reader back; it must not be used any more.
func (r *Reader) Close() {
	r.stream = nil
	r.source.Reset(nil)
	readers.Put(r)
}
