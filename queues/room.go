package queues

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and of its snapshot file.
const Kind = "queues"

// maxWaiting bounds what waits to be written, on every node alike.
const maxWaiting = 500_000

// Item is something that the pack tells of itself: a row of a queue.
type Item struct {
	Org    ids.Org
	Queue  string     // the artifact's name
	Client ids.Client // that it is about; zero: of no client
	Flow   ids.Flow   // of completions: whose record, or uploads, are looked up when it is written

	// Row is the row's JSON object without what the queue's own columns are put in
	// front of; nil where the writer makes it.
	Row json.RawMessage

	at    time.Time // of the entry
	index uint64
	n     uint32 // of what the entry told
}

// place orders items: by entry, then as it told them.
type place struct {
	index uint64
	n     uint32
}

func (i *Item) place() place { return place{i.index, i.n} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.index, q.index), cmp.Compare(p.n, q.n))
}

// Room is what was told and is not written yet, a State of the ledger. Tell, Apply
// and Restore are the only writers. It is safe for concurrent use.
type Room struct {
	limit   int
	changed chan struct{} // one slot: something waits; a full slot says so already

	mu      sync.Mutex
	waiting []*Item // in order; never changed, but cut in front and grown behind
	last    place   // the newest that was told since the last Restore
	lost    int64   // beyond the limit
}

// New makes an empty room.
func New() *Room { return &Room{limit: maxWaiting, changed: make(chan struct{}, 1)} }

// Tell takes what an entry tells, while that is applied: in the order of the ledger.
// Calls for one entry follow each other.
func (r *Room) Tell(index uint64, at time.Time, items ...Item) {
	r.mu.Lock()
	for i := range items {
		item := items[i]
		item.index, item.at, item.n = index, at.UTC(), 1
		if r.last.index == index {
			item.n = r.last.n + 1
		}
		r.last = item.place()
		if len(r.waiting) >= r.limit {
			r.lost++
			continue
		}
		r.waiting = append(r.waiting, &item)
	}
	r.mu.Unlock()
	r.signal()
}

func (r *Room) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Waiting is how much waits to be written, and how much had no room to wait.
func (r *Room) Waiting() (items int, lost int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting), r.lost
}

// behind lists at most limit items behind a place.
func (r *Room) behind(p place, limit int) []*Item {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.after(p)
	return slices.Clone(r.waiting[at:min(at+limit, len(r.waiting))])
}

// after finds the first item behind a place; the lock is held.
func (r *Room) after(p place) int {
	at, exact := slices.BinarySearchFunc(r.waiting, p, func(i *Item, p place) int { return i.place().compare(p) })
	if exact {
		at++
	}
	return at
}

// Kind implements replication.State.
func (r *Room) Kind() string { return Kind }

// Apply implements replication.State: what is written waits no more.
func (r *Room) Apply(e *buspb.Entry) error {
	var written buspb.QueuesWritten
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &written); err != nil {
		return fmt.Errorf("apply queues entry %d: %w", e.GetIndex(), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = r.waiting[r.after(place{written.GetIndex(), written.GetN()}):]
	if len(r.waiting) == 0 {
		r.waiting = nil // lets go of the array
	}
	return nil
}

// written is the fact that everything up to a place is durable.
func written(p place) (*buspb.Mutation, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&buspb.QueuesWritten{Index: p.index, N: p.n})
	if err != nil {
		return nil, fmt.Errorf("encode what queues have written: %w", err)
	}
	return &buspb.Mutation{Kind: Kind, Body: body}, nil
}
