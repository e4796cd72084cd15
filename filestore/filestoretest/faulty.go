package filestoretest

import (
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"

	"raptorpack/filestore"
)

// Op names a kind of call on an FS or File.
type Op string

// The calls that faults can be told for.
const (
	Open      Op = "open"
	Create    Op = "create"
	OpenWrite Op = "openwrite"
	Mkdir     Op = "mkdir"
	Link      Op = "link"
	Rename    Op = "rename" // matched by both paths
	Remove    Op = "remove"
	ReadDir   Op = "readdir"
	Stat      Op = "stat"
	SyncDir   Op = "syncdir"
	Read      Op = "read"
	Write     Op = "write"
	Sync      Op = "sync"
	Truncate  Op = "truncate"
	FileStat  Op = "fstat"
	Close     Op = "close"
)

// Always, as Fault.Times, keeps a fault until it is lifted.
const Always = -1

// Fault says which calls go wrong, and how. Without Err, Hang, Delay and Do
// the call only counts.
type Fault struct {
	Op    Op                // "": any
	Path  string            // path.Match pattern of the whole path; "": any
	Match func(string) bool // further condition on the path; nil: none

	Skip  int // let so many matching calls pass first
	Times int // then strike so often; 0: once; Always: until lifted

	Err   error         // what the call returns, such as syscall.EIO
	After bool          // the call is done first: a late answer (Hang, Delay) or a lost one (Err)
	Torn  int           // writes: so many bytes are written, then Err (io.ErrShortWrite if nil); 0: off, -1: none
	Drop  bool          // syncs: all that was written since the last good sync is lost, then Err
	Hang  bool          // wait until Lift, then go on (or return Err)
	Delay time.Duration // wait first; inside synctest only
	Do    func()        // run before the call
}

// Injection is a fault in force.
type Injection struct {
	fault  Fault
	lifted chan struct{} // closed by Lift

	mu      sync.Mutex
	seen    int
	struck  int
	waiting int
	done    bool
}

// Lift ends the fault and lets hanging calls go on. It may be called twice.
func (i *Injection) Lift() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.done {
		i.done = true
		close(i.lifted)
	}
}

// Struck returns how many calls the fault has hit.
func (i *Injection) Struck() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.struck
}

// Hanging returns how many calls hang in it now.
func (i *Injection) Hanging() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.waiting
}

// strikes counts a call and reports whether it is one to hit.
func (i *Injection) strikes(op Op, paths []string) bool {
	if i.fault.Op != "" && i.fault.Op != op || !slices.ContainsFunc(paths, i.matches) {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done {
		return false
	}
	i.seen++
	times := max(i.fault.Times, 1)
	if i.seen <= i.fault.Skip || i.fault.Times != Always && i.struck >= times {
		return false
	}
	i.struck++
	return true
}

func (i *Injection) matches(name string) bool {
	if i.fault.Match != nil && !i.fault.Match(name) {
		return false
	}
	if i.fault.Path == "" {
		return true
	}
	ok, err := path.Match(i.fault.Path, name)
	return ok && err == nil
}

// wait hangs and delays as the fault says.
func (i *Injection) wait() {
	if i.fault.Do != nil {
		i.fault.Do()
	}
	if i.fault.Delay > 0 {
		time.Sleep(i.fault.Delay)
	}
	if !i.fault.Hang {
		return
	}
	i.count(1)
	<-i.lifted
	i.count(-1)
}

func (i *Injection) count(by int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.waiting += by
}

// Faulty is an FS that fails as told. Without faults it is the FS below. Safe
// for concurrent use. Faults are tried in the order of their injection; the
// first that strikes decides.
type Faulty struct {
	fs filestore.FS

	mu     sync.Mutex
	faults []*Injection
	size   *diskSize // nil: no limit
}

// NewFaulty wraps an FS.
func NewFaulty(below filestore.FS) *Faulty { return &Faulty{fs: below} }

// Inject puts a fault in force.
func (f *Faulty) Inject(fault Fault) *Injection {
	i := &Injection{fault: fault, lifted: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, i)
	return i
}

// Clear lifts all faults.
func (f *Faulty) Clear() {
	f.mu.Lock()
	faults := f.faults
	f.faults = nil
	f.mu.Unlock()
	for _, i := range faults {
		i.Lift()
	}
}

func (f *Faulty) strike(op Op, paths ...string) *Injection {
	f.mu.Lock()
	faults := slices.Clone(f.faults)
	f.mu.Unlock()
	for _, i := range faults {
		if i.strikes(op, paths) {
			return i
		}
	}
	return nil
}

// run makes a call under the faults in force.
func (f *Faulty) run(op Op, call func() error, paths ...string) error {
	i := f.strike(op, paths...)
	if i == nil {
		return call()
	}
	return i.around(call)
}

// around makes a call that the fault has hit.
func (i *Injection) around(call func() error) error {
	if !i.fault.After {
		i.wait()
		if i.fault.Err != nil {
			return i.fault.Err
		}
		return call()
	}
	if err := call(); err != nil {
		return err
	}
	i.wait()
	return i.fault.Err
}

func (f *Faulty) open(op Op, where string, open func(string) (filestore.File, error)) (filestore.File, error) {
	file := &faultyFile{fs: f, path: where}
	err := f.run(op, func() (err error) { file.File, err = open(where); return err }, where)
	if err != nil {
		if file.File != nil {
			_ = file.File.Close() // the answer was lost; nobody has the file
		}
		return nil, err
	}
	return file, nil
}

// Open implements filestore.FS.
func (f *Faulty) Open(where string) (filestore.File, error) { return f.open(Open, where, f.fs.Open) }

// Create implements filestore.FS.
func (f *Faulty) Create(where string) (filestore.File, error) {
	return f.open(Create, where, f.fs.Create)
}

// OpenWrite implements filestore.FS.
func (f *Faulty) OpenWrite(where string) (filestore.File, error) {
	return f.open(OpenWrite, where, f.fs.OpenWrite)
}

// Mkdir implements filestore.FS.
func (f *Faulty) Mkdir(where string) error {
	return f.run(Mkdir, func() error { return f.fs.Mkdir(where) }, where)
}

// Link implements filestore.FS.
func (f *Faulty) Link(oldpath, newpath string) error {
	return f.run(Link, func() error { return f.fs.Link(oldpath, newpath) }, newpath)
}

// Rename implements filestore.FS.
func (f *Faulty) Rename(oldpath, newpath string) error {
	return f.run(Rename, func() error { return f.giveBack(newpath, func() error { return f.fs.Rename(oldpath, newpath) }) }, oldpath, newpath)
}

// Remove implements filestore.FS.
func (f *Faulty) Remove(where string) error {
	return f.run(Remove, func() error { return f.giveBack(where, func() error { return f.fs.Remove(where) }) }, where)
}

// ReadDir implements filestore.FS.
func (f *Faulty) ReadDir(where string) (entries []fs.DirEntry, err error) {
	err = f.run(ReadDir, func() (err error) { entries, err = f.fs.ReadDir(where); return err }, where)
	return entries, err
}

// Stat implements filestore.FS.
func (f *Faulty) Stat(where string) (info fs.FileInfo, err error) {
	err = f.run(Stat, func() (err error) { info, err = f.fs.Stat(where); return err }, where)
	return info, err
}

// SyncDir implements filestore.FS.
func (f *Faulty) SyncDir(where string) error {
	return f.run(SyncDir, func() error { return f.fs.SyncDir(where) }, where)
}
