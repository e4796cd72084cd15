package hunts

import (
	"fmt"
	"time"

	"raptorpack/clients"
	"raptorpack/flows"
	"raptorpack/ids"
)

// MayStart says whether the flows' room may start flows of hunts: each client must
// be pending, and neither rate nor limit exceeded. This is where both are exact,
// whoever planned the start and whatever came in between.
func (r *Room) MayStart(at time.Time, org ids.Org, starts []flows.HuntStart) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i, s := range starts {
		h := r.find(Key{org, s.Hunt})
		if h == nil {
			return fmt.Errorf("start flow %s: hunt %s: %w", s.Flow, s.Hunt, ErrNotFound)
		}
		may := r.mayStart
		if _, added := s.Flow.Copied(s.Hunt); added {
			may = r.mayCopy
		}
		if err := may(at, h, s); err != nil {
			return fmt.Errorf("start flow %s: %w", s.Flow, err)
		}
		for _, other := range starts[:i] {
			if other.Hunt == s.Hunt {
				return fmt.Errorf("start flows of hunt %s twice in one entry: %w", s.Hunt, ErrNotAdmitted)
			}
		}
	}
	return nil
}

func (r *Room) mayStart(at time.Time, h *hunt, s flows.HuntStart) error {
	if h.life.State != Running {
		return fmt.Errorf("hunt %s is %s: %w", s.Hunt, h.life.State, ErrNotAdmitted)
	}
	attempt, ok := s.Flow.Attempt(s.Hunt)
	if !ok {
		return fmt.Errorf("no flow of hunt %s: %w", s.Hunt, ErrInvalid)
	}
	fresh := 0
	for _, text := range s.Clients {
		client, err := ids.ParseClient(text)
		if err != nil {
			return err
		}
		ordinal, known := r.o.Clients.Ordinal(h.key.Org, client)
		due := h.m.attempt(ordinal)
		if !known || !h.m.sets[PendingClients].Contains(ordinal) || attempt < due {
			return fmt.Errorf("%s is not pending in hunt %s for it: %w", client, s.Hunt, ErrNotAdmitted)
		}
		if due == 0 {
			fresh++
		}
	}
	if n := h.m.joined() + fresh; h.set.Limit > 0 && int64(n) > h.set.Limit {
		return fmt.Errorf("%d clients would take part in hunt %s, more than %d: %w: %w", n, s.Hunt, h.set.Limit, ErrLimit, ErrNotAdmitted)
	}
	if n := h.pace.allowance(h.set.Rate, at.UnixMicro()); n < int64(len(s.Clients)) {
		return fmt.Errorf("hunt %s may admit %d clients at its rate: %w", s.Hunt, n, ErrNotAdmitted)
	}
	return nil
}

// FlowsChanged follows what entries did to flows of hunts. It is part of the flows'
// Apply.
func (r *Room) FlowsChanged(at time.Time, org ids.Org, changes []flows.HuntChange) {
	r.mu.Lock()
	for _, c := range changes {
		f := c.After
		if f == nil {
			f = c.Before
		}
		// A hunt of the same id that was deleted before has nothing to do with this one.
		if h := r.find(Key{org, f.Spec.Hunt}); h != nil && f.Index >= h.life.Index {
			r.follow(h, at, f, c)
		}
	}
	r.mu.Unlock()
	r.tell()
}

// follow takes over one step of a flow.
func (r *Room) follow(h *hunt, at time.Time, f *flows.Flow, c flows.HuntChange) {
	h.sums.change(sumsOf(c.Before), sumsOf(c.After))
	r.dirty[h.key] = struct{}{}
	attempt, ours := f.Flow.Attempt(h.key.Hunt)
	ordinal, known := r.o.Clients.Ordinal(h.key.Org, f.Client)
	if _, added := f.Flow.Copied(h.key.Hunt); added && known {
		r.followCopy(h, at, ordinal, c)
		return
	}
	if !ours || !known {
		return // the client was deleted, and counted then
	}
	if c.Before == nil {
		h.pace.admit(h.set.Rate, at.UnixMicro(), 1)
		r.move(h, at, ordinal, RunningClients)
		r.edit(h).setAttempt(ordinal, attempt)
		return
	}
	switch h.m.where(ordinal) {
	case RunningClients, CompletedClients, ErroredClients:
	default:
		return
	}
	if _, added := h.m.copies[ordinal]; added || h.m.attempt(ordinal) != attempt {
		return // an older attempt, or of a client that had the id before
	}
	r.move(h, at, ordinal, setOf(c.After))
	r.results(h, at, ordinal, c.After)
}

func (r *Room) results(h *hunt, at time.Time, ordinal uint32, f *flows.Flow) {
	some := f != nil && (f.Rows() > 0 || f.Uploads.Len() > 0)
	if some != h.m.sets[WithResults].Contains(ordinal) {
		r.edit(h).results(minuteOf(at), ordinal, some)
	}
}

// setOf says where the client of a flow belongs.
func setOf(f *flows.Flow) Set {
	if f == nil {
		return RemovedClients
	}
	return SetOf(f.State)
}

// ClientChanged follows the room of clients: what a hunt's own condition said of a
// client counts no more, and a deleted client neither waits nor runs. It is part of
// the clients' Apply; see clients.Room.Follow.
func (r *Room) ClientChanged(e clients.Event) {
	if e.What == clients.Described {
		return // of the server itself
	}
	r.mu.Lock()
	if o := r.orgs[e.Org]; o != nil {
		if e.What == clients.Deleted {
			r.bury(o, e.At, e.Ordinal)
		} else {
			r.forgive(o, e.At, e.Ordinal)
		}
	}
	changed := len(r.dirty) > 0
	r.mu.Unlock()
	r.unsettle(e.Org, e.Ordinal, e.Index)
	if changed {
		r.tell()
	}
}

func (r *Room) forgive(o *orgHunts, at time.Time, ordinal uint32) {
	for h := range o.declining {
		if h.m.sets[DeclinedClients].Contains(ordinal) {
			r.move(h, at, ordinal, nowhere)
		}
	}
}

func (r *Room) bury(o *orgHunts, at time.Time, ordinal uint32) {
	for _, h := range o.hunts {
		switch s := h.m.where(ordinal); {
		case s == RunningClients, s == PendingClients && h.m.attempt(ordinal) > 0:
			r.move(h, at, ordinal, ErroredClients) // nobody will answer any more
		case s == PendingClients, s == DeclinedClients:
			r.move(h, at, ordinal, nowhere)
		}
	}
}
