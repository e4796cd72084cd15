//go:build !linux && !windows

package endpoint

import (
	"syscall"

	"raptorpack/vql"
)

const nonblock = syscall.O_NONBLOCK

// drives has a meaning on Windows only.
func drives() []vql.FileInfo { return nil }
