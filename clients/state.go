package clients

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and of its snapshot file.
const Kind = "clients"

// Room is the state of all clients of all orgs. Safe for concurrent use.
type Room struct {
	mu     sync.RWMutex
	orgs   map[ids.Org]*table
	server map[ids.Org]metadata // of the server itself

	soft softState

	due  chan struct{} // one slot: a merge is due; a full slot says so already
	tune tuning

	// watch is told of clients whose record changed, after the lock is released;
	// follow before it.
	watch  func(org ids.Org, client ids.Client, what Change)
	follow []func(Event)
}

// Change says what Apply did to a client.
type Change int

// What can happen to a client.
const (
	Enrolled Change = iota
	Informed
	Labelled
	Deleted
	Described // metadata of the server itself: the client is ids.Server
)

// New makes an empty room. watch may be nil; it is called from Apply's goroutine
// with no lock held and must not block.
func New(watch func(org ids.Org, client ids.Client, what Change)) *Room {
	if watch == nil {
		watch = func(ids.Org, ids.Client, Change) {}
	}
	return &Room{
		orgs: map[ids.Org]*table{}, server: map[ids.Org]metadata{}, soft: softState{orgs: map[ids.Org]*presence{}},
		due: make(chan struct{}, 1), tune: usual, watch: watch,
	}
}

// Follow adds a room whose state depends on that of clients: it is told of each
// change together with the ordinal, which a deleted client has no longer. f is
// called from Apply's goroutine with no lock held, in the order of the ledger, also
// while that is replayed; not by Restore, as the other room restores its own. It
// must not block. Call Follow before the first Apply.
func (r *Room) Follow(f func(Event)) {
	r.follow = append(r.follow, f)
}

// Event is a change as the ledger has it.
type Event struct {
	Index   uint64    // of the entry
	At      time.Time // of the entry
	Org     ids.Org
	Client  ids.Client
	Ordinal uint32 // 0 for ids.Server, which has none
	What    Change

	// By is who asked for it, empty: the pack itself. Detail is the change as the entry
	// has it; nobody changes it.
	By     string
	Detail *buspb.ClientChange
}

// Kind implements replication.State.
func (r *Room) Kind() string { return Kind }

// event is something that happened to a client.
type event struct {
	client  ids.Client
	number  number
	ordinal uint32
	what    Change
	detail  *buspb.ClientChange
}

// Apply implements replication.State: the only writer. A change that is refused
// leaves its client as it was; the others of the batch are taken.
func (r *Room) Apply(e *buspb.Entry) error {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err != nil {
		return fmt.Errorf("apply clients: %w", errors.Join(err, ErrRefused))
	}
	var changes buspb.ClientChanges
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &changes); err != nil {
		return fmt.Errorf("apply clients: %w", ErrRefused)
	}
	b := batch{now: micros.Of(time.UnixMicro(e.GetTime()))}
	r.mu.Lock()
	b.server = r.server[org]
	if b.t = r.orgs[org]; b.t == nil {
		b.t = newTable(org)
	}
	for _, change := range changes.GetChanges() {
		told := len(b.events)
		if err := b.apply(change); err != nil {
			b.refused = append(b.refused, err)
		}
		for i := told; i < len(b.events); i++ {
			b.events[i].detail = change
		}
	}
	if b.t.n > 0 {
		r.orgs[org] = b.t
	}
	r.keepServer(org, b.server)
	due := r.overdue(b.t)
	r.mu.Unlock()
	if due {
		r.signal()
	}
	r.tell(e, org, b.events)
	return errors.Join(b.refused...)
}

// tell says what happened to those who keep something about clients.
func (r *Room) tell(e *buspb.Entry, org ids.Org, events []event) {
	at := time.UnixMicro(e.GetTime()).UTC()
	for _, ev := range events {
		if ev.what == Enrolled {
			r.soft.enrolled(org, ev.number, ev.ordinal)
		}
		for _, follow := range r.follow {
			follow(Event{e.GetIndex(), at, org, ev.client, ev.ordinal, ev.what, e.GetMutation().GetPrincipal(), ev.detail})
		}
		if ev.what != Described {
			r.watch(org, ev.client, ev.what)
		}
	}
}

