package flowstest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"raptorpack/proto/buspb"
)

// State is the part of a replicated state that the ledger writes to.
type State interface {
	Kind() string
	Apply(e *buspb.Entry) error
	View() io.WriterTo
	Restore(r io.Reader) error
}

// Ledger orders mutations and applies them to every state of their kind: to those
// that joined at once, to those that follow when the test lets them. Facts wait in
// outboxes until they are delivered. It is safe for concurrent use; states must not
// call it while they apply.
type Ledger struct {
	mu      sync.Mutex
	index   uint64
	last    int64 // unix microseconds of the newest entry
	states  []State
	entries []*buspb.Entry
	answers []string // what the first state said to each entry
	facts   []*buspb.Mutation
	boxes   []*Outbox
}

// NewLedger returns an empty ledger. Entries have the time of the clock, which
// in a synctest bubble is the bubble's.
func NewLedger() *Ledger { return &Ledger{} }

// Join adds a state after bringing it up to date.
func (l *Ledger) Join(states ...State) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range states {
		for i, e := range l.entries {
			if err := l.replay(s, e, i); err != nil {
				return err
			}
		}
		l.states = append(l.states, s)
	}
	return nil
}

// replay applies an older entry. The answer must be the one that the proposer had.
func (l *Ledger) replay(s State, e *buspb.Entry, i int) error {
	if e.Mutation.Kind != s.Kind() {
		return nil
	}
	if got := fmt.Sprint(s.Apply(e)); l.answers[i] != "" && got != l.answers[i] {
		return fmt.Errorf("states disagree on entry %d: %q and %q", e.Index, l.answers[i], got)
	}
	return nil
}

// Leave takes states away: their node has died.
func (l *Ledger) Leave(states ...State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, gone := range states {
		for i, s := range l.states {
			if s == gone {
				l.states = append(l.states[:i:i], l.states[i+1:]...)
				break
			}
		}
	}
}

// Propose makes an entry and applies it everywhere. Its answer is the refusal,
// which all states must give alike.
func (l *Ledger) Propose(m *buspb.Mutation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.propose(m)
}

func (l *Ledger) propose(m *buspb.Mutation) error {
	l.index++
	l.last = max(l.last, time.Now().UnixMicro())
	e := &buspb.Entry{Index: l.index, Epoch: 1, Time: l.last, Mutation: m}
	l.entries = append(l.entries, e)
	l.answers = append(l.answers, "")
	var refusal error
	for _, s := range l.states {
		if s.Kind() != m.Kind {
			continue
		}
		refusal = s.Apply(e)
		answer := &l.answers[len(l.answers)-1]
		if got := fmt.Sprint(refusal); *answer == "" {
			*answer = got
		} else if got != *answer {
			return fmt.Errorf("states disagree on entry %d: %q and %q", e.Index, *answer, got)
		}
	}
	return refusal
}

// Follower is a node that applies entries later than the master does.
type Follower struct {
	ledger *Ledger
	states []State

	mu      sync.Mutex // held while entries are applied, so that they stay in order
	applied int
}

// Follow adds states that are behind: they have applied nothing yet.
func (l *Ledger) Follow(states ...State) *Follower { return &Follower{ledger: l, states: states} }

// Apply applies the next entries, at most n of them.
func (f *Follower) Apply(n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ledger.mu.Lock()
	entries := f.ledger.entries[f.applied:]
	f.ledger.mu.Unlock()
	for _, e := range entries[:min(n, len(entries))] {
		for _, s := range f.states {
			f.ledger.mu.Lock()
			answer := f.ledger.answers[f.applied]
			f.ledger.mu.Unlock()
			if e.Mutation.Kind != s.Kind() {
				continue
			}
			if got := fmt.Sprint(s.Apply(e)); answer != "" && got != answer {
				return fmt.Errorf("states disagree on entry %d: %q and %q", e.Index, answer, got)
			}
		}
		f.applied++
	}
	return nil
}

// CatchUp applies all entries.
func (f *Follower) CatchUp() error { return f.Apply(int(^uint(0) >> 1)) }

// Lag is how many entries are not applied.
func (f *Follower) Lag() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ledger.mu.Lock()
	defer f.ledger.mu.Unlock()
	return len(f.ledger.entries) - f.applied
}

// Restart throws the states away and lets them begin with a snapshot of others,
// which stand at the newest entry.
func (f *Follower) Restart(from ...State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ledger.mu.Lock()
	defer f.ledger.mu.Unlock()
	for _, s := range f.states {
		for _, o := range from {
			if o.Kind() != s.Kind() {
				continue
			}
			text, err := Dump(o)
			if err != nil {
				return err
			}
			if err := s.Restore(strings.NewReader(text)); err != nil {
				return err
			}
		}
	}
	f.applied = len(f.ledger.entries)
	return nil
}

// Untold are the facts in all outboxes and the mutations that the follower has not
// applied.
func (f *Follower) Untold() []*buspb.Mutation {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	out := append([]*buspb.Mutation(nil), l.facts...)
	for _, b := range l.boxes {
		out = append(out, b.facts...)
	}
	for _, e := range l.entries[f.applied:] {
		out = append(out, e.Mutation)
	}
	return out
}

// Outbox holds the facts of one incarnation until they are delivered; it outlives
// its node, as a file does.
type Outbox struct {
	ledger *Ledger
	facts  []*buspb.Mutation // guarded by the ledger
}

// NewOutbox returns an empty outbox.
func (l *Ledger) NewOutbox() *Outbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &Outbox{ledger: l}
	l.boxes = append(l.boxes, b)
	return b
}

// Add takes facts, as a committer's Facts does.
func (b *Outbox) Add(facts []*buspb.Mutation) error {
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	b.facts = append(b.facts, facts...)
	return nil
}

// Len counts the facts that wait.
func (b *Outbox) Len() int {
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	return len(b.facts)
}

// Deliver makes entries of the oldest facts, at most n. A refused fact is an
// error.
func (b *Outbox) Deliver(n int) error {
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	n = min(n, len(b.facts))
	var errs []error
	for _, m := range b.facts[:n] {
		errs = append(errs, b.ledger.propose(m))
	}
	b.facts = b.facts[n:]
	return errors.Join(errs...)
}

// Outbox takes facts, as a committer's Facts does, for nodes that share one.
func (l *Ledger) Outbox(facts []*buspb.Mutation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.facts = append(l.facts, facts...)
	return nil
}

// Facts counts those that wait.
func (l *Ledger) Facts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.facts)
}

// Deliver makes entries of all facts that wait. A refused fact is an error.
func (l *Ledger) Deliver() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, m := range l.facts {
		errs = append(errs, l.propose(m))
	}
	l.facts = nil
	return errors.Join(errs...)
}

// Entries are all entries so far.
func (l *Ledger) Entries() []*buspb.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*buspb.Entry(nil), l.entries...)
}

// Dump is a state's snapshot.
func Dump(s State) (string, error) {
	var b strings.Builder
	_, err := s.View().WriteTo(&b)
	return b.String(), err
}
