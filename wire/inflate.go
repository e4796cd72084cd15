package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"

	"raptorpack/internal/freelist"
	"raptorpack/internal/inflate"
)

// Reserve asks for room for that many more bytes of memory and may wait a little
// for it: an error (ErrBusy) says that there is none now. A nil Reserve grants
// everything.
type Reserve func(bytes int64) error

const (
	firstRead    = 4 << 10 // memory is taken in steps that double, from here
	firstInflate = 64 << 10
	lastStep     = 8 << 20

	// heldInflate is how much of a stream is inflated into memory before anybody
	// has looked how long it gets. Agents keep their elements far below.
	heldInflate = 8 << 20
)

// Inflate returns the plain bytes of a zlib stream (RFC 1950) of which at most
// limit bytes come out: ErrTooLarge beyond, ErrMalformed when the stream is
// damaged, cut or followed by anything. Memory grows as bytes come out, and
// each step is reserved first.
func Inflate(stream []byte, limit int64, reserve Reserve) ([]byte, error) {
	z, err := inflate.NewReader(stream)
	if err != nil {
		return nil, fmt.Errorf("zlib header: %w", ErrMalformed)
	}
	defer z.Close()
	plain, err := readWithin(z, min(limit, heldInflate), min(int64(len(stream))*4, firstInflate), reserve)
	if errors.Is(err, ErrTooLarge) && limit > heldInflate {
		plain, err = inflateLarge(z, limit, reserve)
	}
	switch {
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrBusy):
		return nil, fmt.Errorf("inflate: %w", err)
	case err != nil:
		return nil, fmt.Errorf("zlib stream: %w", ErrMalformed)
	case z.Behind() != 0:
		return nil, fmt.Errorf("%d bytes behind the zlib stream: %w", z.Behind(), ErrMalformed)
	}
	return plain, nil
}

// inflateLarge inflates twice: first to see how long it gets, so that what goes
// beyond the limit costs no memory, and what does not is never copied.
func inflateLarge(z *inflate.Reader, limit int64, reserve Reserve) ([]byte, error) {
	if err := z.Rewind(); err != nil {
		return nil, err
	}
	size, err := io.Copy(io.Discard, io.LimitReader(z, limit+1))
	switch {
	case err != nil:
		return nil, err
	case size > limit:
		return nil, fmt.Errorf("more than %d bytes: %w", limit, ErrTooLarge)
	}
	if err := z.Rewind(); err != nil {
		return nil, err
	}
	plain, err := grow(nil, size, reserve)
	if err != nil {
		return nil, err
	}
	plain = plain[:size]
	if _, err := io.ReadFull(z, plain); err != nil {
		return nil, err
	}
	// One read more: the end has to be there, with the right checksum.
	if n, err := z.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, ErrMalformed
	}
	return plain, nil
}

// ReadWithin reads all of r, at most limit bytes: ErrTooLarge beyond. Memory
// grows as bytes arrive, so that a header which promises much costs nothing;
// each step is reserved first.
func ReadWithin(r io.Reader, limit int64, reserve Reserve) ([]byte, error) {
	return readWithin(r, limit, firstRead, reserve)
}

func readWithin(r io.Reader, limit, step int64, reserve Reserve) ([]byte, error) {
	step = max(min(step, limit), 512)
	buffer, err := grow(nil, step, reserve)
	if err != nil {
		return nil, err
	}
	for {
		n, err := r.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		if int64(len(buffer)) > limit {
			return nil, fmt.Errorf("more than %d bytes: %w", limit, ErrTooLarge)
		}
		switch {
		case err == io.EOF:
			return buffer, nil
		case err != nil:
			return nil, err
		}
		if len(buffer) == cap(buffer) {
			more := min(int64(cap(buffer)), lastStep, limit-int64(len(buffer))+1)
			if buffer, err = grow(buffer, more, reserve); err != nil {
				return nil, err
			}
		}
	}
}

func grow(buffer []byte, by int64, reserve Reserve) ([]byte, error) {
	if reserve != nil {
		if err := reserve(by); err != nil {
			return nil, fmt.Errorf("room for %d more bytes: %w", by, err)
		}
	}
	larger := make([]byte, len(buffer), int64(cap(buffer))+by)
	copy(larger, buffer)
	return larger, nil
}

var deflaters = freelist.New(func() *zlib.Writer {
	z, err := zlib.NewWriterLevel(io.Discard, zlib.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return z
})

// Deflate returns plain as a zlib stream at the fastest level, as the stock
// client sends it (protocol section 4.6).
func Deflate(plain []byte) []byte {
	var out bytes.Buffer
	z := deflaters.Get()
	z.Reset(&out)
	z.Write(plain) // a bytes.Buffer takes everything
	z.Close()      // as above
	z.Reset(io.Discard)
	deflaters.Put(z)
	return out.Bytes()
}
