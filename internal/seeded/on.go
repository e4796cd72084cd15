//go:build seeded

package seeded

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// linked may be set by the linker, for programs whose environment cannot be.
var linked string

var out = parse(linked + "," + os.Getenv("RAPTORPACK_SEEDED"))

// Out reports whether a guard is taken out.
func Out(what string) bool { return out[what] }

func parse(text string) map[string]bool {
	taken := map[string]bool{}
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		if !slices.Contains(Guards, word) {
			panic(fmt.Sprintf("seeded: no guard is called %q", word))
		}
		taken[word] = true
	}
	return taken
}
