//go:build !unix

package config

import (
	"errors"
	"os"
	"path/filepath"
)

// replaceFile writes a temporary file beside path and moves it there. Who may read
// it follows from its folder.
func replaceFile(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		// The error that counts is the one above.
		_ = os.Remove(file.Name())
	}
	return err
}
