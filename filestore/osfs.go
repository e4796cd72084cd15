package filestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Usage is how full a filesystem is, in bytes. Free is what an ordinary user
// may still write.
type Usage struct{ Total, Free int64 }

// Used returns the used part, 0 to 1.
func (u Usage) Used() float64 {
	if u.Total <= 0 {
		return 0
	}
	return 1 - float64(u.Free)/float64(u.Total)
}

// usageFS is an FS that knows how full it is.
type usageFS interface{ Usage() (Usage, error) }

// Dir is the FS of one directory of the operating system. No path leaves it,
// not by symbolic links either: whoever may write to the share must not be
// able to point us elsewhere. The directory is held open, so that after an
// unmount nothing is written to what lies beneath the mount point.
type Dir struct {
	root *os.Root
	top  *os.File // the same directory, for the short way of openBeneath
}

// OpenOS opens an existing directory as an FS.
func OpenOS(root string) (*Dir, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("open filestore: %w", err)
	}
	top, err := dir.Open(".")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open filestore: %w", err), dir.Close())
	}
	return &Dir{dir, top}, nil
}

// Close lets go of the directory; open files stay open.
func (d *Dir) Close() error { return errors.Join(d.root.Close(), d.top.Close()) }

// Open implements FS.
func (d *Dir) Open(path string) (File, error) {
	if err := within("open", path); err != nil {
		return nil, err
	}
	// The long way: opening each directory makes an NFS client ask again what
	// other nodes have put there.
	f, err := d.root.Open(path)
	if err != nil {
		return nil, err // not f: a nil *os.File is no nil File
	}
	return f, nil
}

// Create implements FS.
func (d *Dir) Create(path string) (File, error) {
	return d.open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// OpenWrite implements FS.
func (d *Dir) OpenWrite(path string) (File, error) { return d.open(path, os.O_RDWR) }

func (d *Dir) open(path string, flag int) (File, error) {
	if err := within("open", path); err != nil {
		return nil, err
	}
	f, err := d.openBeneath(path, flag, 0o640)
	if err != nil {
		return nil, err // not f: a nil *os.File is no nil File
	}
	return f, nil
}

// Mkdir implements FS.
func (d *Dir) Mkdir(path string) error {
	if err := within("mkdir", path); err != nil {
		return err
	}
	return d.mkdirBeneath(path, 0o750)
}

// Link implements FS.
func (d *Dir) Link(oldpath, newpath string) error {
	if err := within("link", oldpath, newpath); err != nil {
		return err
	}
	return d.root.Link(oldpath, newpath)
}

// Rename implements FS.
func (d *Dir) Rename(oldpath, newpath string) error {
	if err := within("rename", oldpath, newpath); err != nil {
		return err
	}
	return d.root.Rename(oldpath, newpath)
}

// Remove implements FS.
func (d *Dir) Remove(path string) error {
	if err := within("remove", path); err != nil {
		return err
	}
	return d.root.Remove(path)
}

// ReadDir implements FS.
func (d *Dir) ReadDir(path string) ([]fs.DirEntry, error) {
	if err := within("readdir", path); err != nil {
		return nil, err
	}
	f, err := d.root.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only: its error says nothing
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err // half a listing would pass for a whole one
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// Stat implements FS.
func (d *Dir) Stat(path string) (fs.FileInfo, error) {
	if err := within("stat", path); err != nil {
		return nil, err
	}
	return d.root.Stat(path)
}

// SyncDir implements FS.
func (d *Dir) SyncDir(path string) error {
	if err := within("syncdir", path); err != nil {
		return err
	}
	f, err := d.openBeneath(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close() // read only: its error says nothing
	return syncDirectory(f)
}

// within refuses what is no clean slash path below the root.
func within(op string, paths ...string) error {
	for _, path := range paths {
		if !fs.ValidPath(path) || strings.ContainsRune(path, 0) {
			return &fs.PathError{Op: op, Path: path, Err: fs.ErrInvalid}
		}
	}
	return nil
}
