//go:build unix

package config

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/google/renameio/v2"
)

func replaceFile(path string, text []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	file, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	err = fill(file, text, info)
	if err == nil {
		err = file.CloseAtomicallyReplace()
	}
	return errors.Join(err, file.Cleanup())
}

// fill writes a file that takes the place of the one that info describes.
func fill(file *renameio.PendingFile, text []byte, info os.FileInfo) error {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return fmt.Errorf("keep the owner: %w", err)
		}
	}
	if err := file.Chmod(info.Mode().Perm()); err != nil {
		return fmt.Errorf("keep the mode: %w", err)
	}
	_, err := file.Write(text)
	return err
}
