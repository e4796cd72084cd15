package filestoretest

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"raptorpack/filestore"
)

// ErrCut is what every call on a PowerCut returns after Cut; it is an EIO.
var ErrCut = fmt.Errorf("power was cut: %w", syscall.EIO)

// tearAt is the unit that a disk writes whole.
const tearAt = 512

// PowerCut is an FS in a temporary directory that keeps account of what is
// durable: a file's content as of its last Sync, a directory's names as of its
// last SyncDir. What is not durable may survive a Cut or may not, by the seed:
// each unsynced write whole, torn at 512 bytes or not at all; each unsynced
// change of names by itself, in any combination, except that one rename is one
// change.
//
// What a process leaves behind that is killed while the machine runs on needs
// no Cut: a new Store on the same PowerCut shows it. Safe for concurrent use.
type PowerCut struct {
	base string // directory that holds one subdirectory per generation
	gen  int
	disk *filestore.Dir

	mu      sync.Mutex
	chance  *rand.Rand
	root    *node
	pending []change // changes of names that no SyncDir has covered, oldest first
	cut     bool
}

// node is a file or directory.
type node struct {
	isDir   bool
	live    map[string]*node // names as processes see them
	durable map[string]*node // names as they will be after a cut
	content []byte           // a file's durable content
	writes  []patch          // what came since the last Sync
}

// patch is an unsynced write, or truncation to size off if data is nil.
type patch struct {
	off  int64
	data []byte
}

// change is one step of names: applied whole or not at all.
type change []entry

// entry sets (or, with a nil node, removes) a name of a directory.
type entry struct {
	dir  *node
	name string
	node *node
}

// NewPowerCut returns an empty PowerCut in a temporary directory of the test.
// The same seed and calls give the same losses.
func NewPowerCut(t testing.TB, seed uint64) *PowerCut {
	t.Helper()
	p, err := OpenPowerCut(t.TempDir(), seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

// OpenPowerCut is NewPowerCut in a directory of the caller's, which must be
// empty.
func OpenPowerCut(dir string, seed uint64) (*PowerCut, error) {
	p := &PowerCut{base: dir, chance: rand.New(rand.NewPCG(seed, 0x5eed)), root: newDir()}
	return p, p.begin()
}

func newDir() *node {
	return &node{isDir: true, live: map[string]*node{}, durable: map[string]*node{}}
}

func (p *PowerCut) begin() (err error) {
	dir := filepath.Join(p.base, fmt.Sprintf("gen-%d", p.gen))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	p.disk, err = filestore.OpenOS(dir)
	return err
}

func (p *PowerCut) close() { _ = p.disk.Close() }

// Path returns the directory of the operating system that holds the files as
// processes see them now. Reading there is fine, writing is not noticed.
func (p *PowerCut) Path() string { return filepath.Join(p.base, fmt.Sprintf("gen-%d", p.gen)) }

// Cut cuts the power: every further call on p and its files returns ErrCut.
// The returned PowerCut is what is found at the next start; all of it is
// durable. It goes on with the same chance.
func (p *PowerCut) Cut() (*PowerCut, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return nil, ErrCut
	}
	p.cut = true
	p.close()
	for _, c := range p.pending {
		if p.chance.IntN(2) == 0 {
			c.apply()
		}
	}
	next := &PowerCut{base: p.base, gen: p.gen + 1, chance: p.chance, root: newDir()}
	if err := next.begin(); err != nil {
		return nil, err
	}
	return next, next.fill(p.root, next.root, ".", map[*node]string{}, map[*node]*node{})
}

// MustCut is Cut for tests; the new PowerCut is closed with the test.
func (p *PowerCut) MustCut(t testing.TB) *PowerCut {
	t.Helper()
	next, err := p.Cut()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.close)
	return next
}

