//go:build !unix

package main

import (
	"os"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// cpuTime is what this process has spent so far, in ticks of the system's clock.
func cpuTime() time.Duration {
	self, err := process.NewProcess(int32(os.Getpid()))
	if err != nil {
		return 0
	}
	t, err := self.Times()
	if err != nil {
		return 0
	}
	return time.Duration((t.User + t.System) * float64(time.Second))
}
