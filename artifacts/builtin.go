package artifacts

import (
	"embed"
	"fmt"
)

//go:embed all:definitions
var embedded embed.FS

// BuiltIn loads the definitions that come with the program. An error is a
// mistake in the program: a test loads them all. The same test parses their
// queries, which is not done here: it is nine tenths of the work, and every
// process that starts would do it for the few artifacts that it uses.
func BuiltIn() (*Repository, error) {
	r := NewRepository(nil)
	if _, err := r.load(embedded, true, parseTrusted); err != nil {
		return nil, fmt.Errorf("built-in artifacts: %w", err)
	}
	return r, nil
}
