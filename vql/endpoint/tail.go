package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"raptorpack/vql"
)

const (
	// maxTailBacklog bounds the lines, in bytes, that a slow query has not taken.
	// Nothing more is read meanwhile, so no line is lost.
	maxTailBacklog = 4 << 20
	// tailBuffer is what one read takes from a file.
	tailBuffer = 256 << 10
)

// tails are the files that the queries of a session watch.
type tails struct {
	mu   sync.Mutex
	open map[tailKey]*tail
}

type (
	tailsKey struct{}
	tailKey  struct{ accessor, path string }
)

func tailsOf(scope *vql.Scope) (*tails, error) {
	v, err := scope.Cache().Get(tailsKey{}, func() (any, error) {
		return &tails{open: map[tailKey]*tail{}}, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*tails), nil
}

// tail is a file that is watched for one query or several: it is read once, by
// whichever of them has its turn, and each takes the lines at its own pace. turn
// guards what belongs to reading, mu the lines; mu is never held while reading.
type tail struct {
	key   tailKey
	path  *vql.Path
	limit int

	turn    chan struct{} // one place: full while somebody reads; others wait
	file    vql.ReadSeekCloser
	id      fileID // zero when the platform does not tell
	offset  int64
	partial []byte // of the last line
	atEnd   bool   // begin at the end

	mu      sync.Mutex
	lines   []string
	first   int // the number of lines[0]
	bytes   int
	readers map[*tailReader]bool
}

// tailReader is one query's place in a tail.
type tailReader struct {
	*tail
	owner *tails
	next  int // the number of the next line; guarded by tail.mu
}

// follow begins to watch a file, at its end or its start. The caller closes the
// reader. limit is the longest line in bytes; the first query on a file sets it.
func (t *tails) follow(accessor string, path *vql.Path, atEnd bool, limit int) *tailReader {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := tailKey{accessor, path.String()}
	f := t.open[key]
	if f == nil {
		f = &tail{key: key, path: path, limit: limit, atEnd: atEnd, turn: make(chan struct{}, 1), readers: map[*tailReader]bool{}}
		t.open[key] = f
	}
	r := &tailReader{tail: f, owner: t}
	f.mu.Lock()
	defer f.mu.Unlock()
	r.next = f.first + len(f.lines)
	f.readers[r] = true
	return r
}

// close ends the watch; the last reader of a file closes it.
func (r *tailReader) close() {
	if r.leave() {
		r.closeFile() // nobody reads it: reading is up to readers
	}
}

// leave reports whether this was the last reader; the next one begins anew.
func (r *tailReader) leave() (last bool) {
	r.owner.mu.Lock()
	defer r.owner.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.readers, r)
	if len(r.readers) > 0 {
		return false
	}
	delete(r.owner.open, r.key)
	return true
}

func (f *tail) closeFile() {
	if f.file != nil {
		_ = f.file.Close() // opened for reading only: nothing to lose
		f.file = nil
	}
}

// take returns the lines that this reader has not had, and forgets those that all
// readers have had.
func (r *tailReader) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := append([]string(nil), r.lines[r.next-r.first:]...)
	r.next = r.first + len(r.lines)
	oldest := r.next
	for other := range r.readers {
		oldest = min(oldest, other.next)
	}
	for _, line := range r.lines[:oldest-r.first] {
		r.bytes -= len(line)
	}
	r.lines = append([]string(nil), r.lines[oldest-r.first:]...)
	r.first = oldest
	return out
}

// refresh reads what is new, up to one buffer, and reports whether there may be
// more.
func (f *tail) refresh(ctx context.Context, scope *vql.Scope) (more bool, err error) {
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-f.turn }()
	f.mu.Lock()
	full := f.bytes >= maxTailBacklog
	f.mu.Unlock()
	if full {
		return false, nil
	}
	lines, more, err := f.read(ctx, scope)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range lines {
		f.lines = append(f.lines, line)
		f.bytes += len(line)
	}
	return more, err
}

