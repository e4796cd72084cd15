package replication

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"raptorpack/filestore"
)

// Node keeps the states of one process in step with the ledger. Its methods
// are safe for concurrent use, except that only one Load, Lead or Follow runs at
// a time (ErrBusy).
type Node struct {
	o         Options
	log       *slog.Logger
	m         *metrics
	store     *filestore.Store
	urgent    *filestore.Store // the same, with room for the ledger on a full disk
	states    map[string]State
	kinds     []string // of states, sorted
	outbox    *Outbox
	blobs     *blobs
	props     *proposals
	shots     *snapshots
	compared  *comparisons
	bookmarks bookmarks   // of outboxes
	adopted   nameSet     // incarnations whose outboxes were read to the end since this node leads
	bus       *bus        // nil: this node is alone
	working   atomic.Bool // Load, Lead or Follow

	mu      sync.Mutex
	at      place // last applied entry
	digest  digest
	memory  *memory
	window  window
	reached uint64        // last entry that was begun to be applied
	began   time.Time     // stamps of the bus count from here
	fresh   time.Time     // when the state was surely as new as the ledger; zero: never
	changed chan struct{} // closed and replaced when at moves
}

// digest commits to all entries up to an index and to what became of each.
type digest = [sha256.Size]byte

// New wires a Node. It reads nothing and starts nothing: call Load, then Run
// and Lead.
func New(o Options) (*Node, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		o: o, log: o.Logger, m: newMetrics(o.Registerer), store: o.Store, urgent: o.Store.Urgent(),
		states: map[string]State{}, memory: newMemory(), began: time.Now(), changed: make(chan struct{}),
	}
	for _, s := range o.States {
		n.states[s.Kind()] = s
		n.kinds = append(n.kinds, s.Kind())
	}
	slices.Sort(n.kinds)
	n.blobs = newBlobs(o)
	n.props = newProposals(o)
	n.shots = newSnapshots()
	n.compared = newComparisons()
	n.outbox = newOutbox(n)
	n.window.max = o.WindowBytes
	if o.Bus != nil {
		n.bus = newBus(n, *o.Bus)
	}
	newStandingMetrics(o.Registerer, n)
	return n, nil
}

// Outbox is where this node's facts go. It is the same one at every call.
func (n *Node) Outbox() *Outbox { return n.outbox }

// Position returns the last entry applied here: its epoch, its index and the
// chain hash after it. All are zero before the first entry.
func (n *Node) Position() (epoch, index uint64, chain [32]byte) {
	at := n.place()
	return at.epoch, at.index, at.chain
}

// Reached returns the index of the newest entry whose effects a read may show by
// now: that of Position, or the one that is being applied.
func (n *Node) Reached() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return max(n.reached, n.at.index)
}

// Digest returns a hash over all entries applied here and over what became of
// each (applied, refused and how), and the index it stands for. Two nodes at
// the same index have the same digest; a difference is an alarm.
func (n *Node) Digest() (index uint64, sum [32]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at.index, n.digest
}

// WaitApplied returns when this node has applied the entry of that index, or
// with ctx's error.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	for {
		n.mu.Lock()
		done, changed := n.at.index >= index, n.changed
		n.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for entry %d: %w", index, ctx.Err())
		}
	}
}

func (n *Node) place() place {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at
}

// announce wakes those who wait for the position to move.
func (n *Node) announce() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
	n.m.index.Set(float64(n.at.index))
	n.m.epoch.Set(float64(n.at.epoch))
}

// begin claims the right to apply entries.
func (n *Node) begin(what string) (end func(), err error) {
	if !n.working.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("%s: %w", what, ErrBusy)
	}
	return func() { n.working.Store(false) }, nil
}
