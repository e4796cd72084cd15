package wholepack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"raptorpack/filestore"
)

// disk is what all nodes of a pack mount. It keeps a copy of each part of the ledger
// that a pack removes once snapshots cover it, so that a checker can read all of it.
type disk struct {
	filestore.FS
	kept string // folder of the copies
}

// Remove implements filestore.FS.
func (d *disk) Remove(path string) error {
	if strings.HasPrefix(path, "ledger/") {
		if err := d.keep(path); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
	}
	return d.FS.Remove(path)
}

// keep copies a file into the folder of what was removed; a directory is not copied.
func (d *disk) keep(path string) error {
	info, err := d.FS.Stat(path)
	if err != nil || info.IsDir() {
		return nil // not there, or nothing to keep: Remove says so
	}
	data, err := content(d.FS, path)
	if err != nil {
		return err
	}
	into := filepath.Join(d.kept, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(into), 0o700); err != nil {
		return err
	}
	return os.WriteFile(into, data, 0o600)
}

// Usage is that of the disk below.
func (d *disk) Usage() (filestore.Usage, error) { return usageOf(d.FS) }

func usageOf(below filestore.FS) (filestore.Usage, error) {
	if disk, ok := below.(interface {
		Usage() (filestore.Usage, error)
	}); ok {
		return disk.Usage()
	}
	return filestore.Usage{Total: 1 << 40, Free: 1 << 39}, nil
}

// content is a whole file.
func content(below filestore.FS, path string) ([]byte, error) {
	file, err := below.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<40))
	return data, errors.Join(err, file.Close())
}

// unsynced is a disk whose syncs cost nothing: nobody pulls the plug of the machine,
// and what a killed process wrote stays.
type unsynced struct{ filestore.FS }

// Create implements filestore.FS.
func (u unsynced) Create(path string) (filestore.File, error) { return light(u.FS.Create(path)) }

// Open implements filestore.FS.
func (u unsynced) Open(path string) (filestore.File, error) { return light(u.FS.Open(path)) }

// OpenWrite implements filestore.FS.
func (u unsynced) OpenWrite(path string) (filestore.File, error) { return light(u.FS.OpenWrite(path)) }

// SyncDir implements filestore.FS.
func (u unsynced) SyncDir(path string) error {
	_, err := u.FS.Stat(path)
	return err
}

// Usage is that of the disk below.
func (u unsynced) Usage() (filestore.Usage, error) { return usageOf(u.FS) }

type lightFile struct{ filestore.File }

func (lightFile) Sync() error { return nil }

func light(file filestore.File, err error) (filestore.File, error) {
	if err != nil {
		return nil, err
	}
	return lightFile{file}, nil
}