// Key returns the public key pinned to a client.
func (r *Room) Key(org ids.Org, client ids.Client) (*rsa.PublicKey, error) {
	c, m, err := r.keyed(org, client)
	if err != nil {
		return nil, err
	}
	key, err := publicKey(&c, m)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", client, err)
	}
	return key, nil
}

func (r *Room) keyed(org ids.Org, client ids.Client) (cell, *modulus, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t, ordinal, err := r.locate(org, client)
	if err != nil {
		return cell{}, nil, err
	}
	return *t.cell(ordinal), &t.blocks[ordinal/blockSize].keys[ordinal%blockSize], nil
}

// silent reports whether no agent speaks for a client: it was added, not enrolled.
func (r *Room) silent(org ids.Org, client ids.Client) bool {
	c, _, err := r.keyed(org, client)
	return err == nil && c.text[0]&hasKey != 0 && bytes.Equal(unpack(c.text).key, noKey)
}

// locate finds a client; the caller holds the lock.
func (r *Room) locate(org ids.Org, client ids.Client) (*table, uint32, error) {
	if t := r.orgs[org]; t != nil {
		if ordinal, ok := t.find(client.String()); ok {
			return t, ordinal, nil
		}
	}
	return nil, 0, fmt.Errorf("client %s: %w", client, ErrUnknownClient)
}

// look copies what is kept of a client.
func (r *Room) look(org ids.Org, client ids.Client) (*glimpse, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t, ordinal, err := r.locate(org, client)
	if err != nil {
		return nil, err
	}
	return &glimpse{*t.cell(ordinal), t.birth(ordinal), ordinal}, nil
}

// Lookup returns a client's record, or ErrUnknownClient.
func (r *Room) Lookup(org ids.Org, client ids.Client) (*Record, error) {
	g, err := r.look(org, client)
	if err != nil {
		return nil, err
	}
	return g.record(org, client), nil
}

// Ordinal returns the dense number of a client; false if there is no such client.
// It allocates nothing, and tells the same on every node that has applied the same
// entries.
func (r *Room) Ordinal(org ids.Org, client ids.Client) (uint32, bool) {
	n, ok := numberOf(client.String())
	if !ok {
		return 0, false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.orgs[org]
	if t == nil {
		return 0, false
	}
	ordinal, ok := t.byID[n]
	return ordinal, ok
}

// ByOrdinal returns the client that has an ordinal; false if nobody ever had it, or
// its client was deleted.
func (r *Room) ByOrdinal(org ids.Org, ordinal uint32) (ids.Client, bool) {
	r.mu.RLock()
	t := r.orgs[org]
	if t == nil || ordinal >= t.n || t.cell(ordinal).text == "" {
		r.mu.RUnlock()
		return ids.Client{}, false
	}
	id := t.birth(ordinal).id
	r.mu.RUnlock()
	return id.client(), true
}

// Labels returns a client's labels, or ErrUnknownClient. It costs a fraction of a
// Lookup.
func (r *Room) Labels(org ids.Org, client ids.Client) ([]string, error) {
	g, err := r.look(org, client)
	if err != nil {
		return nil, err
	}
	return unpackLabels(g.labels), nil
}

// known reports ErrUnknownClient, or nil.
func (r *Room) known(org ids.Org, client ids.Client) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, _, err := r.locate(org, client)
	return err
}

// Count returns how many clients an org has.
func (r *Room) Count(org ids.Org) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.orgs[org]; t != nil {
		return len(t.byID)
	}
	return 0
}

// Orgs lists the orgs that ever had a client, sorted.
func (r *Room) Orgs() []ids.Org {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(r.orgs), compareOrgs)
}

func compareOrgs(a, b ids.Org) int { return strings.Compare(a.String(), b.String()) }
