package flows

import (
	"path"

	"raptorpack/filestore"
)

// Sets lists where the segments of a flow lie: its results, its log, its list of
// uploads, and of a hunt the records of its ends.
func (f *Flow) Sets() []filestore.Set {
	sets := []filestore.Set{f.logs(), f.uploadList()}
	if h := f.Spec.Hunt; !h.IsZero() {
		sets = append(sets, filestore.HuntFlows(f.Org, h))
	}
	for _, name := range f.Spec.Results() {
		sets = append(sets, f.results(name))
	}
	return sets
}

// BaseName is the last component of the uploaded file's name, for saving it.
func (u *Upload) BaseName() string {
	if len(u.Components) == 0 {
		return "upload"
	}
	name := path.Base(u.Components[len(u.Components)-1])
	if name == "." || name == "/" || name == ".." {
		return "upload"
	}
	return name
}
