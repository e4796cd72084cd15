package flows

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
	"raptorpack/proto/buspb"
)

// EventDeletionsKind is the kind of deletions of event rows and of their snapshot file.
const EventDeletionsKind = "event_deletions"

const (
	// maxEventDeletions bounds what is remembered of an org.
	maxEventDeletions = 10_000

	// dayCloses is how long after its end a day may still be written: a node's clock
	// may be a little behind, and a commit takes its time.
	dayCloses = time.Hour
)

// EventDeletion says that rows of one event artifact and one client are gone: those of
// whole days, UTC, both included.
type EventDeletion struct {
	Org    ids.Org
	Name   string // result name
	Client ids.Client
	From   string // as 2026-11-22
	To     string
	Index  uint64 // of the entry
}

// covers reports whether rows of a client's day are gone.
func (d *EventDeletion) covers(client ids.Client, day string) bool {
	return d.Client == client && d.From <= day && day <= d.To
}

// EventDeletions is the replicated memory of them. Apply and Restore are its only
// writers. It is safe for concurrent use.
//
// Rows of many clients share files, so a deletion is kept as long as the artifact's
// files may hold rows of it: readers leave them out.
type EventDeletions struct {
	mu   sync.RWMutex
	orgs map[ids.Org]map[string][]EventDeletion // by result name, in the order of the ledger
	n    map[ids.Org]int
}

func newEventDeletions() *EventDeletions {
	return &EventDeletions{orgs: map[ids.Org]map[string][]EventDeletion{}, n: map[ids.Org]int{}}
}

// All lists what is remembered, by org and name.
func (t *EventDeletions) All() []EventDeletion {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []EventDeletion
	for _, org := range slices.SortedFunc(maps.Keys(t.orgs), func(a, b ids.Org) int { return compareText(a.String(), b.String()) }) {
		for _, name := range slices.Sorted(maps.Keys(t.orgs[org])) {
			out = append(out, t.orgs[org][name]...)
		}
	}
	return out
}

// of lists the deletions of one artifact; nobody changes them.
func (t *EventDeletions) of(org ids.Org, name string) []EventDeletion {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.orgs[org][name]
}

// gone reports whether rows of a client's day were deleted.
func gone(all []EventDeletion, client ids.Client, day string) bool {
	return slices.ContainsFunc(all, func(d EventDeletion) bool { return d.covers(client, day) })
}

// PlanDelete deletes a client's rows of an event artifact: those of all days that lie
// whole between two times and are not written any more. A zero time bounds nothing. The
// error wraps ErrInvalid when there is no such day.
func (t *EventDeletions) PlanDelete(org ids.Org, name string, client ids.Client, from, to, now time.Time) (*buspb.Mutation, *EventDeletion, error) {
	if err := checkResultName(name); err != nil {
		return nil, nil, err
	}
	d := &EventDeletion{Org: org, Name: name, Client: client}
	if d.From, d.To = wholeDays(from, to, now); d.From > d.To {
		return nil, nil, fmt.Errorf("delete events of %s: no whole day lies between these times that is not written any more: %w", name, ErrInvalid)
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&buspb.EventsDeleted{
		Name: name, Client: client.String(), From: d.From, To: d.To,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("plan deletion of events: %w: %w", ErrInvalid, err)
	}
	return &buspb.Mutation{Kind: EventDeletionsKind, Org: org.String(), Body: body}, d, nil
}

// wholeDays are the first and the last day between two times; none if the last is
// before the first.
func wholeDays(from, to, now time.Time) (first, last string) {
	closed := now.UTC().Add(-dayCloses)
	if to.IsZero() || to.After(closed) {
		to = closed
	}
	begin := from.UTC().Truncate(24 * time.Hour)
	if begin.Before(from.UTC()) {
		begin = begin.AddDate(0, 0, 1)
	}
	if from.IsZero() {
		begin = time.Unix(0, 0).UTC()
	}
	end := to.UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)
	return begin.Format(time.DateOnly), end.Format(time.DateOnly)
}

