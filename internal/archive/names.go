package archive

import (
	"fmt"
	"path"
	"strings"
)

// resultEndings are the files that one result has in a zip.
var resultEndings = []string{".jsonl", ".csv", ".batches.jsonl"}

// Results are the names of results in a zip that are taken; the zero value has none.
type Results struct{ taken map[string]bool }

// Free makes of a name below results/ one whose files no other result has as a file or
// folder, also where case does not count. Escaped names have no "~", so another folder
// is free.
func (r *Results) Free(base string) string {
	for n := 1; ; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("results~%d/%s", n, strings.TrimPrefix(base, "results/"))
		}
		if low := strings.ToLower(name); !r.clashes(low) {
			r.take(low)
			return name
		}
	}
}

func (r *Results) clashes(low string) bool {
	clash := r.taken[low]
	for _, ending := range resultEndings {
		clash = clash || r.taken[low+ending]
	}
	for dir := path.Dir(low); dir != "."; dir = path.Dir(dir) {
		clash = clash || r.taken["file "+dir]
	}
	return clash
}

func (r *Results) take(low string) {
	if r.taken == nil {
		r.taken = map[string]bool{}
	}
	r.taken[low] = true
	for _, ending := range resultEndings {
		r.taken[low+ending], r.taken["file "+low+ending] = true, true
	}
	for dir := path.Dir(low); dir != "."; dir = path.Dir(dir) {
		r.taken[dir] = true
	}
}
