package hunts

import (
	"maps"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"raptorpack/ids"
)

// members are a hunt's clients, by ordinal. Views keep them: whoever changes some
// that a view has makes a copy first.
type members struct {
	kept     bool // by a view
	sets     [sets]*roaring.Bitmap
	attempts map[uint16]*roaring.Bitmap // who is at which attempt, where it is not the first
	copies   map[uint32]ids.Flow        // whose newest attempt is a collection that was added, as it is called here
	line     timeline
}

func newMembers() *members {
	m := &members{attempts: map[uint16]*roaring.Bitmap{}, copies: map[uint32]ids.Flow{}, line: timeline{width: 1}}
	for i := range m.sets {
		m.sets[i] = roaring.New()
	}
	return m
}

func (m *members) clone() *members {
	c := newMembers()
	c.line = timeline{m.line.width, slices.Clone(m.line.buckets)}
	for i, s := range m.sets {
		c.sets[i] = s.Clone()
	}
	for n, s := range m.attempts {
		c.attempts[n] = s.Clone()
	}
	c.copies = maps.Clone(m.copies)
	return c
}

// attempt returns the newest attempt of a client; 0 is the first, or none.
func (m *members) attempt(ordinal uint32) int {
	for n, s := range m.attempts {
		if s.Contains(ordinal) {
			return int(n)
		}
	}
	return 0
}

// flow is that of a client's newest attempt.
func (m *members) flow(h ids.Hunt, ordinal uint32) ids.Flow {
	if f, added := m.copies[ordinal]; added {
		return f
	}
	return h.Flow(m.attempt(ordinal))
}

// setAttempt begins an attempt of a client.
func (m *members) setAttempt(ordinal uint32, n int) {
	delete(m.copies, ordinal)
	if before := uint16(m.attempt(ordinal)); before > 0 {
		if m.attempts[before].Remove(ordinal); m.attempts[before].IsEmpty() {
			delete(m.attempts, before)
		}
	}
	if n == 0 {
		return
	}
	if m.attempts[uint16(n)] == nil {
		m.attempts[uint16(n)] = roaring.New()
	}
	m.attempts[uint16(n)].Add(ordinal)
}

// again counts the pending clients that wait for another attempt.
func (m *members) again() int {
	n := uint64(0)
	for _, s := range m.attempts {
		n += s.AndCardinality(m.sets[PendingClients])
	}
	return int(n)
}

// where returns the set that a client is in.
func (m *members) where(ordinal uint32) Set {
	for s := range WithResults {
		if m.sets[s].Contains(ordinal) {
			return s
		}
	}
	return nowhere
}

// move puts a client into a set, or nowhere.
func (m *members) move(minute int64, ordinal uint32, from, to Set) {
	if from == to {
		return
	}
	if from != nowhere {
		m.sets[from].Remove(ordinal)
		m.line.add(minute, from, -1)
	}
	if to != nowhere {
		m.sets[to].Add(ordinal)
		m.line.add(minute, to, 1)
	}
}

// results notes whether a client's newest attempt has results.
func (m *members) results(minute int64, ordinal uint32, some bool) {
	switch has := m.sets[WithResults].Contains(ordinal); {
	case some && !has:
		m.sets[WithResults].Add(ordinal)
		m.line.add(minute, WithResults, 1)
	case !some && has:
		m.sets[WithResults].Remove(ordinal)
		m.line.add(minute, WithResults, -1)
	}
}

func (m *members) size(s Set) int { return int(m.sets[s].GetCardinality()) }

func (m *members) counts() Counts {
	var c Counts
	for i := range c {
		c[i] = m.size(Set(i))
	}
	return c
}

// joined counts the clients that took part or have a place to do so again: what the
// limit bounds.
func (m *members) joined() int {
	return m.size(RunningClients) + m.size(CompletedClients) + m.size(ErroredClients) + m.size(RemovedClients) + m.again()
}
