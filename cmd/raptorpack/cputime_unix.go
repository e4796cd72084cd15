//go:build unix

package main

import (
	"syscall"
	"time"
)

// cpuTime is what this process has spent so far, to the microsecond.
func cpuTime() time.Duration {
	var spent syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &spent) != nil {
		return 0
	}
	return time.Duration(spent.Utime.Nano() + spent.Stime.Nano())
}
