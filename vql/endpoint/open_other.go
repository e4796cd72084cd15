//go:build !linux

package endpoint

import (
	"io/fs"
	"os"

	"raptorpack/vql"
)

func openNonblock(name string) (vql.ReadSeekCloser, fs.FileMode, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close() // opened for reading only: nothing to lose
		return nil, 0, err
	}
	return f, info.Mode(), nil
}

// openDir opens a folder for listing.
func openDir(name string) (*os.File, error) { return os.Open(name) }
