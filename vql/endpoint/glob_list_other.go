//go:build !linux

package endpoint

import (
	"errors"
	"io"
	"io/fs"
)

// listDir hands the names in a folder to each, in the order of the file system.
// between is called after each buffer and ends the listing with its error.
func listDir(name string, between func() error, each func(name string, mode fs.FileMode)) error {
	dir, err := openDir(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		batch, err := dir.ReadDir(4096)
		for _, e := range batch {
			each(e.Name(), e.Type())
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := between(); err != nil {
			return err
		}
	}
}
