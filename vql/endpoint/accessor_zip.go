package endpoint

import (
	"archive/zip"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"raptorpack/vql"
)

// errEncrypted means that a member of an archive needs a password.
var errEncrypted = errors.New("the member is encrypted, which is not supported")

// defaultZipCache is how many archives a session keeps open unless the variable
// ZIP_FILE_CACHE_SIZE says otherwise.
const defaultZipCache = 10

// zipAccessor opens members of zip archives; the container is the archive.
type zipAccessor struct{}

func (zipAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathZip, text), nil
}

func (zipAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	a, err := openArchive(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	defer a.release()
	node, err := a.find(path)
	if err != nil {
		return nil, err
	}
	return node.info(path), nil
}

func (zipAccessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	a, err := openArchive(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	defer a.release()
	node, err := a.find(path)
	if err != nil {
		return nil, err
	}
	var out []vql.FileInfo
	for name, child := range node.children {
		out = append(out, child.info(path.Append(name)))
	}
	slices.SortFunc(out, func(a, b vql.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	return out, nil
}

func (zipAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	a, err := openArchive(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	file, err := a.open(path)
	if err != nil {
		a.release()
		return nil, err
	}
	return file, nil
}

// zipNode is a name in an archive: a member, or a folder that some member's name
// goes through.
type zipNode struct {
	member   *zip.File
	children map[string]*zipNode
}

func (n *zipNode) info(path *vql.Path) vql.FileInfo {
	i := &plainInfo{name: path.Basename(), path: path, mode: fs.ModeDir | 0o555}
	if n.member == nil {
		return i
	}
	i.mtime = n.member.Modified.UTC()
	if n.children != nil {
		return i
	}
	i.mode, i.size = n.member.Mode(), int64(n.member.UncompressedSize64)
	i.extra = vql.NewDict()
	i.extra.Set("CompressedSize", int64(n.member.CompressedSize64))
	i.extra.Set("Method", int64(n.member.Method))
	return i
}

// archive is an open zip file.
type archive struct {
	root   *zipNode
	closer io.Closer
	room   int // for further nodes, while the directory is read

	mu      sync.Mutex
	users   int
	evicted bool
}

func (a *archive) find(path *vql.Path) (*zipNode, error) {
	node := a.root
	for _, c := range path.Components() {
		if node = node.children[c]; node == nil {
			return nil, &fs.PathError{Op: "open", Path: path.Path(), Err: fs.ErrNotExist}
		}
	}
	return node, nil
}

func (a *archive) open(path *vql.Path) (vql.ReadSeekCloser, error) {
	node, err := a.find(path)
	if err != nil {
		return nil, err
	}
	if node.member == nil || node.children != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Path(), Err: ErrNotRegular}
	}
	if node.member.Flags&1 != 0 {
		return nil, &fs.PathError{Op: "open", Path: path.Path(), Err: errEncrypted}
	}
	m := &memberFile{archive: a, streamFile: streamFile{size: int64(node.member.UncompressedSize64)}}
	m.restart = func() (io.Reader, error) {
		stream, err := node.member.Open()
		if err != nil {
			return nil, err
		}
		if m.current != nil {
			_ = m.current.Close() // reading only; its checksum no longer matters
		}
		m.current = stream
		return stream, nil
	}
	if m.stream, err = m.restart(); err != nil {
		return nil, fmt.Errorf("open %s: %w", path.Path(), err)
	}
	return m, nil
}

// memberFile is an open member; it keeps its archive open.
type memberFile struct {
	streamFile
	archive *archive
	current io.ReadCloser
	closed  bool
}

func (m *memberFile) Close() error {
	if m.closed {
		return fs.ErrClosed
	}
	m.closed = true
	err := m.current.Close()
	m.archive.release()
	return err
}

func (a *archive) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.evicted {
		return false
	}
	a.users++
	return true
}

func (a *archive) release() {
	a.mu.Lock()
	a.users--
	last := a.evicted && a.users == 0
	a.mu.Unlock()
	if last {
		_ = a.closer.Close() // opened for reading only: nothing to lose
	}
}

// evict closes the archive, at once or when its last user is done.
func (a *archive) evict() {
	a.mu.Lock()
	idle := !a.evicted && a.users == 0
	a.evicted = true
	a.mu.Unlock()
	if idle {
		_ = a.closer.Close() // opened for reading only: nothing to lose
	}
}

// archives are those that a session keeps open, the latest used last.
type archives struct {
	mu   sync.Mutex
	keys []string
	open map[string]*archive
}

type archivesKey struct{}

// openArchive returns the archive that path lies in, from the session's cache if
// it is there. The caller releases it.
func openArchive(ctx context.Context, scope *vql.Scope, path *vql.Path) (*archive, error) {
	cached, err := scope.Cache().Get(archivesKey{}, func() (any, error) {
		all := &archives{open: map[string]*archive{}}
		scope.OnRootClose(all.closeAll)
		return all, nil
	})
	if err != nil {
		return nil, err
	}
	all := cached.(*archives)
	key := path.With(nil).String()
	if a := all.get(key); a != nil {
		return a, nil
	}
	a, err := readArchive(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	a.users = 1
	for _, old := range all.put(key, a, int(scope.LookupInt("ZIP_FILE_CACHE_SIZE", defaultZipCache))) {
		old.evict()
	}
	return a, nil
}

func (all *archives) get(key string) *archive {
	all.mu.Lock()
	defer all.mu.Unlock()
	a := all.open[key]
	if a == nil || !a.take() {
		return nil
	}
	all.keys = append(slices.DeleteFunc(all.keys, func(k string) bool { return k == key }), key)
	return a
}

// put keeps an archive and returns those that have to go.
func (all *archives) put(key string, a *archive, limit int) []*archive {
	all.mu.Lock()
	defer all.mu.Unlock()
	var old []*archive
	if before := all.open[key]; before != nil { // two opened it at the same time
		old = append(old, before)
		all.keys = slices.DeleteFunc(all.keys, func(k string) bool { return k == key })
	}
	all.open[key] = a
	all.keys = append(all.keys, key)
	for len(all.keys) > max(limit, 1) {
		old = append(old, all.open[all.keys[0]])
		delete(all.open, all.keys[0])
		all.keys = all.keys[1:]
	}
	return old
}

func (all *archives) closeAll() {
	all.mu.Lock()
	open := all.open
	all.open, all.keys = map[string]*archive{}, nil
	all.mu.Unlock()
	for _, a := range open {
		a.evict()
	}
}

// readArchive reads the directory of an archive.
func readArchive(ctx context.Context, scope *vql.Scope, path *vql.Path) (*archive, error) {
	if !path.HasDelegate() {
		return nil, fmt.Errorf("open %s: the archive is missing, use pathspec(DelegatePath=...): %w", path, fs.ErrInvalid)
	}
	file, err := scope.OpenDelegate(ctx, path)
	if err != nil {
		return nil, err
	}
	at, size, closer, err := randomAccess(ctx, scope, file)
	if err != nil {
		return nil, err
	}
	r, err := zip.NewReader(at, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		_ = closer.Close() // opened for reading only: nothing to lose
		return nil, fmt.Errorf("read archive %s: %w", path.DelegatePath(), err)
	}
	a := &archive{root: &zipNode{children: map[string]*zipNode{}}, closer: closer, room: maxZipNodes}
	left := 0
	for n, member := range r.File {
		if n%1000 == 999 {
			if err := scope.Charge(ctx); err != nil {
				_ = closer.Close() // opened for reading only: nothing to lose
				return nil, err
			}
		}
		if !a.add(member) {
			left++
		}
	}
	if left > 0 {
		scope.Log(vql.LevelWarn, "zip: %s: %d members are left out: their names are too deep, or too many", path.DelegatePath(), left)
	}
	return a, nil
}

// An archive of a few megabytes can name folders enough to fill the memory.
const (
	maxZipDepth = 256     // folders in each other
	maxZipNodes = 1 << 20 // files and folders
)

// add puts a member into the tree, or returns false where there is no room. Names
// are only names here, nothing is written by them, so ".." is merely resolved. Of
// two members of one name the first stays.
func (a *archive) add(member *zip.File) bool {
	components := vql.PathZip.Split(member.Name)
	if len(components) > maxZipDepth {
		return false
	}
	node := a.root
	for _, c := range components {
		if node.children == nil {
			node.children = map[string]*zipNode{}
		}
		next := node.children[c]
		if next == nil {
			if a.room == 0 {
				return false
			}
			a.room--
			next = &zipNode{}
			node.children[c] = next
		}
		node = next
	}
	if node.member == nil {
		node.member = member
	}
	if strings.HasSuffix(member.Name, "/") && node.children == nil {
		node.children = map[string]*zipNode{}
	}
	return true
}
