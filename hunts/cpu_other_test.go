//go:build !unix

package hunts_test

import "time"

// cpuUsed is 0: this system is asked otherwise, and benchmarks run on Linux.
func cpuUsed() time.Duration { return 0 }
