package endpoint

import (
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"raptorpack/vql"
)

// container opens what an accessor with delegates stands on: the path's container,
// or the path itself as a file when it names none.
func container(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	if path.HasDelegate() {
		return scope.OpenDelegate(ctx, path)
	}
	a, err := scope.Accessor("auto")
	if err != nil {
		return nil, err
	}
	return a.Open(ctx, scope, path)
}

// streamAccessor shows the decompressed content of a file.
type streamAccessor struct {
	open func(io.Reader) (io.Reader, error)
}

func gunzip(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
func bunzip(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }

func (a streamAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(hostSyntax(), text), nil
}

// Lstat gives the facts of the compressed file: how long the content is would
// take reading all of it.
func (a streamAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	accessor, inner := vql.Accessor(fileAccessor{}), path
	if path.HasDelegate() {
		var err error
		if accessor, inner, err = scope.Delegate(path); err != nil {
			return nil, err
		}
	}
	info, err := accessor.Lstat(ctx, scope, inner)
	if err != nil {
		return nil, err
	}
	return &plainInfo{name: info.Name(), path: path, size: -1, mode: info.Mode(), mtime: info.Mtime()}, nil
}

func (a streamAccessor) ReadDir(_ context.Context, _ *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	return nil, &fs.PathError{Op: "list", Path: path.String(), Err: fs.ErrInvalid}
}

func (a streamAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	file, err := container(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	s := &streamFile{size: -1, closer: file}
	s.restart = func() (io.Reader, error) {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return a.open(file)
	}
	if s.stream, err = s.restart(); err != nil {
		_ = file.Close() // opened for reading only: nothing to lose
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

// errNoSize means that the end of a compressed stream is not known.
var errNoSize = errors.New("the size is not known before the end is read")

// maxReread bounds what going back in a stream reads again, in bytes: a parser that
// jumps in a compressed file would otherwise read it for ever.
const maxReread = 16 << 30

var errReread = fmt.Errorf("going back in a compressed file has read %d bytes again; copy it first", int64(maxReread))

// streamFile makes a stream look like a file: going forward reads on, going back
// starts again.
type streamFile struct {
	again   int64 // bytes that were read again
	restart func() (io.Reader, error)
	closer  io.Closer
	stream  io.Reader
	at      int64 // where the stream stands
	want    int64 // where the next Read begins
	size    int64 // -1 when not known
}

func (s *streamFile) Read(p []byte) (int, error) {
	if s.want < s.at {
		if s.again += s.want; s.again > maxReread {
			return 0, errReread
		}
		stream, err := s.restart()
		if err != nil {
			return 0, err
		}
		s.stream, s.at = stream, 0
	}
	if s.want > s.at {
		n, err := io.CopyN(io.Discard, s.stream, s.want-s.at)
		s.at += n
		if err != nil {
			return 0, err
		}
	}
	n, err := s.stream.Read(p)
	s.at += int64(n)
	s.want = s.at
	return n, err
}

func (s *streamFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.want
	case io.SeekEnd:
		if s.size < 0 {
			return 0, errNoSize
		}
		offset += s.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	s.want = offset
	return offset, nil
}

func (s *streamFile) Close() error { return s.closer.Close() }

// offsetAccessor shows a container from a byte on; the path is the number.
type offsetAccessor struct{}

func (offsetAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathGeneric, text), nil
}

func (a offsetAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	return lstatByOpening(ctx, scope, a, path)
}

func (offsetAccessor) ReadDir(_ context.Context, _ *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	return nil, &fs.PathError{Op: "list", Path: path.String(), Err: fs.ErrInvalid}
}

func (offsetAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	from, err := strconv.ParseInt(path.Basename(), 0, 64)
	if err != nil || from < 0 || !path.HasDelegate() {
		return nil, fmt.Errorf("open %s: a number and a container are needed: %w", path, fs.ErrInvalid)
	}
	file, err := scope.OpenDelegate(ctx, path)
	if err != nil {
		return nil, err
	}
	shifted := &shiftedFile{file: file, from: from}
	if _, err := shifted.Seek(0, io.SeekStart); err != nil {
		_ = file.Close() // opened for reading only: nothing to lose
		return nil, err
	}
	return shifted, nil
}

type shiftedFile struct {
	file vql.ReadSeekCloser
	from int64
}

func (f *shiftedFile) Read(p []byte) (int, error) { return f.file.Read(p) }
func (f *shiftedFile) Close() error               { return f.file.Close() }

func (f *shiftedFile) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart {
		offset += f.from
	}
	n, err := f.file.Seek(offset, whence)
	return max(n-f.from, 0), err
}

// lstatByOpening gives the facts of a name that only opening it tells.
func lstatByOpening(ctx context.Context, scope *vql.Scope, a vql.Accessor, path *vql.Path) (vql.FileInfo, error) {
	file, err := a.Open(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return &plainInfo{name: path.Basename(), path: path, size: sizeOf(file), mode: 0o444}, nil
}

// sparseAccessor shows only some ranges of a container; the path is their JSON
// list, as [{"Offset": 4096, "Length": 512}].
type sparseAccessor struct{}

func (sparseAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathOpaque, text), nil
}

func (a sparseAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	return lstatByOpening(ctx, scope, a, path)
}

func (sparseAccessor) ReadDir(_ context.Context, _ *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	return nil, &fs.PathError{Op: "list", Path: path.String(), Err: fs.ErrInvalid}
}

func (sparseAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	var list []struct{ Offset, Length int64 }
	text := strings.TrimPrefix(path.Path(), "/") // which pathspec() puts in front
	if err := json.Unmarshal([]byte(text), &list); err != nil || !path.HasDelegate() {
		return nil, fmt.Errorf("a list of ranges and a container are needed: %w", errors.Join(err, fs.ErrInvalid))
	}
	var ranges []vql.Range
	at := int64(0)
	for _, r := range list {
		if r.Offset < at || r.Length < 0 || r.Offset+r.Length < r.Offset {
			return nil, fmt.Errorf("range at %d is out of order: %w", r.Offset, fs.ErrInvalid)
		}
		if r.Offset > at {
			ranges = append(ranges, vql.Range{Offset: at, Length: r.Offset - at, Sparse: true})
		}
		ranges = append(ranges, vql.Range{Offset: r.Offset, Length: r.Length})
		at = r.Offset + r.Length
	}
	file, err := scope.OpenDelegate(ctx, path)
	if err != nil {
		return nil, err
	}
	return &rangedFile{ranges: ranges, closer: file, readAt: func(p []byte, offset int64) (int, error) {
		if _, err := file.Seek(offset, io.SeekStart); err != nil {
			return 0, err
		}
		return file.Read(p)
	}}, nil
}

// rangedFile is a file with holes, which read as zeros.
type rangedFile struct {
	ranges []vql.Range // in order, without gaps
	readAt func(p []byte, offset int64) (int, error)
	closer io.Closer // may be nil
	at     int64
	hint   int // the range that at was in last
}

// Ranges implements vql.Ranger.
func (f *rangedFile) Ranges() []vql.Range { return f.ranges }

func (f *rangedFile) end() int64 {
	if len(f.ranges) == 0 {
		return 0
	}
	last := f.ranges[len(f.ranges)-1]
	return last.Offset + last.Length
}

func (f *rangedFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if f.hint >= len(f.ranges) || f.ranges[f.hint].Offset > f.at {
		f.hint = 0
	}
	for ; f.hint < len(f.ranges); f.hint++ {
		r := f.ranges[f.hint]
		if f.at >= r.Offset+r.Length {
			continue
		}
		p = p[:min(int64(len(p)), r.Offset+r.Length-f.at)]
		n := len(p)
		if r.Sparse {
			clear(p)
		} else {
			var err error
			if n, err = f.readAt(p, f.at); n == 0 {
				return 0, err
			}
		}
		f.at += int64(n)
		return n, nil
	}
	return 0, io.EOF
}

func (f *rangedFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.end()
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	f.at = offset
	return offset, nil
}

func (f *rangedFile) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// randomAccess makes a file readable at any place by several readers at once. What
// cannot do that itself, as a member of an archive, is copied to a temporary file.
func randomAccess(ctx context.Context, scope *vql.Scope, file vql.ReadSeekCloser) (io.ReaderAt, int64, io.Closer, error) {
	if at, ok := file.(io.ReaderAt); ok {
		if size := sizeOf(file); size >= 0 {
			return at, size, file, nil
		}
	}
	defer file.Close()
	copied, err := os.CreateTemp(scope.Session().Limits.TempDir, "raptorpack-*")
	if err != nil {
		return nil, 0, nil, err
	}
	closer := temporary{copied}
	if _, err = file.Seek(0, io.SeekStart); err == nil {
		err = copyAll(ctx, scope, &bounded{to: copied, left: maxUnpacked}, file)
	}
	if err != nil {
		return nil, 0, nil, errors.Join(err, closer.Close())
	}
	info, err := copied.Stat()
	if err != nil {
		return nil, 0, nil, errors.Join(err, closer.Close())
	}
	return copied, info.Size(), closer, nil
}

// maxUnpacked bounds what is unpacked to a temporary file, in bytes: a few
// megabytes can unpack to anything.
const maxUnpacked = 8 << 30

var errUnpacked = fmt.Errorf("it unpacks to more than %d bytes", int64(maxUnpacked))

// bounded is a writer that has room for so many bytes.
type bounded struct {
	to   io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errUnpacked
	}
	return b.to.Write(p)
}

// temporary removes its file when it is closed.
type temporary struct{ *os.File }

func (t temporary) Close() error { return errors.Join(t.File.Close(), os.Remove(t.Name())) }

// copyAll copies until the end of r, charging an op for each buffer.
func copyAll(ctx context.Context, scope *vql.Scope, w io.Writer, r io.Reader) error {
	buf := make([]byte, bufferSize)
	for {
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := scope.Charge(ctx); err != nil {
			return err
		}
	}
}