// read reads on; at the end of the file it looks whether the name means another
// file by now.
func (f *tail) read(ctx context.Context, scope *vql.Scope) (lines []string, more bool, err error) {
	if f.file == nil {
		if err := f.openFile(ctx, scope); err != nil {
			return nil, false, err
		}
	}
	if size := sizeOf(f.file); size >= 0 && size < f.offset {
		scope.Log(vql.LevelInfo, "watch_syslog: %s was cut short; it is read from its start", shown(f.path))
		f.offset, f.partial = 0, nil
	}
	if _, err := f.file.Seek(f.offset, io.SeekStart); err != nil {
		f.closeFile()
		return nil, false, err
	}
	buf := make([]byte, tailBuffer)
	n, err := f.file.Read(buf)
	f.offset += int64(n)
	if n > 0 {
		if err := scope.Charge(ctx); err != nil {
			return nil, false, emitError{err}
		}
		return f.split(buf[:n]), true, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		f.closeFile()
		return nil, false, err
	}
	return f.rotate(ctx, scope)
}

// openFile opens the file anew.
func (f *tail) openFile(ctx context.Context, scope *vql.Scope) error {
	a, path, err := resolve(scope, f.key.accessor, f.path)
	if err != nil {
		return err
	}
	id := namedFile(a, path)
	file, err := a.Open(ctx, scope, path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			f.atEnd, f.offset, f.partial = false, 0, nil // when it comes it is new
		}
		return err
	}
	if f.atEnd {
		if f.offset, err = lastLine(file, f.limit); err != nil {
			_ = file.Close() // opened for reading only: nothing to lose
			return err
		}
		f.atEnd = false
	}
	f.file, f.id = file, id
	return nil
}

// lastLine finds where a line begins that has no end yet: the end of the file, or
// a little before. A line that is longer than limit is not gone back to.
func lastLine(file vql.ReadSeekCloser, limit int) (int64, error) {
	size := sizeOf(file)
	if size < 0 {
		return 0, errNoSize
	}
	from := max(size-int64(limit), 0)
	if _, err := file.Seek(from, io.SeekStart); err != nil {
		return 0, err
	}
	end := make([]byte, size-from)
	n, err := io.ReadFull(file, end)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, err
	}
	if i := bytes.LastIndexByte(end[:n], '\n'); i >= 0 || from == 0 {
		return from + int64(i) + 1, nil
	}
	return size, nil
}

// namedFile tells which file a name means; zero is not known.
func namedFile(a vql.Accessor, path *vql.Path) fileID {
	namer, ok := a.(vql.OSPather)
	if !ok {
		return fileID{}
	}
	name, ok := namer.OSPath(path)
	if !ok {
		return fileID{}
	}
	facts, err := followFacts(name)
	if err != nil || facts.inode == 0 {
		return fileID{}
	}
	return fileID{facts.device, facts.inode}
}

// rotate goes on with the file that the name means now. What the old one ended in
// is its last line.
func (f *tail) rotate(ctx context.Context, scope *vql.Scope) (lines []string, more bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	a, path, err := resolve(scope, f.key.accessor, f.path)
	if err != nil {
		return nil, false, err
	}
	now := namedFile(a, path)
	if f.id == (fileID{}) {
		f.closeFile() // what an open file shows may not be what the name means
		return nil, false, nil
	}
	if now == f.id {
		return nil, false, nil
	}
	if len(f.partial) > 0 {
		lines = append(lines, string(f.partial))
	}
	f.closeFile()
	f.offset, f.partial = 0, nil
	return lines, now != (fileID{}), nil
}

// split takes whole lines; the rest waits for its end, unless it is too long.
func (f *tail) split(data []byte) (lines []string) {
	data = append(f.partial, data...)
	for {
		i := bytes.IndexByte(data[:min(len(data), f.limit+1)], '\n')
		switch {
		case i >= 0:
			lines = append(lines, string(bytes.TrimSuffix(data[:i], []byte("\r"))))
			data = data[i+1:]
		case len(data) > f.limit:
			lines = append(lines, string(data[:f.limit]))
			data = data[f.limit:]
		default:
			f.partial = append([]byte(nil), data...)
			return lines
		}
	}
}

var errTooManyTails = fmt.Errorf("more than %d files are not watched", maxTails)
