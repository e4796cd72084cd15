package history

import (
	"cmp"
	"encoding/json"
	"iter"
	"maps"
	"slices"

	"raptorpack/clients"
)

// labelModel is what the labels of every client were after each entry.
type labelModel struct {
	versions map[string][]version // by client, in the order of the ledger
}

// version is how a client's labels stood from an entry on.
type version struct {
	index  uint64
	labels []string // sorted
}

func newLabelModel() labelModel { return labelModel{map[string][]version{}} }

// apply takes over what an entry does.
func (m *labelModel) apply(e *Entry) {
	if e.Kind != clients.Kind {
		return
	}
	var body struct {
		Changes []struct {
			Enrol  *struct{ Client string }
			Delete *struct{ Client string }
			Label  *labelChange
		}
	}
	if json.Unmarshal(e.Body, &body) != nil {
		return // none that this version knows
	}
	for _, change := range body.Changes {
		switch {
		case change.Enrol != nil && m.versions[change.Enrol.Client] == nil:
			m.set(change.Enrol.Client, e.Index, nil)
		case change.Delete != nil:
			delete(m.versions, change.Delete.Client)
		case change.Label != nil:
			m.label(e.Index, change.Label)
		}
	}
}

func (m *labelModel) label(index uint64, change *labelChange) {
	for _, client := range change.Clients {
		all := m.versions[client]
		if len(all) == 0 {
			continue // not enrolled: refused
		}
		labels := slices.DeleteFunc(slices.Clone(all[len(all)-1].labels), func(l string) bool { return slices.Contains(change.Remove, l) })
		labels = append(labels, change.Add...)
		m.set(client, index, unique(labels))
	}
}

func (m *labelModel) set(client string, index uint64, labels []string) {
	m.versions[client] = append(m.versions[client], version{index, labels})
}

// between yields how a client's labels stood at each entry from lo to hi.
func (m *labelModel) between(client string, lo, hi uint64) iter.Seq[version] {
	all := m.versions[client]
	first, exact := slices.BinarySearchFunc(all, lo, func(v version, index uint64) int { return cmp.Compare(v.index, index) })
	if !exact {
		first-- // what stood before lo still stood at lo
	}
	return func(yield func(version) bool) {
		for _, v := range all[max(first, 0):] {
			if v.index > hi && v.index > lo || !yield(v) {
				return
			}
		}
	}
}

// reads holds each read against what was to be seen.
func (c *checker) reads() {
	acked := c.ackedBy()
	for i := range c.h.Reads {
		r := &c.h.Reads[i]
		lo, hi := min(r.Before, r.After), max(r.Before, r.After)
		if r.AtLeast > hi {
			c.say("stale", "%s was promised entry %d", r, r.AtLeast)
		}
		lo = max(lo, r.AtLeast)
		if r.Fresh {
			if last := acked(r.Begin); last.entry != nil && last.entry.Index > lo {
				lo = last.entry.Index
				if lo > hi {
					c.say("stale", "%s was promised to be fresh, and this was acknowledged before as %s: %s", r, last.entry.place(), last.op)
				}
			}
		}
		c.read(r, lo, max(lo, hi))
	}
}

// read looks for a moment at which the client's labels were those that were seen.
func (c *checker) read(r *Read, lo, hi uint64) {
	seen := unique(slices.Clone(r.Labels))
	if c.labels.versions[r.Client] == nil {
		c.say("phantom", "%s: the ledger has no such client", r)
		return
	}
	possible, always := map[string]bool{}, map[string]int{}
	moments := 0
	for v := range c.labels.between(r.Client, lo, hi) {
		if slices.Equal(v.labels, seen) {
			return
		}
		moments++
		for _, label := range v.labels {
			possible[label] = true
			always[label]++
		}
	}
	for _, label := range seen {
		if possible[label] {
			continue
		}
		if was, ok := c.added(r.Client, label); ok && was <= hi {
			c.say("stale", "%s shows %s, which was taken away before entry %d", r, label, lo)
		} else {
			c.say("phantom", "%s shows %s, which is not in the ledger up to entry %d", r, label, hi)
		}
		return
	}
	for _, label := range slices.Sorted(keys(always)) {
		if always[label] == moments && !slices.Contains(seen, label) {
			was, _ := c.added(r.Client, label)
			c.say("stale", "%s does not show %s of entry %d", r, label, was)
			return
		}
	}
	c.say("stale", "%s shows labels that never stood together from entry %d to %d: %q", r, lo, hi, seen)
}

// added returns the entry that gave a client a label.
func (c *checker) added(client, label string) (uint64, bool) {
	for _, v := range c.labels.versions[client] {
		if slices.Contains(v.labels, label) {
			return v.index, true
		}
	}
	return 0, false
}

// ackedBy returns a function that tells, of the changes that were acknowledged
// before a moment, the last one in the ledger.
func (c *checker) ackedBy() func(At) settled {
	all := c.settled()
	slices.SortFunc(all, func(a, b settled) int { return cmp.Compare(a.end, b.end) })
	best := make([]settled, len(all)) // of all[:i+1] the last in the ledger
	for i, s := range all {
		best[i] = s
		if i > 0 && best[i-1].entry.Index > s.entry.Index {
			best[i] = best[i-1]
		}
	}
	return func(at At) settled {
		n, _ := slices.BinarySearchFunc(all, at, func(s settled, at At) int { return cmp.Compare(s.end, at) })
		if n == 0 {
			return settled{}
		}
		return best[n-1]
	}
}

func keys[K comparable, V any](m map[K]V) iter.Seq[K] { return maps.Keys(m) }
