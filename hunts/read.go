package hunts

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"raptorpack/ids"
)

func compareKeys(a, b Key) int {
	return cmp.Or(strings.Compare(a.Org.String(), b.Org.String()), strings.Compare(a.Hunt.String(), b.Hunt.String()))
}

// record copies a hunt. The lock is held.
func (h *hunt) record() *Hunt {
	r := &Hunt{
		Key: h.key, Definition: h.def, Settings: h.set, Life: h.life, Counts: h.m.counts(), Again: h.m.again(), Sums: h.sums,
	}
	if o := h.def.Origin; o != nil {
		r.Counts, r.Sums = o.counts, o.sums
	}
	return r
}

// Imported reports whether a hunt ran elsewhere: neither its clients nor its flows are
// known here.
func (r *Room) Imported(key Key) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.find(key)
	return h != nil && h.def.Origin != nil
}

// Hunt returns a hunt, or ErrNotFound.
func (r *Room) Hunt(key Key) (*Hunt, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if h := r.find(key); h != nil {
		return h.record(), nil
	}
	return nil, fmt.Errorf("hunt %s: %w", key.Hunt, ErrNotFound)
}

// List returns an org's hunts, newest first, without those being deleted.
func (r *Room) List(org ids.Org) []*Hunt {
	r.mu.RLock()
	defer r.mu.RUnlock()
	o := r.orgs[org]
	if o == nil {
		return nil
	}
	out := make([]*Hunt, 0, len(o.hunts))
	for _, h := range o.hunts {
		if h.life.State != Deleted {
			out = append(out, h.record())
		}
	}
	slices.SortFunc(out, func(a, b *Hunt) int { return cmp.Or(cmp.Compare(b.Index, a.Index), compareKeys(a.Key, b.Key)) })
	return out
}

// all returns the hunts of all orgs that are in one of some states, sorted.
func (r *Room) all(in ...State) []*Hunt {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*Hunt
	for _, o := range r.orgs {
		for _, h := range o.hunts {
			if slices.Contains(in, h.life.State) {
				out = append(out, h.record())
			}
		}
	}
	slices.SortFunc(out, func(a, b *Hunt) int { return compareKeys(a.Key, b.Key) })
	return out
}

// Gone reports whether a hunt was deleted, or is being deleted: late rows of it are
// dropped.
func (r *Room) Gone(key Key) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	o := r.orgs[key.Org]
	if o == nil {
		return false
	}
	_, gone := o.deleted[key.Hunt]
	h := o.hunts[key.Hunt]
	return gone || h != nil && h.life.State == Deleted
}

// Deletion is a hunt that was forgotten, and the entry that did it: then nothing of
// its flows was left in the ledger, and its folder may be removed.
type Deletion struct {
	Key
	Index uint64
}

// Deletions lists the hunts that were forgotten not long ago.
func (r *Room) Deletions() []Deletion {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Deletion
	for org, o := range r.orgs {
		for id, d := range o.deleted {
			out = append(out, Deletion{Key{org, id}, d.index})
		}
	}
	slices.SortFunc(out, func(a, b Deletion) int { return compareKeys(a.Key, b.Key) })
	return out
}

// Member is a client of a hunt.
type Member struct {
	Client  ids.Client // zero: it was deleted
	Ordinal uint32
	Attempt int      // the newest
	Flow    ids.Flow // of that attempt; there is none yet while it is pending
}

// Clients returns a page of one set, by ordinal from after on, at most limit, and
// where the next page begins: 0 if this is the last. Since when, and the text of an
// error, stand in the flows' records.
func (r *Room) Clients(key Key, s Set, after uint32, limit int) ([]Member, uint32, error) {
	out, err := r.page(key, s, after, limit+1)
	if err != nil {
		return nil, 0, err
	}
	next := uint32(0)
	if len(out) > limit {
		next = out[limit].Ordinal
		out = out[:limit]
	}
	for i := range out {
		out[i].Client, _ = r.o.Clients.ByOrdinal(key.Org, out[i].Ordinal)
	}
	return out, next, nil
}

// page copies members of a set, without their clients' ids.
func (r *Room) page(key Key, s Set, after uint32, limit int) ([]Member, error) {
	if s < 0 || int(s) >= sets || limit < 1 {
		return nil, fmt.Errorf("%d clients of set %d: %w", limit, s, ErrInvalid)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.find(key)
	if h == nil {
		return nil, fmt.Errorf("hunt %s: %w", key.Hunt, ErrNotFound)
	}
	ordinals := some(h.m.sets[s], after, limit)
	out := make([]Member, len(ordinals))
	for i, ordinal := range ordinals {
		out[i] = Member{Ordinal: ordinal, Attempt: h.m.attempt(ordinal), Flow: h.m.flow(key.Hunt, ordinal)}
	}
	return out, nil
}

// some lists ordinals of a set from after on.
func some(set *roaring.Bitmap, after uint32, limit int) []uint32 {
	out := make([]uint32, 0, min(limit, int(set.GetCardinality())))
	it := set.Iterator()
	for it.AdvanceIfNeeded(after); it.HasNext() && len(out) < limit; {
		out = append(out, it.Next())
	}
	return out
}

// Member says in which set a client is; false if the hunt has nothing to do with it.
func (r *Room) Member(key Key, client ids.Client) (Member, Set, bool) {
	ordinal, known := r.o.Clients.Ordinal(key.Org, client)
	if !known {
		return Member{}, nowhere, false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.find(key)
	if h == nil {
		return Member{}, nowhere, false
	}
	s := h.m.where(ordinal)
	return Member{client, ordinal, h.m.attempt(ordinal), h.m.flow(key.Hunt, ordinal)}, s, s != nowhere
}

// Of tells in which hunts a client is, and in which set of each.
func (r *Room) Of(org ids.Org, client ids.Client) map[ids.Hunt]Set {
	out := map[ids.Hunt]Set{}
	ordinal, known := r.o.Clients.Ordinal(org, client)
	r.mu.RLock()
	defer r.mu.RUnlock()
	if o := r.orgs[org]; o != nil && known {
		for id, h := range o.hunts {
			if s := h.m.where(ordinal); s != nowhere && h.life.State != Deleted {
				out[id] = s
			}
		}
	}
	return out
}

// Timeline returns how a hunt's sets changed over time, and the minutes that a bucket
// has.
func (r *Room) Timeline(key Key) (buckets []Bucket, width int64, err error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.find(key)
	if h == nil {
		return nil, 0, fmt.Errorf("hunt %s: %w", key.Hunt, ErrNotFound)
	}
	return slices.Clone(h.m.line.buckets), h.m.line.width, nil
}
