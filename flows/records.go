package flows

import (
	"iter"

	"raptorpack/ids"
)

// records are the flows there are. Those from which something is expected are kept as
// they are handed out. The others, which are nearly all there ever were, are kept
// packed: a record of a hunt's flow takes 70 bytes then and not 700, and the garbage
// collector has one piece to visit. The spec a flow was started with is kept elsewhere.
type records struct {
	live   map[Key]*Flow
	rested map[Key]string
	marks  marks
}

func newRecords() records {
	return records{live: map[Key]*Flow{}, rested: map[Key]string{}}
}

// rests reports whether nobody waits for a flow any more.
func (f *Flow) rests() bool { return f.State.Final() && !f.open() }

// has reports whether there is such a flow.
func (r *records) has(key Key) bool {
	if _, rested := r.rested[key]; rested {
		return true
	}
	return r.live[key] != nil
}

// keep makes f the record of its key.
func (r *records) keep(f *Flow) {
	if f.rests() {
		delete(r.live, f.Key)
		r.rested[f.Key] = r.marks.pack(f)
		return
	}
	delete(r.rested, f.Key)
	r.live[f.Key] = f
}

// forget drops a record.
func (r *records) forget(key Key) {
	delete(r.live, key)
	delete(r.rested, key)
}

// len counts all records.
func (r *records) len() int { return len(r.live) + len(r.rested) }

// keys goes over all keys, in no order.
func (r *records) keys() iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for key := range r.live {
			if !yield(key) {
				return
			}
		}
		for key := range r.rested {
			if !yield(key) {
				return
			}
		}
	}
}

// started is the entry that started a flow which is there.
func (r *records) started(key Key) uint64 {
	if f := r.live[key]; f != nil {
		return f.Index
	}
	return packedIndex(r.rested[key])
}

// flow returns the record of a key, nil if there is none. The caller holds the lock.
func (t *Table) flow(key Key) *Flow {
	if f := t.records.live[key]; f != nil {
		return f
	}
	packed, rested := t.records.rested[key]
	if !rested {
		return nil
	}
	return t.records.marks.unpack(packed, key, t.specs[specKey{key.Org, key.Flow}].spec)
}

// huntOf is the hunt of a flow that is there, zero for a direct collection.
func (t *Table) huntOf(key Key) ids.Hunt { return t.specs[specKey{key.Org, key.Flow}].spec.Hunt }
