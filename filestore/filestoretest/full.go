package filestoretest

import (
	"io/fs"
	"syscall"

	"raptorpack/filestore"
)

// diskSize is the account of a disk of limited size.
type diskSize struct{ total, used int64 }

// SetDiskSize lets all files together grow by so many bytes from now on; more
// is ENOSPC. What is removed is given back, unless it has another name.
// Negative: no limit any more.
func (f *Faulty) SetDiskSize(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = nil
	if bytes >= 0 {
		f.size = &diskSize{total: bytes}
	}
}

// Usage says how full the disk is, by SetDiskSize, or the disk below.
func (f *Faulty) Usage() (filestore.Usage, error) {
	f.mu.Lock()
	size := f.size
	var usage filestore.Usage
	if size != nil {
		usage = filestore.Usage{Total: size.total, Free: size.total - size.used}
	}
	f.mu.Unlock()
	if size != nil {
		return usage, nil
	}
	if below, ok := f.fs.(interface {
		Usage() (filestore.Usage, error)
	}); ok {
		return below.Usage()
	}
	return usage, nil
}

// charge books the growth of a file to end.
func (f *Faulty) charge(file filestore.File, end int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size == nil {
		return nil
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	growth := max(end-info.Size(), 0)
	if f.size.used+growth > f.size.total {
		return syscall.ENOSPC
	}
	f.size.used += growth
	return nil
}

// giveBack credits the file that has a name before call takes that name away.
func (f *Faulty) giveBack(where string, call func() error) error {
	before, err := f.fs.Stat(where)
	gone := err == nil && before.Mode().IsRegular() && names(before) == 1
	if err := call(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if gone && f.size != nil {
		f.size.used -= before.Size()
	}
	return nil
}

// names returns how many names a file has, as far as the system tells.
func names(info fs.FileInfo) int {
	if n := linkCount(info); n > 0 {
		return n
	}
	return 1
}
