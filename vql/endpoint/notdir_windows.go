package endpoint

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// isNotDir tells that a name on the way is a file: no failure for a search.
func isNotDir(err error) bool {
	return errors.Is(err, windows.ERROR_DIRECTORY) || errors.Is(err, syscall.ENOTDIR)
}

const nonblockWrite = 0
