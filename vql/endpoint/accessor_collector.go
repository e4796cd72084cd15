package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	zips "raptorpack/internal/archive"
	"raptorpack/vql"
)

// collectorAccessor opens files in the zip of an offline collector, or of an exported
// flow; the container of the path is the zip. A sealed one is opened by the password
// that the variable ZIP_PASSWORDS has (several by commas), sparse files read as they
// were on the client, holes as zeros.
type collectorAccessor struct{}

const (
	collectorIndexEnding = ".idx"
	maxCollectorIndex    = 64 << 20
	maxCollectorSparse   = 1 << 46 // bytes that a sparse file may claim: 64 TiB
)

// errCollector means that a zip is not as an offline collector makes it.
var errCollector = errors.New("not the zip of an offline collector")

func (collectorAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathZip, text), nil
}

// collectorKey names an open zip in the cache of a session.
type collectorKey struct{ name string }

// collectorZip is an open one, until its session ends.
type collectorZip struct {
	reader *zips.Reader
	names  map[string]string          // by path without escapes of our own: the member
	dirs   map[string]map[string]bool // names in each folder; true: a folder
	closer io.Closer
}

func (a collectorAccessor) zip(ctx context.Context, scope *vql.Scope, path *vql.Path) (*collectorZip, error) {
	if !path.HasDelegate() {
		return nil, fmt.Errorf("open %s: the zip is missing, use pathspec(DelegatePath=...): %w", path, fs.ErrInvalid)
	}
	cached, err := scope.Cache().Get(collectorKey{path.With(nil).String()}, func() (any, error) {
		z, err := openCollector(ctx, scope, path)
		if err != nil {
			return nil, err
		}
		scope.OnRootClose(func() { _ = z.closer.Close() }) // opened for reading only: nothing to lose
		return z, nil
	})
	if err != nil {
		return nil, err
	}
	return cached.(*collectorZip), nil
}

func openCollector(ctx context.Context, scope *vql.Scope, path *vql.Path) (*collectorZip, error) {
	file, err := scope.OpenDelegate(ctx, path)
	if err != nil {
		return nil, err
	}
	at, size, closer, err := randomAccess(ctx, scope, file)
	if err != nil {
		return nil, err
	}
	passwords := strings.Split(scope.LookupString("ZIP_PASSWORDS"), ",")
	for _, password := range passwords {
		var r *zips.Reader
		if r, err = zips.Open(ctx, at, size, strings.TrimSpace(password), zips.Limits{Members: maxZipNodes}); err == nil {
			return newCollectorZip(r, closer), nil
		}
	}
	return nil, errors.Join(fmt.Errorf("read %s: %w", path.DelegatePath(), err), closer.Close())
}

func newCollectorZip(r *zips.Reader, closer io.Closer) *collectorZip {
	z := &collectorZip{reader: r, names: map[string]string{}, dirs: map[string]map[string]bool{"": {}}, closer: closer}
	for _, name := range r.Names() {
		parts := strings.Split(name, "/")
		if len(parts) > maxZipDepth {
			continue
		}
		z.names[name] = name
		for i := range parts {
			dir := strings.Join(parts[:i], "/")
			if z.dirs[dir] == nil {
				z.dirs[dir] = map[string]bool{}
			}
			z.dirs[dir][parts[i]] = z.dirs[dir][parts[i]] || i+1 < len(parts)
		}
	}
	return z
}

