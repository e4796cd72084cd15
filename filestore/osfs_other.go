//go:build !linux

package filestore

import (
	"io/fs"
	"os"
	"runtime"
	"time"
)

// syncDirectory makes names durable where the system can do so.
func syncDirectory(f *os.File) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be flushed; NTFS journals its names
	}
	return f.Sync()
}

// bootTime is not known here: the monotonic clock decides alone.
func bootTime() time.Duration { return 0 }

func (d *Dir) openBeneath(name string, flag int, mode fs.FileMode) (*os.File, error) {
	return d.root.OpenFile(name, flag, mode)
}

func (d *Dir) mkdirBeneath(name string, mode fs.FileMode) error { return d.root.Mkdir(name, mode) }
