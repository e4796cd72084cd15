package artifacts

import (
	"embed"
	"fmt"
)

//go:embed all:definitions
var embedded embed.FS

// BuiltIn loads the definitions that come with the program. An error is a
// mistake in the program: a test loads them all.
func BuiltIn() (*Repository, error) {
	r := NewRepository(nil)
	if _, err := r.LoadFS(embedded, true); err != nil {
		return nil, fmt.Errorf("built-in artifacts: %w", err)
	}
	return r, nil
}