func (a collectorAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	z, err := a.zip(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	return z.info(path)
}

func (z *collectorZip) info(path *vql.Path) (vql.FileInfo, error) {
	name := strings.Join(path.Components(), "/")
	i := &plainInfo{name: path.Basename(), path: path, mode: fs.ModeDir | 0o555}
	if _, dir := z.dirs[name]; dir {
		return i, nil
	}
	if _, has := z.names[name]; !has {
		return nil, &fs.PathError{Op: "stat", Path: path.Path(), Err: fs.ErrNotExist}
	}
	i.mode = 0o444
	i.size, _ = z.reader.Size(name)
	if runs, err := z.runs(name); err == nil && runs != nil {
		i.size = runs.size
	}
	return i, nil
}

func (a collectorAccessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	z, err := a.zip(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	children, has := z.dirs[strings.Join(path.Components(), "/")]
	if !has {
		return nil, &fs.PathError{Op: "open", Path: path.Path(), Err: fs.ErrNotExist}
	}
	var out []vql.FileInfo
	for name := range children {
		if err := scope.Charge(ctx); err != nil {
			return nil, err
		}
		info, err := z.info(path.Append(name))
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(x, y vql.FileInfo) int { return strings.Compare(x.Name(), y.Name()) })
	return out, nil
}

func (a collectorAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	z, err := a.zip(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	name := strings.Join(path.Components(), "/")
	if _, has := z.names[name]; !has {
		return nil, &fs.PathError{Op: "open", Path: path.Path(), Err: fs.ErrNotExist}
	}
	runs, err := z.runs(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	size, _ := z.reader.Size(name)
	if runs != nil {
		size = runs.size
	}
	f := &collectorFile{streamFile: streamFile{size: size}}
	f.restart = func() (io.Reader, error) {
		stream, err := z.reader.Open(name)
		if err != nil {
			return nil, err
		}
		if f.current != nil {
			_ = f.current.Close() // reading only; its checksum no longer matters
		}
		if f.current = stream; runs != nil {
			return runs.expand(stream), nil
		}
		return stream, nil
	}
	if f.stream, err = f.restart(); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return f, nil
}

// collectorFile is an open file of such a zip.
type collectorFile struct {
	streamFile
	current io.ReadCloser
	closed  bool
}

// Close implements io.Closer.
func (f *collectorFile) Close() error {
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return f.current.Close()
}

// sparseRuns are the runs of a sparse file, in its order.
type sparseRuns struct {
	runs []sparseRun
	size int64
}

// sparseRun is a run by the names of collectors, or by those of a server.
type sparseRun struct {
	OriginalOffset, FileLength, Length int64

	At     int64 `json:"original_offset"`
	Stored int64 `json:"file_length"`
}

// runs reads the index of a sparse file; nil: it is none.
func (z *collectorZip) runs(name string) (*sparseRuns, error) {
	if _, has := z.names[name+collectorIndexEnding]; !has {
		return nil, nil //nolint:nilnil // as documented
	}
	in, err := z.reader.Open(name + collectorIndexEnding)
	if err != nil {
		return nil, err
	}
	defer in.Close() // only read
	data, err := io.ReadAll(io.LimitReader(in, maxCollectorIndex+1))
	if err != nil || len(data) > maxCollectorIndex {
		return nil, fmt.Errorf("index of %s: %w", name, errors.Join(err, errCollector))
	}
	var index struct {
		Ranges []sparseRun `json:"ranges"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("index of %s: %w: %w", name, errCollector, err)
	}
	stored, _ := z.reader.Size(name)
	out := &sparseRuns{}
	for _, r := range index.Ranges {
		r.At, r.Stored = r.At+r.OriginalOffset, r.Stored+r.FileLength
		bad := r.At < out.size || r.At > maxCollectorSparse || r.Length < 0 || r.Length > maxCollectorSparse || r.Stored < 0 || r.Stored > r.Length || r.Stored > stored
		if bad {
			return nil, fmt.Errorf("index of %s contradicts itself: %w", name, errCollector)
		}
		stored -= r.Stored
		out.size = r.At + r.Length
		out.runs = append(out.runs, r)
	}
	return out, nil
}

// expand reads a sparse file with its holes from its stored bytes.
func (s *sparseRuns) expand(stored io.Reader) io.Reader {
	var parts []io.Reader
	at := int64(0)
	for _, r := range s.runs {
		parts = append(parts, zeroBytes(r.At-at), io.LimitReader(stored, r.Stored), zeroBytes(r.Length-r.Stored))
		at = r.At + r.Length
	}
	return io.MultiReader(parts...)
}

// zeroBytes are so many zero bytes.
func zeroBytes(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

// Read implements io.Reader.
func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
