//go:build amd64 || arm64

package ebpf

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The first kernel with a ring buffer, the clock since boot and CAP_BPF.
const minMajor, minMinor = 5, 8

// Supported is nil when the kernel can run the programs, whoever asks, or an
// ErrUnsupported that says what it lacks.
func Supported() error {
	major, minor, err := release()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if !atLeast(major, minor, minMajor, minMinor) {
		return fmt.Errorf("%w: Linux %d.%d, and %d.%d is the first that can", ErrUnsupported, major, minor, minMajor, minMinor)
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return fmt.Errorf("%w: it does not describe its types (BTF): %w", ErrUnsupported, err)
	}
	return nil
}

func release() (major, minor int, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return 0, 0, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	text := unix.ByteSliceToString(name.Release[:])
	if _, err := fmt.Sscanf(text, "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("kernel version %q: %w", text, err)
	}
	return major, minor, nil
}

func atLeast(major, minor, wantMajor, wantMinor int) bool {
	return major > wantMajor || major == wantMajor && minor >= wantMinor
}

// raiseMemlock lifts the limit that maps counted against before 5.11. It holds
// for the whole process and stays, because maps of other queries need it too.
func raiseMemlock() error {
	major, minor, err := release()
	if err != nil || atLeast(major, minor, 5, 11) {
		return err
	}
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited); err != nil {
		return errors.Join(err)
	}
	return nil
}
