package flows

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"raptorpack/ids"
)

// Flow returns a record, or ErrNotFound.
func (t *Table) Flow(key Key) (*Flow, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if f := t.flow(key); f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("flow %s of %s: %w", key.Flow, key.Client, ErrNotFound)
}

// List returns a client's flows, newest first: at most limit (0: all) of those
// older than before (zero: from the newest). The next page begins before the
// last flow of this one.
func (t *Table) List(org ids.Org, client ids.Client, before ids.Flow, limit int) []*Flow {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := t.clients[owner{org, client}]
	if c == nil {
		return nil
	}
	older := c.order
	if !before.IsZero() {
		at := slices.Index(older, before)
		older = older[:max(0, at)]
	}
	if limit > 0 && len(older) > limit {
		older = older[len(older)-limit:]
	}
	out := make([]*Flow, 0, len(older))
	for _, id := range slices.Backward(older) {
		out = append(out, t.flow(Key{org, client, id}))
	}
	return out
}

// Count returns how many flows a client has.
func (t *Table) Count(org ids.Org, client ids.Client) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if c := t.clients[owner{org, client}]; c != nil {
		return len(c.order)
	}
	return 0
}

// Deleted reports whether the flow was deleted not long ago.
func (t *Table) Deleted(key Key) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, gone := t.deleted[key]
	return gone
}

// deletedBy is the entry that deleted a flow, beyond all if that is not known.
func (t *Table) deletedBy(key Key) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if d := t.deleted[key]; d.index > 0 {
		return d.index
	}
	return math.MaxUint64
}

// Deletion is a flow that was deleted, and the entry that did it.
type Deletion struct {
	Key
	Index uint64
}

// Deletions lists the flows that were deleted and are still remembered, by org,
// client, flow.
func (t *Table) Deletions() []Deletion {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]Deletion, 0, len(t.deleted))
	for _, key := range slices.SortedFunc(maps.Keys(t.deleted), compareKeys) {
		out = append(out, Deletion{key, t.deleted[key].index})
	}
	return out
}

// Unfinished lists the flows of which some node may hold more than the ledger
// knows: those that run, miss rows, or ended otherwise than complete while rows of
// them are still taken. Order is by org, client, flow.
func (t *Table) Unfinished() []*Flow {
	now := time.Now()
	t.mu.RLock()
	var out []*Flow
	for _, f := range t.records.live {
		if f.State != Pending && !f.old(now.Add(-keepEnded)) {
			out = append(out, f)
		}
	}
	for key, packed := range t.records.rested {
		if packedState(packed) == Completed {
			continue
		}
		if f := t.flow(key); !f.old(now.Add(-keepEnded)) {
			out = append(out, f)
		}
	}
	t.mu.RUnlock()
	slices.SortFunc(out, func(a, b *Flow) int { return compareKeys(a.Key, b.Key) })
	return out
}

// open lists what a connection of the client may have to speak about, with the newest
// entry seen: oldest first, but what people wait for before what hunts want.
func (t *Table) open(o owner) ([]*Flow, uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := t.clients[o]
	if c == nil || len(c.open) == 0 {
		return nil, t.index
	}
	out := make([]*Flow, 0, len(c.open))
	for _, id := range c.open {
		out = append(out, t.flow(Key{o.org, o.client, id}))
	}
	slices.SortFunc(out, func(a, b *Flow) int {
		return cmp.Or(a.late()-b.late(), cmp.Compare(a.Index, b.Index), compareText(a.Flow.String(), b.Flow.String()))
	})
	return out, t.index
}

// late is 1 for flows that others overtake.
func (f *Flow) late() int {
	if f.Spec.Hunt.IsZero() {
		return 0
	}
	return 1
}

// lookup is what taking in a message needs to know in one look.
func (t *Table) lookup(key Key) (f *Flow, deleted bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, deleted = t.deleted[key]
	return t.flow(key), deleted
}

// request returns the compressed request of a pending task, nil when nothing is
// pending any more.
func (t *Table) request(org ids.Org, flow ids.Flow) []byte {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if s := t.specs[specKey{org, flow}]; s != nil {
		return s.request
	}
	return nil
}
