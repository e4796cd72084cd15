//go:build unix

package pool

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// RaiseDescriptorLimit lets this process open as many files as it may, and want
// if it has the right to. It returns the limit that holds now.
func RaiseDescriptorLimit(want uint64) (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of descriptors: %w", err)
	}
	for _, hard := range []uint64{max(want, limit.Max), limit.Max} {
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: hard, Max: hard}) == nil {
			return hard, nil
		}
	}
	return limit.Cur, nil
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