// fill makes the durable tree of old real again. paths remembers files that
// were written already, under their first name.
func (p *PowerCut) fill(old, fresh *node, at string, paths map[*node]string, copies map[*node]*node) error {
	for _, name := range sorted(old.durable) {
		was, where := old.durable[name], path.Join(at, name)
		copied, err := p.revive(was, where, paths, copies)
		if err != nil {
			return err
		}
		fresh.live[name], fresh.durable[name] = copied, copied
		if was.isDir {
			if err := p.fill(was, copied, where, paths, copies); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *PowerCut) revive(was *node, where string, paths map[*node]string, copies map[*node]*node) (*node, error) {
	if was.isDir {
		return newDir(), p.disk.Mkdir(where)
	}
	if first, ok := paths[was]; ok {
		return copies[was], p.disk.Link(first, where)
	}
	was.lose(p.chance)
	copied := &node{content: was.content}
	paths[was], copies[was] = where, copied
	f, err := p.disk.Create(where)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(was.content, 0)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return copied, err
}

// lose settles what became of a file's unsynced writes: half of the files lose
// all of them, the others keep some.
func (n *node) lose(chance *rand.Rand) {
	all := chance.IntN(2) == 0
	for _, w := range n.writes {
		if all || chance.IntN(2) == 0 {
			continue
		}
		if blocks := len(w.data) / tearAt; blocks > 0 && chance.IntN(2) == 0 {
			w.data = w.data[:tearAt*chance.IntN(blocks+1)]
			if len(w.data) == 0 {
				continue // nil would truncate
			}
		}
		n.patch(w)
	}
	n.writes = nil
}

func (n *node) patch(w patch) {
	if w.data == nil {
		n.content = resized(n.content, w.off)
		return
	}
	if end := w.off + int64(len(w.data)); end > int64(len(n.content)) {
		n.content = resized(n.content, end)
	}
	copy(n.content[w.off:], w.data)
}

func resized(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

func (c change) apply() {
	for _, e := range c {
		if e.node == nil {
			delete(e.dir.durable, e.name)
		} else {
			e.dir.durable[e.name] = e.node
		}
	}
}

func (c change) touches(dirs map[*node]bool) bool {
	return slices.ContainsFunc(c, func(e entry) bool { return dirs[e.dir] })
}

// do runs a call on the real directory and then, if it succeeded, accounts for it.
func (p *PowerCut) do(call func() error, account func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return ErrCut
	}
	if err := call(); err != nil {
		return err
	}
	account()
	return nil
}

// find returns a node by its live path; the real directory has said that it
// is there.
func (p *PowerCut) find(where string) *node {
	if where == "." {
		return p.root
	}
	if parent := p.find(path.Dir(where)); parent != nil {
		return parent.live[path.Base(where)]
	}
	return nil
}

// names notes a step of names that happened.
func (p *PowerCut) names(steps ...entry) {
	for _, e := range steps {
		if e.node == nil {
			delete(e.dir.live, e.name)
		} else {
			e.dir.live[e.name] = e.node
		}
	}
	p.pending = append(p.pending, steps)
}

func (p *PowerCut) at(where string, n *node) entry {
	return entry{p.find(path.Dir(where)), path.Base(where), n}
}

// Open implements filestore.FS.
func (p *PowerCut) Open(where string) (filestore.File, error) { return p.open(where, p.disk.Open) }

// OpenWrite implements filestore.FS.
func (p *PowerCut) OpenWrite(where string) (filestore.File, error) {
	return p.open(where, p.disk.OpenWrite)
}

func (p *PowerCut) open(where string, open func(string) (filestore.File, error)) (filestore.File, error) {
	f := &cutFile{fs: p}
	err := p.do(
		func() (err error) { f.File, err = open(where); return err },
		func() { f.node = p.find(where) })
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Create implements filestore.FS.
func (p *PowerCut) Create(where string) (filestore.File, error) {
	f := &cutFile{fs: p, node: &node{}}
	err := p.do(
		func() (err error) { f.File, err = p.disk.Create(where); return err },
		func() { p.names(p.at(where, f.node)) })
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Mkdir implements filestore.FS.
func (p *PowerCut) Mkdir(where string) error {
	return p.do(func() error { return p.disk.Mkdir(where) }, func() { p.names(p.at(where, newDir())) })
}

// Link implements filestore.FS.
func (p *PowerCut) Link(oldpath, newpath string) error {
	return p.do(
		func() error { return p.disk.Link(oldpath, newpath) },
		func() { p.names(p.at(newpath, p.find(oldpath))) })
}

// Rename implements filestore.FS.
func (p *PowerCut) Rename(oldpath, newpath string) error {
	return p.do(func() error { return p.disk.Rename(oldpath, newpath) }, func() {
		moved := p.find(oldpath)
		if p.find(newpath) == moved {
			return // rename(2): two names of one file both stay
		}
		p.names(p.at(oldpath, nil), p.at(newpath, moved))
	})
}

// Remove implements filestore.FS.
func (p *PowerCut) Remove(where string) error {
	return p.do(func() error { return p.disk.Remove(where) }, func() { p.names(p.at(where, nil)) })
}

// ReadDir implements filestore.FS.
func (p *PowerCut) ReadDir(where string) (entries []fs.DirEntry, err error) {
	err = p.do(func() (err error) { entries, err = p.disk.ReadDir(where); return err }, func() {})
	return entries, err
}

// Stat implements filestore.FS.
func (p *PowerCut) Stat(where string) (info fs.FileInfo, err error) {
	err = p.do(func() (err error) { info, err = p.disk.Stat(where); return err }, func() {})
	return info, err
}

// SyncDir implements filestore.FS. A change that touches two directories is
// made durable by either, with all that came before it there.
func (p *PowerCut) SyncDir(where string) error {
	return p.do(func() error { _, err := p.disk.ReadDir(where); return err }, func() {
		covered := make([]bool, len(p.pending))
		dirs := map[*node]bool{p.find(where): true}
		for i, c := range slices.Backward(p.pending) {
			if c.touches(dirs) {
				covered[i] = true
				for _, e := range c {
					dirs[e.dir] = true
				}
			}
		}
		var rest []change
		for i, c := range p.pending {
			if covered[i] {
				c.apply()
			} else {
				rest = append(rest, c)
			}
		}
		p.pending = rest
	})
}

// Usage is that of the disk below.
func (p *PowerCut) Usage() (filestore.Usage, error) {
	disk, ok := any(p.disk).(interface {
		Usage() (filestore.Usage, error)
	})
	if !ok {
		return filestore.Usage{}, nil
	}
	return disk.Usage()
}

// cutFile is an open file of a PowerCut.
type cutFile struct {
	filestore.File
	fs   *PowerCut
	node *node
}

func (f *cutFile) ReadAt(data []byte, off int64) (n int, err error) {
	err = f.fs.do(func() (err error) { n, err = f.File.ReadAt(data, off); return err }, func() {})
	return n, err
}

func (f *cutFile) WriteAt(data []byte, off int64) (n int, err error) {
	err = f.fs.do(
		func() (err error) { n, err = f.File.WriteAt(data, off); return err },
		func() {
			if len(data) > 0 {
				f.node.writes = append(f.node.writes, patch{off, slices.Clone(data)})
			}
		})
	return n, err
}

func (f *cutFile) Truncate(size int64) error {
	return f.fs.do(
		func() error { return f.File.Truncate(size) },
		func() { f.node.writes = append(f.node.writes, patch{off: size}) })
}

func (f *cutFile) Sync() error {
	// The disk below need not sync: no test pulls the real plug.
	return f.fs.do(func() error { _, err := f.File.Stat(); return err }, func() {
		for _, w := range f.node.writes {
			f.node.patch(w)
		}
		f.node.writes = nil
	})
}

func (f *cutFile) Stat() (info fs.FileInfo, err error) {
	err = f.fs.do(func() (err error) { info, err = f.File.Stat(); return err }, func() {})
	return info, err
}

// Close closes the real file even after a cut.
func (f *cutFile) Close() error {
	err := f.File.Close()
	if cut := f.fs.do(func() error { return nil }, func() {}); cut != nil {
		return cut
	}
	return err
}

func sorted(names map[string]*node) []string {
	list := make([]string, 0, len(names))
	for name := range names {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}
