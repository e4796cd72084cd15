package vql

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
)

// spillFile is a temporary file of length-prefixed records. It is removed from
// its folder at once where the system allows it, and closed with the session or
// when nothing refers to it any more.
type spillFile struct {
	session *session

	mu     sync.Mutex
	file   *os.File
	remove string // path to remove on close, where it could not be removed at once
	buffer *bufio.Writer
	size   int64 // written, with what is in buffer
}

func (s *session) newSpill() (*spillFile, error) {
	file, err := os.CreateTemp(s.options.Limits.TempDir, "raptorpack-spill-*")
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	f := &spillFile{session: s, file: file, buffer: bufio.NewWriterSize(file, 64<<10)}
	if err := os.Remove(file.Name()); err != nil {
		f.remove = file.Name()
	}
	handle, name := file, f.remove
	runtime.AddCleanup(f, func(struct{}) { discard(handle, name) }, struct{}{})
	return f, nil
}

// discard closes and removes a temporary file; errors leave a file that the
// system's own cleaning of its temporary folder takes.
func discard(file *os.File, name string) {
	_ = file.Close()
	if name != "" {
		_ = os.Remove(name)
	}
}

func (f *spillFile) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	discard(f.file, f.remove)
}

// append writes a record and returns its offset.
func (f *spillFile) append(record []byte) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	offset := f.size
	var head [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(head[:], uint64(len(record)))
	if _, err := f.buffer.Write(head[:n]); err != nil {
		return 0, fmt.Errorf("write temporary file: %w", err)
	}
	if _, err := f.buffer.Write(record); err != nil {
		return 0, fmt.Errorf("write temporary file: %w", err)
	}
	f.size += int64(n + len(record))
	f.session.spilled.Add(uint64(n + len(record)))
	return offset, nil
}

func (f *spillFile) flush() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.buffer.Flush(); err != nil {
		return fmt.Errorf("write temporary file: %w", err)
	}
	return nil
}

// section reads the records from one offset to another, in order; flush first.
func (f *spillFile) section(from, to int64) *spillReader {
	in := io.NewSectionReader(f.file, from, to-from)
	return &spillReader{owner: f, in: bufio.NewReaderSize(in, 32<<10), left: to - from}
}

// at reads the record at an offset; flush first.
func (f *spillFile) at(offset int64) ([]byte, error) {
	var head [binary.MaxVarintLen64]byte
	got, err := f.file.ReadAt(head[:], offset)
	n, used := binary.Uvarint(head[:got])
	if used <= 0 {
		return nil, fmt.Errorf("read temporary file: %w", cmp.Or(err, errCodec))
	}
	if n > uint64(f.size) {
		return nil, errCodec
	}
	record := make([]byte, n)
	if _, err := f.file.ReadAt(record, offset+int64(used)); err != nil {
		return nil, fmt.Errorf("read temporary file: %w", err)
	}
	return record, nil
}

// spillReader reads records in order.
type spillReader struct {
	owner *spillFile // keeps the file open
	in    *bufio.Reader
	left  int64
}

// next returns the next record, or io.EOF.
func (r *spillReader) next() ([]byte, error) {
	if r.left <= 0 {
		return nil, io.EOF
	}
	n, err := binary.ReadUvarint(r.in)
	if err != nil {
		return nil, fmt.Errorf("read temporary file: %w", err)
	}
	if n > uint64(r.left) {
		return nil, errCodec
	}
	record := make([]byte, n)
	if _, err := io.ReadFull(r.in, record); err != nil {
		return nil, fmt.Errorf("read temporary file: %w", err)
	}
	r.left -= int64(n) + int64(uvarintSize(n))
	return record, nil
}

func uvarintSize(n uint64) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], n)
}
