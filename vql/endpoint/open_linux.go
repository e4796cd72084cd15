package endpoint

import (
	"errors"
	"io"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
	"raptorpack/vql"
)

// plainFile reads a descriptor that never blocks for want of data: some regular
// files of /proc and tracefs wait for events, and end for us where they would.
type plainFile struct {
	name string

	mu sync.Mutex // guards fd against use after Close
	fd int        // -1 when closed
}

// openNonblock opens a name for reading, without becoming the controlling
// terminal's owner and without waiting for a pipe's writer.
func openNonblock(name string) (vql.ReadSeekCloser, fs.FileMode, error) {
	var fd int
	var err error
	for {
		fd, err = unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_LARGEFILE, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := &plainFile{name: name, fd: fd}
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		_ = f.Close() // opened for reading only: nothing to lose
		return nil, 0, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return f, unixMode(s.Mode), nil
}

func (f *plainFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return 0, fs.ErrClosed
	}
	for {
		n, err := unix.Read(f.fd, p[:min(len(p), 1<<30)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, io.EOF // it would wait for what does not exist yet
		case err != nil:
			return 0, &fs.PathError{Op: "read", Path: f.name, Err: err}
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// ReadAt implements io.ReaderAt.
func (f *plainFile) ReadAt(p []byte, offset int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return 0, fs.ErrClosed
	}
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.fd, p[done:min(len(p), done+1<<30)], offset+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return done, &fs.PathError{Op: "read", Path: f.name, Err: err}
		case n == 0:
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

func (f *plainFile) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return 0, fs.ErrClosed
	}
	n, err := unix.Seek(f.fd, offset, whence)
	if err != nil {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: err}
	}
	return n, nil
}

func (f *plainFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return fs.ErrClosed
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return err
}

// Ranges implements vql.Ranger by asking the file system where data lies. It is
// nil when the file has no holes or the file system does not tell.
func (f *plainFile) Ranges() []vql.Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s unix.Stat_t
	if f.fd < 0 || unix.Fstat(f.fd, &s) != nil || s.Blocks*512 >= s.Size {
		return nil
	}
	at, err := unix.Seek(f.fd, 0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	defer func() { _, _ = unix.Seek(f.fd, at, io.SeekStart) }() // a place it has been at before
	return holes(f.fd, s.Size)
}

// maxRanges bounds the list for files made of crumbs; the last range then covers
// the rest.
const maxRanges = 100_000

func holes(fd int, size int64) []vql.Range {
	var out []vql.Range
	for at := int64(0); at < size && len(out) < maxRanges; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return append(out, vql.Range{Offset: at, Length: size - at, Sparse: true})
		}
		if err != nil {
			return nil
		}
		if data > at {
			out = append(out, vql.Range{Offset: at, Length: min(data, size) - at, Sparse: true})
		}
		end, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return nil
		}
		if end = min(end, size); end <= data { // it shrank while we looked
			return out
		}
		out = append(out, vql.Range{Offset: data, Length: end - data})
		at = end
	}
	if n := len(out); n >= maxRanges && out[n-1].Offset+out[n-1].Length < size {
		from := out[n-1].Offset + out[n-1].Length
		out = append(out, vql.Range{Offset: from, Length: size - from})
	}
	return out
}

// drives has a meaning on Windows only.
func drives() []vql.FileInfo { return nil }
