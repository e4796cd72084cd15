package filestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/flate"

	"raptorpack/internal/freelist"
)

// Scan is what a walk over a segment's members found.
type Scan struct {
	Valid int64 // length of the valid prefix
	Size  int64 // bytes looked at: the file's, or its sealed length
	Torn  bool  // the file ends within a member, as after a crash or in mid-write
	Bad   bool  // the first invalid member is complete, or is none: bytes changed
}

// readerAt is what a walk reads from: a file, or bytes in a test.
type readerAt interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
}

// scanWindow is how many bytes a walk reads at once. It holds any header.
const scanWindow = 1 << 20

// scanner walks over the members of a segment and checks each as it goes.
type scanner struct {
	src  readerAt
	size int64  // never reads beyond
	buf  []byte // bytes of the file from bufAt on
	at   int64  // place of buf in the file
	pool []byte
}

var scanBuffers = freelist.New(func() *[]byte { b := make([]byte, scanWindow); return &b })

// scanSegment calls found for each valid member of src between from, where a
// member must begin, and size. It stops at the first that does not hold. The
// error is a failure to read or found's; damage is told in Scan only.
func scanSegment(ctx context.Context, src readerAt, from, size int64, found func(Member) error) (Scan, error) {
	buf := scanBuffers.Get()
	s := scanner{src: src, size: size, at: from, pool: *buf}
	result, err := s.walk(ctx, Scan{Valid: from, Size: size}, found)
	if !errors.Is(err, ErrAbandoned) { // else a late read may still fill it
		scanBuffers.Put(buf)
	}
	return result, err
}

func (s *scanner) walk(ctx context.Context, result Scan, found func(Member) error) (Scan, error) {
	for result.Valid < result.Size {
		m, err := s.member(ctx, result.Valid)
		switch {
		case errors.Is(err, errMore):
			result.Torn = true
			return result, nil
		case errors.Is(err, ErrDamaged):
			result.Bad = true
			return result, nil
		case err != nil:
			return result, err
		}
		if err := found(m); err != nil {
			return result, err
		}
		result.Valid += m.Length
	}
	return result, nil
}

// member checks the member at off. errMore means that the file ends within it.
func (s *scanner) member(ctx context.Context, off int64) (Member, error) {
	const first = gzipFixed + maxXLEN
	window, err := s.window(ctx, off, first)
	if err != nil {
		return Member{}, err
	}
	h, err := parseHeader(window)
	if err != nil {
		return Member{}, err
	}
	m := h.member
	m.Offset = off
	if off+m.Length > s.size {
		return Member{}, errMore
	}
	crc := uint32(0)
	for at := int64(m.head); at < m.Length; {
		window, err := s.window(ctx, off+at, min(m.Length-at, scanWindow))
		if err != nil {
			return Member{}, err
		}
		window = window[:min(int64(len(window)), m.Length-at)]
		if len(window) == 0 {
			return Member{}, errMore
		}
		crc = crc32.Update(crc, castagnoli, window)
		at += int64(len(window))
	}
	if crc != h.bodyCRC {
		return Member{}, errIndex
	}
	return m, nil
}

// window returns the file's bytes from off on: at least want of them, unless
// the file ends before. It may return more.
func (s *scanner) window(ctx context.Context, off, want int64) ([]byte, error) {
	want = min(want, s.size-off)
	skip := off - s.at
	if skip >= 0 && skip+want <= int64(len(s.buf)) {
		return s.buf[skip:], nil
	}
	n, err := s.src.ReadAt(ctx, s.pool[:min(scanWindow, s.size-off)], off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	s.buf, s.at = s.pool[:n], off
	return s.buf, nil
}

// inflater gives a member's plain bytes back.
type inflater struct {
	stored []byte
	src    bytes.Reader
	flate  io.ReadCloser
}

var inflaters = freelist.New(func() *inflater { return &inflater{flate: flate.NewReader(nil)} })

// readMember reads and inflates one member that a scan has found. The result
// is the caller's.
func readMember(ctx context.Context, src readerAt, m Member) ([]byte, error) {
	return readMemberTo(ctx, src, m, nil)
}

// readMemberTo is readMember into a buffer that the caller gives away, or a larger
// one.
func readMemberTo(ctx context.Context, src readerAt, m Member, buffer []byte) ([]byte, error) {
	f := inflaters.Get()
	defer f.free()
	if int64(cap(f.stored)) < m.Length {
		f.stored = make([]byte, m.Length)
	}
	f.stored = f.stored[:m.Length]
	n, err := src.ReadAt(ctx, f.stored, m.Offset)
	if err != nil && (!errors.Is(err, io.EOF) || int64(n) < m.Length) {
		if errors.Is(err, ErrAbandoned) {
			f.stored = nil // the call may still fill it
		}
		return nil, fmt.Errorf("read member at %d: %w", m.Offset, err)
	}
	plain, err := f.inflate(m, buffer)
	if err != nil {
		return nil, fmt.Errorf("member at %d: %w: %w", m.Offset, ErrDamaged, err)
	}
	return plain, nil
}

func (f *inflater) free() {
	if cap(f.stored) > maxPooledPack {
		f.stored = nil
	}
	f.src.Reset(nil)
	inflaters.Put(f)
}

var (
	errLength = errors.New("plain length differs")
	errCRC    = errors.New("checksum differs")
)

func (f *inflater) inflate(m Member, buffer []byte) ([]byte, error) {
	body := f.stored[m.head : m.Length-gzipTrailer]
	trailer := f.stored[m.Length-gzipTrailer:]
	f.src.Reset(body)
	if err := f.flate.(flate.Resetter).Reset(&f.src, nil); err != nil {
		return nil, err
	}
	plain := slices.Grow(buffer[:0], int(m.Plain))[:m.Plain]
	if _, err := io.ReadFull(f.flate, plain); err != nil {
		return nil, err
	}
	var one [1]byte
	if n, err := f.flate.Read(one[:]); n != 0 || err != io.EOF || f.src.Len() != 0 {
		return nil, errLength
	}
	if uint32(m.Plain) != binary.LittleEndian.Uint32(trailer[4:]) {
		return nil, errLength
	}
	if crc32.ChecksumIEEE(plain) != binary.LittleEndian.Uint32(trailer) {
		return nil, errCRC
	}
	return plain, nil
}

// cutExtent returns the plain bytes of an extent of a member, checked.
func cutExtent(plain []byte, e Extent) ([]byte, error) {
	if e.Offset < 0 || e.Offset+e.Length > int64(len(plain)) {
		return nil, fmt.Errorf("extent at %d: %w", e.Offset, ErrDamaged)
	}
	lines := plain[e.Offset : e.Offset+e.Length]
	if crc32.Checksum(lines, castagnoli) != e.CRC {
		return nil, fmt.Errorf("extent at %d: %w: %w", e.Offset, ErrDamaged, errCRC)
	}
	if int64(bytes.Count(lines, []byte{'\n'})) != e.Rows || lines[len(lines)-1] != '\n' {
		return nil, fmt.Errorf("extent at %d: %w: row count differs", e.Offset, ErrDamaged)
	}
	return lines, nil
}
