package filestoretest

import (
	"io"
	"io/fs"
	"slices"
	"sync"

	"raptorpack/filestore"
)

// faultyFile is an open file of a Faulty.
type faultyFile struct {
	filestore.File
	fs   *Faulty
	path string

	mu   sync.Mutex
	undo []patch // what stood before each unsynced write, newest last

	life   sync.Mutex
	calls  int  // under way, hanging ones included
	closed bool // the last call to return closes the file below
}

// call makes one call on the open file. As with an os.File, a call that is under way
// when the file is closed still goes through: a write that hung may land at any time.
func (f *faultyFile) call(do func() error) error {
	f.life.Lock()
	if f.closed {
		f.life.Unlock()
		return fs.ErrClosed
	}
	f.calls++
	f.life.Unlock()
	defer f.leave()
	return do()
}

func (f *faultyFile) leave() {
	f.life.Lock()
	defer f.life.Unlock()
	if f.calls--; f.calls == 0 && f.closed {
		_ = f.File.Close() // who closed it has an answer already
	}
}

func (f *faultyFile) ReadAt(data []byte, off int64) (n int, err error) {
	err = f.call(func() error {
		return f.fs.run(Read, func() (err error) { n, err = f.File.ReadAt(data, off); return err }, f.path)
	})
	return n, err
}

func (f *faultyFile) WriteAt(data []byte, off int64) (n int, err error) {
	err = f.call(func() (err error) { n, err = f.writeAt(data, off); return err })
	return n, err
}

func (f *faultyFile) writeAt(data []byte, off int64) (int, error) {
	i := f.fs.strike(Write, f.path)
	if i == nil {
		return f.write(data, off)
	}
	if i.fault.Torn == 0 {
		var n int
		err := i.around(func() (err error) { n, err = f.write(data, off); return err })
		return n, err
	}
	i.wait()
	n, err := f.write(data[:min(max(i.fault.Torn, 0), len(data))], off)
	if err == nil {
		err = i.fault.Err
	}
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	return n, err
}

// write remembers what it overwrites, within the limit of the disk.
func (f *faultyFile) write(data []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, err := f.before(off, len(data))
	if err != nil {
		return 0, err
	}
	if err := f.fs.charge(f.File, off+int64(len(data))); err != nil {
		return 0, err
	}
	f.undo = append(f.undo, before...)
	return f.File.WriteAt(data, off)
}

// before returns the patches that would undo a write.
func (f *faultyFile) before(off int64, n int) ([]patch, error) {
	info, err := f.File.Stat()
	if err != nil {
		return nil, err
	}
	old := make([]byte, max(min(int64(n), info.Size()-off), 0))
	if _, err := f.File.ReadAt(old, off); err != nil && err != io.EOF {
		return nil, err
	}
	return []patch{{off: off, data: old}, {off: info.Size()}}, nil
}

func (f *faultyFile) Truncate(size int64) error {
	return f.call(func() error { return f.fs.run(Truncate, func() error { return f.File.Truncate(size) }, f.path) })
}

func (f *faultyFile) Sync() error { return f.call(f.syncNow) }

func (f *faultyFile) syncNow() error {
	i := f.fs.strike(Sync, f.path)
	if i == nil {
		return f.sync()
	}
	if !i.fault.Drop {
		return i.around(f.sync)
	}
	i.wait()
	if err := f.drop(); err != nil {
		return err
	}
	return i.fault.Err
}

func (f *faultyFile) sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.File.Sync()
	if err == nil {
		f.undo = nil
	}
	return err
}

// drop puts back what stood before the unsynced writes: what Linux may do to
// the page cache after a failed sync.
func (f *faultyFile) drop() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range slices.Backward(f.undo) {
		var err error
		if u.data == nil {
			err = f.File.Truncate(u.off)
		} else if len(u.data) > 0 {
			_, err = f.File.WriteAt(u.data, u.off)
		}
		if err != nil {
			return err
		}
	}
	f.undo = nil
	return f.File.Sync()
}

func (f *faultyFile) Stat() (info fs.FileInfo, err error) {
	err = f.call(func() error {
		return f.fs.run(FileStat, func() (err error) { info, err = f.File.Stat(); return err }, f.path)
	})
	return info, err
}

func (f *faultyFile) Close() error {
	return f.fs.run(Close, func() error {
		f.life.Lock()
		defer f.life.Unlock()
		switch {
		case f.closed:
			return fs.ErrClosed
		case f.calls > 0:
			f.closed = true
			return nil
		}
		f.closed = true
		return f.File.Close()
	}, f.path)
}