// Kind names the deletions' mutations.
func (t *EventDeletions) Kind() string { return EventDeletionsKind }

// Apply takes over one entry.
func (t *EventDeletions) Apply(e *buspb.Entry) error {
	var body buspb.EventsDeleted
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &body); err != nil {
		return fmt.Errorf("apply deletion of events, entry %d: %w", e.GetIndex(), err)
	}
	d, err := deletionOf(e.GetMutation().GetOrg(), body.GetName(), body.GetClient(), body.GetFrom(), body.GetTo(), e.GetIndex())
	if err != nil {
		return fmt.Errorf("apply deletion of events, entry %d: %w", e.GetIndex(), err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.add(d)
}

func deletionOf(org, name, client, from, to string, index uint64) (d EventDeletion, err error) {
	d = EventDeletion{Name: name, From: from, To: to, Index: index}
	_, errFrom := time.Parse(time.DateOnly, from)
	_, errTo := time.Parse(time.DateOnly, to)
	var errOrg, errClient error
	d.Org, errOrg = ids.ParseOrg(org)
	d.Client, errClient = ids.ParseClient(client)
	return d, cmp.Or(errOrg, errClient, errFrom, errTo, checkResultName(name))
}

// add keeps a deletion, in place of those that it contains; the lock is held. Lists are
// replaced, never changed: readers have them.
func (t *EventDeletions) add(d EventDeletion) error {
	known := t.orgs[d.Org][d.Name]
	if slices.ContainsFunc(known, func(old EventDeletion) bool { return old.covers(d.Client, d.From) && old.covers(d.Client, d.To) }) {
		return nil
	}
	next := slices.DeleteFunc(slices.Clone(known), func(old EventDeletion) bool { return d.covers(old.Client, old.From) && d.covers(old.Client, old.To) })
	count := t.n[d.Org] - len(known) + len(next) + 1
	if count > maxEventDeletions {
		return fmt.Errorf("delete events of %s: %d deletions are remembered already: %w", d.Name, maxEventDeletions, ErrInvalid)
	}
	if t.orgs[d.Org] == nil {
		t.orgs[d.Org] = map[string][]EventDeletion{}
	}
	t.orgs[d.Org][d.Name] = append(next, d)
	t.n[d.Org] = count
	return nil
}

type deletionLine struct {
	Org    string `json:"org,omitempty"`
	Name   string `json:"name"`
	Client string `json:"client"`
	From   string `json:"from"`
	To     string `json:"to"`
	Index  uint64 `json:"index"`
}

type deletionsView []EventDeletion

// View returns the state as it stands.
func (t *EventDeletions) View() io.WriterTo { return deletionsView(t.All()) }

// WriteTo writes a line for each deletion.
func (v deletionsView) WriteTo(w io.Writer) (int64, error) {
	return jsonlines.Write(w, func(yield func(deletionLine) bool) {
		for _, d := range v {
			if !yield(deletionLine{d.Org.String(), d.Name, d.Client.String(), d.From, d.To, d.Index}) {
				return
			}
		}
	})
}

// Restore replaces the state by what a View wrote.
func (t *EventDeletions) Restore(r io.Reader) error {
	fresh := newEventDeletions()
	for dec := json.NewDecoder(bufio.NewReader(r)); ; {
		var l deletionLine
		err := dec.Decode(&l)
		if errors.Is(err, io.EOF) {
			break
		}
		var d EventDeletion
		if err == nil {
			d, err = deletionOf(l.Org, l.Name, l.Client, l.From, l.To, l.Index)
		}
		if err == nil {
			err = fresh.add(d)
		}
		if err != nil {
			return fmt.Errorf("restore deletions of events: %w", err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.orgs, t.n = fresh.orgs, fresh.n
	return nil
}
