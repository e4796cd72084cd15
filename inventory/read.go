package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"raptorpack/artifacts"
	"raptorpack/ids"
)

// Tools lists the tools of an org by name, the highest version of each first.
func (r *Room) Tools(org ids.Org) []*Tool {
	merged := r.merge(org, "")
	slices.SortFunc(merged, func(a, b *Tool) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), CompareVersions(b.Version, a.Version), strings.Compare(b.Version, a.Version))
	})
	return merged
}

// Lookup returns one version of a tool; an empty version is the highest.
func (r *Room) Lookup(org ids.Org, name, version string) (*Tool, error) {
	var found *Tool
	for _, t := range r.merge(org, name) {
		if version != "" {
			if t.Version == version {
				return t, nil
			}
			continue
		}
		if found == nil || CompareVersions(t.Version, found.Version) > 0 {
			found = t
		}
	}
	if found == nil {
		return nil, fmt.Errorf("tool %.80q %.40s: %w", name, version, ErrUnknown)
	}
	return found, nil
}

// merge works out what counts: what became known first, unless that says nowhere
// where the tool comes from and another does; before all, what an operator said.
// An empty name means all tools.
func (r *Room) merge(org ids.Org, name string) []*Tool {
	var out []*Tool
	at := map[Key]*Tool{}
	for _, d := range r.declared(org) {
		if name != "" && d.Tool.Name != name {
			continue
		}
		key := Key{org, d.Tool.Name, d.Tool.Version}
		switch known := at[key]; {
		case known == nil:
			at[key] = &Tool{Tool: tidy(d.Tool), Artifact: d.Artifact}
			out = append(out, at[key])
		case !hasSource(&known.Tool) && hasSource(&d.Tool):
			known.Tool, known.Artifact = tidy(d.Tool), d.Artifact
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, key := range r.sortedKeys() {
		if key.Org != org || name != "" && key.Name != name {
			continue
		}
		if at[key] == nil {
			// Its artifact may be gone; what was fetched for it is there to be deleted.
			at[key] = &Tool{Tool: artifacts.Tool{Name: key.Name, Version: key.Version}}
			if f := r.records[key].File; f != nil {
				at[key].URL = f.From
			}
			out = append(out, at[key])
		}
		r.records[key].onto(at[key])
	}
	return out
}

func (r *Room) declared(org ids.Org) []artifacts.DeclaredTool {
	if r.o.Declared == nil {
		return nil
	}
	return r.o.Declared(org)
}

// onto lays what the ledger says over what artifacts say.
func (r *record) onto(t *Tool) {
	if r.Definition != nil {
		t.Tool, t.Override, t.Setter = *r.Definition, true, r.Setter
	}
	t.Failure, t.Fetching = r.Failure, r.Want != nil
	// A newer text of the artifact may speak of something else than was fetched.
	if r.File != nil && fits(&t.Tool, r.File) {
		t.File = r.File
	}
}

// Wanted is a fetch that was asked for.
type Wanted struct {
	Org    ids.Org
	Tool   artifacts.Tool
	Index  uint64 // of the entry that asked
	Setter string
}

// Wanted lists the fetches that have not ended, in the order of asking.
func (r *Room) Wanted() []Wanted {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Wanted
	for key, record := range r.records {
		if w := record.Want; w != nil {
			out = append(out, Wanted{key.Org, w.Definition, w.Index, w.Setter})
		}
	}
	slices.SortFunc(out, func(a, b Wanted) int { return cmp.Compare(a.Index, b.Index) })
	return out
}

// MayName reports whether a file in the public folder can have a name.
func MayName(path string) bool { return validPath.MatchString(path) }

// Public returns the file of a name in the public folder, if anybody is to be given
// it, and the org that it belongs to.
func (r *Room) Public(path string) (*File, ids.Org, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for key, record := range r.records {
		if record.File != nil && record.File.Path == path {
			return record.File, key.Org, true
		}
	}
	if u, known := r.unused[path]; known && u.Served {
		return u.File, u.Org, true
	}
	return nil, ids.Org{}, false
}

// Owns reports whether the ledger knows of a file in the public folder: a tool has it,
// or it waits to be removed.
func (r *Room) Owns(path string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, record := range r.records {
		if record.File != nil && record.File.Path == path {
			return true
		}
	}
	_, known := r.unused[path]
	return known
}

// pathOf finds a file by its hash.
func (r *Room) pathOf(org ids.Org, hash string) (string, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, key := range r.sortedKeys() {
		if f := r.records[key].File; key.Org == org && f != nil && f.Hash == hash {
			return f.Path, true
		}
	}
	return "", false
}
