package hunts

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and the name of its snapshot file.
const Kind = "hunts"

// tombstoneLife is how long a deleted hunt's id is remembered, by ledger time.
const tombstoneLife = 30 * 24 * time.Hour

// clientsRoom is what of the room of clients is needed: *clients.Room. Its state is
// at the same entry whenever Apply asks it.
type clientsRoom interface {
	// Ordinal returns a client's dense number; false if there is no such client.
	Ordinal(org ids.Org, client ids.Client) (uint32, bool)

	// ByOrdinal returns the client that has a number; false if it was deleted.
	ByOrdinal(org ids.Org, ordinal uint32) (ids.Client, bool)

	// Lookup returns a client's record.
	Lookup(org ids.Org, client ids.Client) (*clients.Record, error)

	// Search finds clients by the grammar of clients.ParseQuery.
	Search(org ids.Org, text string, after uint32, limit int, now time.Time) (*clients.Page, error)
}

// Options wires a Room.
type Options struct {
	Clients    clientsRoom           // required
	Created    func(Creation)        // a hunt was made; called by Apply without a lock, also while the ledger is replayed; nil: none
	Changed    func(Key)             // a hunt or its counts changed; called by Apply without a lock, must not block; nil: none
	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default
}

// Room is the replicated memory of all hunts: a State of the ledger. Apply,
// FlowsChanged and ClientChanged are the only writers, besides Restore, and come
// from the ledger's one goroutine. It is safe for concurrent use.
type Room struct {
	o       Options
	log     *slog.Logger
	metrics *metrics

	mu    sync.RWMutex
	orgs  map[ids.Org]*orgHunts
	dirty map[Key]struct{} // changed since the last signal
	any   signal           // the manager is to look

	sought   signal // what the foreman matches has changed
	rechecks signal // somebody is to be matched again

	recheckMu sync.Mutex
	recheck   map[place]struct{} // who

	rules atomic.Pointer[map[ids.Org][]*rule] // what the foreman matches; never nil
}

// orgHunts are the hunts of one org.
type orgHunts struct {
	hunts     map[ids.Hunt]*hunt
	declining map[*hunt]struct{} // hunts with declined clients
	deleted   map[ids.Hunt]tombstone
}

// tombstone is what is left of a deleted hunt.
type tombstone struct {
	at       int64 // microseconds
	index    uint64
	imported bool
}

// hunt is one hunt. Room.mu guards it; def and what its pointer in m leads to once a
// view has it never change.
type hunt struct {
	key  Key
	def  *Definition
	set  Settings
	life Life
	pace pace
	sums Sums
	m    *members
	rule *rule // as long as the hunt recruits
}

// New makes an empty room. Nothing runs by it.
func New(o Options) *Room {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	r := &Room{
		o: o, log: o.Logger, any: newSignal(), sought: newSignal(), rechecks: newSignal(),
		dirty: map[Key]struct{}{}, recheck: map[place]struct{}{},
	}
	r.metrics = newMetrics(o.Registerer, r)
	r.reset()
	return r
}

func (r *Room) reset() {
	r.orgs = map[ids.Org]*orgHunts{}
	r.rules.Store(&map[ids.Org][]*rule{})
}

// Kind implements replication.State.
func (r *Room) Kind() string { return Kind }

// org returns an org's hunts, made if need be.
func (r *Room) org(org ids.Org) *orgHunts {
	o := r.orgs[org]
	if o == nil {
		o = &orgHunts{hunts: map[ids.Hunt]*hunt{}, declining: map[*hunt]struct{}{}, deleted: map[ids.Hunt]tombstone{}}
		r.orgs[org] = o
	}
	return o
}

// find returns a hunt, nil if there is none. The lock is held.
func (r *Room) find(key Key) *hunt {
	if o := r.orgs[key.Org]; o != nil {
		return o.hunts[key.Hunt]
	}
	return nil
}

// Apply implements replication.State: all changes of an entry, or none and the
// refusal.
func (r *Room) Apply(e *buspb.Entry) error {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err != nil {
		return fmt.Errorf("apply hunts entry %d: %w", e.GetIndex(), err)
	}
	var body buspb.HuntsBody
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &body); err != nil {
		return fmt.Errorf("apply hunts entry %d: %w", e.GetIndex(), ErrInvalid)
	}
	created, err := r.apply(e, org, &body)
	r.tell()
	if r.o.Created != nil {
		for _, c := range created {
			r.o.Created(c)
		}
	}
	return err
}

// Creation is a hunt as it was made. Nobody changes it.
type Creation struct {
	Key
	*Definition
	Settings
	Index uint64 // of the entry
	At    time.Time
}

func (r *Room) apply(e *buspb.Entry, org ids.Org, body *buspb.HuntsBody) ([]Creation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := applier{r: r, org: org, index: e.Index, at: time.UnixMicro(e.Time).UTC(), by: e.Mutation.Principal}
	for _, c := range body.Changes {
		if err := a.check(c); err != nil {
			return nil, err
		}
	}
	for _, c := range body.Changes {
		a.change(c)
	}
	if a.rules {
		r.publish()
	}
	return a.created, nil
}

// edit returns a hunt's clients to be changed. The lock is held.
func (r *Room) edit(h *hunt) *members {
	if h.m.kept {
		h.m = h.m.clone()
	}
	r.dirty[h.key] = struct{}{}
	return h.m
}

// move puts a client of a hunt into a set, or nowhere. The lock is held.
func (r *Room) move(h *hunt, at time.Time, ordinal uint32, to Set) {
	from := h.m.where(ordinal)
	if from == to {
		return
	}
	m := r.edit(h)
	m.move(minuteOf(at), ordinal, from, to)
	if from != DeclinedClients && to != DeclinedClients {
		return
	}
	if declining := r.org(h.key.Org).declining; m.sets[DeclinedClients].IsEmpty() {
		delete(declining, h)
	} else {
		declining[h] = struct{}{}
	}
}

func minuteOf(at time.Time) int64 { return at.Unix() / 60 }

// tell says which hunts changed. No lock is held.
func (r *Room) tell() {
	r.mu.Lock()
	changed := make([]Key, 0, len(r.dirty))
	for key := range r.dirty {
		changed = append(changed, key)
	}
	clear(r.dirty)
	r.mu.Unlock()
	if len(changed) == 0 {
		return
	}
	r.any.give()
	if r.o.Changed == nil {
		return
	}
	slices.SortFunc(changed, compareKeys)
	for _, key := range changed {
		r.o.Changed(key)
	}
}

// signal is a one-slot channel that says "look again": a full slot needs no second.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) give() {
	select {
	case s <- struct{}{}:
	default:
	}
}
