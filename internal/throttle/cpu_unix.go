//go:build unix

package throttle

import "syscall"

// CPU returns the seconds of processor time, of all cores together, that this
// process has used; 0 where the system does not tell.
func CPU() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
