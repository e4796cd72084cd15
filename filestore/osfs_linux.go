package filestore

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Usage says how full the filesystem is, by fstatfs(2).
func (d *Dir) Usage() (Usage, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return Usage{}, err
	}
	defer f.Close() // read only: its error says nothing
	conn, err := f.SyscallConn()
	if err != nil {
		return Usage{}, err
	}
	var stat unix.Statfs_t
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = unix.Fstatfs(int(fd), &stat) }); err != nil {
		return Usage{}, err
	}
	if failed != nil {
		return Usage{}, fmt.Errorf("statfs: %w", failed)
	}
	return Usage{Total: inBytes(stat.Blocks, stat.Bsize), Free: inBytes(stat.Bavail, stat.Bsize)}, nil
}

// inBytes multiplies without overflow: EFS says it has 8 EiB.
func inBytes(blocks uint64, size int64) int64 {
	if size <= 0 || blocks > uint64(math.MaxInt64/size) {
		return math.MaxInt64
	}
	return int64(blocks) * size
}

func syncDirectory(f *os.File) error { return f.Sync() }

// bootTime is the time since boot with sleep included, which the monotonic
// clock of package time leaves out on Linux.
func bootTime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // older than Linux 2.6.39: the monotonic clock decides alone
	}
	return time.Duration(now.Nano())
}

// openBeneath opens a path below the root with one call, openat2(2), where os.Root
// makes two for each directory on the way: an eighth of the time, and on a network
// filesystem fewer questions to the server. It is for what this node writes itself.
// Whatever is out of the ordinary goes the long way, which has the last word: old
// kernels, filters of system calls, links that lead outside, names that are moved
// meanwhile, or missing as far as a cache knows.
func (d *Dir) openBeneath(name string, flag int, mode fs.FileMode) (*os.File, error) {
	fd, err := d.openat2(name, flag, mode)
	switch {
	case unusual(err):
		return d.root.OpenFile(name, flag, mode)
	case err != nil:
		return nil, &fs.PathError{Op: "openat", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// mkdirBeneath is openBeneath's way for a new directory.
func (d *Dir) mkdirBeneath(name string, mode fs.FileMode) error {
	parent, err := d.openat2(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		err = unix.Mkdirat(parent, path.Base(name), uint32(mode.Perm()))
		_ = unix.Close(parent) // nothing was written through it
	}
	switch {
	case unusual(err):
		return d.root.Mkdir(name, mode)
	case err != nil:
		return &fs.PathError{Op: "mkdirat", Path: name, Err: err}
	}
	return nil
}

func (d *Dir) openat2(name string, flag int, mode fs.FileMode) (int, error) {
	how := &unix.OpenHow{Flags: uint64(flag) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	if flag&os.O_CREATE != 0 {
		how.Mode = uint64(mode.Perm())
	}
	conn, err := d.top.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, failed := -1, error(nil)
	err = conn.Control(func(top uintptr) {
		for {
			if fd, failed = unix.Openat2(int(top), name, how); failed != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return -1, err
	}
	return fd, failed
}

// unusual are the errors of which the long way knows better.
func unusual(err error) bool {
	for _, kind := range []syscall.Errno{
		unix.ENOSYS, unix.EPERM, unix.EXDEV, unix.ELOOP, unix.EAGAIN, unix.EINVAL, unix.E2BIG, unix.ENAMETOOLONG,
		unix.ENOENT, unix.ESTALE,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return errors.Is(err, os.ErrClosed)
}
