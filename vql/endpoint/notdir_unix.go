//go:build !windows

package endpoint

import (
	"errors"
	"syscall"
)

// isNotDir tells that a name on the way is a file: no failure for a search.
func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// nonblockWrite keeps a pipe without a reader from holding us.
const nonblockWrite = syscall.O_NONBLOCK
