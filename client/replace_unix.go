//go:build unix

package client

import (
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// replaceFile puts data in place of path, all or nothing, readable by its
// owner only, and durable.
func replaceFile(path string, data []byte) error {
	if err := renameio.WriteFile(path, data, 0o600, renameio.WithStaticPermissions(0o600)); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path), (*os.File).Sync)
}
