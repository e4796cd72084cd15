package pool

import (
	"math"
	"time"

	"golang.org/x/sys/windows"
)

// RaiseDescriptorLimit does nothing: Windows bounds handles by memory alone.
func RaiseDescriptorLimit(uint64) (uint64, error) { return math.MaxUint64, nil }

// processorTime is what this process has used.
func processorTime() time.Duration {
	var created, ended, kernel, user windows.Filetime
	if windows.GetProcessTimes(windows.CurrentProcess(), &created, &ended, &kernel, &user) != nil {
		return 0
	}
	// In steps of 100 ns, of which Nanoseconds takes off the years until 1970.
	ticks := func(f windows.Filetime) int64 { return int64(f.HighDateTime)<<32 + int64(f.LowDateTime) }
	return time.Duration(ticks(kernel)+ticks(user)) * 100
}
