package hunts

import (
	"fmt"

	"raptorpack/vql"
)

// CheckFilter refuses, as ErrInvalid, a filter that does not parse.
func CheckFilter(text string) error {
	if _, err := vql.Parse(text); err != nil {
		return fmt.Errorf("filter: %w: %w", ErrInvalid, err)
	}
	return nil
}
