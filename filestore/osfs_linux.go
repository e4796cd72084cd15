package filestore

import (
	"fmt"
	"math"
	"os"
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
