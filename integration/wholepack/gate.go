package wholepack

import (
	"errors"
	"io/fs"
	"sync"

	"raptorpack/filestore"
)

// errDead is what a killed node's disk answers.
var errDead = errors.New("the process is dead")

// gate is one life of a node before the disk. When it is shut nothing passes any
// more; what was passing has passed.
type gate struct {
	below filestore.FS

	mu   sync.RWMutex // held for reading by what passes
	dead bool

	answers chan struct{} // closed: calls of the dead return; until then they hang
	free    func()        // closes answers
}

func newGate(below filestore.FS) *gate {
	g := &gate{below: below, answers: make(chan struct{})}
	g.free = sync.OnceFunc(func() { close(g.answers) })
	return g
}

// shut returns when nothing passes any more.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dead = true
}

func (g *gate) pass(call func() error) error {
	g.mu.RLock()
	if !g.dead {
		defer g.mu.RUnlock()
		return call()
	}
	g.mu.RUnlock()
	<-g.answers
	return errDead
}

func (g *gate) open(path string, open func(string) (filestore.File, error)) (filestore.File, error) {
	file := &gateFile{gate: g}
	if err := g.pass(func() (err error) { file.below, err = open(path); return err }); err != nil {
		return nil, err
	}
	return file, nil
}

// Open implements filestore.FS.
func (g *gate) Open(path string) (filestore.File, error) { return g.open(path, g.below.Open) }

// Create implements filestore.FS.
func (g *gate) Create(path string) (filestore.File, error) { return g.open(path, g.below.Create) }

// OpenWrite implements filestore.FS.
func (g *gate) OpenWrite(path string) (filestore.File, error) {
	return g.open(path, g.below.OpenWrite)
}

// Mkdir implements filestore.FS.
func (g *gate) Mkdir(path string) error {
	return g.pass(func() error { return g.below.Mkdir(path) })
}

// Link implements filestore.FS.
func (g *gate) Link(oldpath, newpath string) error {
	return g.pass(func() error { return g.below.Link(oldpath, newpath) })
}

// Rename implements filestore.FS.
func (g *gate) Rename(oldpath, newpath string) error {
	return g.pass(func() error { return g.below.Rename(oldpath, newpath) })
}

// Remove implements filestore.FS.
func (g *gate) Remove(path string) error {
	return g.pass(func() error { return g.below.Remove(path) })
}

// ReadDir implements filestore.FS.
func (g *gate) ReadDir(path string) (entries []fs.DirEntry, err error) {
	err = g.pass(func() (err error) { entries, err = g.below.ReadDir(path); return err })
	return entries, err
}

// Stat implements filestore.FS.
func (g *gate) Stat(path string) (info fs.FileInfo, err error) {
	err = g.pass(func() (err error) { info, err = g.below.Stat(path); return err })
	return info, err
}

// SyncDir implements filestore.FS.
func (g *gate) SyncDir(path string) error {
	return g.pass(func() error { return g.below.SyncDir(path) })
}

// Usage is that of the disk below.
func (g *gate) Usage() (usage filestore.Usage, err error) {
	err = g.pass(func() (err error) { usage, err = usageOf(g.below); return err })
	return usage, err
}

// gateFile is an open file behind a gate.
type gateFile struct {
	gate  *gate
	below filestore.File
}

func (f *gateFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.gate.pass(func() (err error) { n, err = f.below.ReadAt(p, off); return err })
	return n, err
}

func (f *gateFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.gate.pass(func() (err error) { n, err = f.below.WriteAt(p, off); return err })
	return n, err
}

func (f *gateFile) Sync() error { return f.gate.pass(f.below.Sync) }

func (f *gateFile) Truncate(size int64) error {
	return f.gate.pass(func() error { return f.below.Truncate(size) })
}

func (f *gateFile) Stat() (info fs.FileInfo, err error) {
	err = f.gate.pass(func() (err error) { info, err = f.below.Stat(); return err })
	return info, err
}

// Close closes the file below also for the dead: it is this process that has it open.
func (f *gateFile) Close() error { return f.below.Close() }
