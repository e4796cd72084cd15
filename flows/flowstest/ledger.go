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

// Ledger orders mutations and applies them to every state of their kind. Facts
// wait until Deliver, as they do in an outbox. It is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	index   uint64
	last    int64 // unix microseconds of the newest entry
	states  []State
	entries []*buspb.Entry
	facts   []*buspb.Mutation
}

// NewLedger returns an empty ledger. Entries have the time of the clock, which
// in a synctest bubble is the bubble's.
func NewLedger() *Ledger { return &Ledger{} }

// Join adds a state after bringing it up to date.
func (l *Ledger) Join(states ...State) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range states {
		for _, e := range l.entries {
			if e.Mutation.Kind == s.Kind() {
				_ = s.Apply(e) // a refusal, which the proposer saw
			}
		}
		l.states = append(l.states, s)
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
	var answers []string
	var refusal error
	for _, s := range l.states {
		if s.Kind() != m.Kind {
			continue
		}
		refusal = s.Apply(e)
		answers = append(answers, fmt.Sprint(refusal))
	}
	for _, a := range answers {
		if a != answers[0] {
			return fmt.Errorf("states disagree on entry %d: %q and %q", e.Index, answers[0], a)
		}
	}
	return refusal
}

// Outbox takes facts, as a committer's Facts does.
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
