//go:build unix

package config

import "github.com/google/renameio/v2"

func replaceFile(path string, text []byte) error {
	return renameio.WriteFile(path, text, 0o600, renameio.WithStaticPermissions(0o600))
}
