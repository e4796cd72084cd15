package hunts

import "raptorpack/filestore"

// Faults are what is not as it should be with some rows. Lists have at most 1,000
// entries.
type Faults struct {
	Hidden    int64                `json:"hidden_rows,omitempty"`  // their client or flow was deleted
	Missing   int64                `json:"missing_rows,omitempty"` // clients sent them by their numbers; they are not there or not readable
	Holes     []filestore.Hole     `json:"-"`
	Conflicts []filestore.Conflict `json:"-"`
	Damage    []filestore.Damage   `json:"-"`
}

// faults of the streams that are chosen, as far as the segments' indexes tell.
func (s *selection) faults() Faults {
	f := Faults{Hidden: s.hidden, Conflicts: s.conflicts(), Damage: append([]filestore.Damage(nil), s.Damage()...)}
	if !s.gaps {
		f.Holes, f.Missing = s.Holes(s.take, maxTold)
	}
	return f
}

// met adds what a walk could not read.
func (f *Faults) met(w *filestore.Walked) {
	f.Missing += w.Unread
	f.Holes = append(f.Holes, w.Holes[:min(len(w.Holes), max(0, maxTold-len(f.Holes)))]...)
	for _, d := range w.Damage {
		if len(f.Damage) < maxTold && !f.has(d) {
			f.Damage = append(f.Damage, d)
		}
	}
}

func (f *Faults) has(d filestore.Damage) bool {
	for _, old := range f.Damage {
		if old.Path == d.Path && old.Offset == d.Offset {
			return true
		}
	}
	return false
}

// conflicts are those of the streams that are chosen.
func (s *selection) conflicts() []filestore.Conflict {
	all := s.Conflicts()
	if len(all) == 0 {
		return nil
	}
	chosen := make(map[filestore.Stream]bool, len(all))
	for i, taken := range s.taken {
		if stream, _ := s.Stream(i); taken {
			chosen[stream] = true
		}
	}
	var out []filestore.Conflict
	for _, c := range all {
		if chosen[c.Stream] && len(out) < maxTold {
			out = append(out, c)
		}
	}
	return out
}
