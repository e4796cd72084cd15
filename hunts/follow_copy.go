package hunts

import (
	"fmt"
	"time"

	"raptorpack/flows"
	"raptorpack/ids"
)

// mayCopy says whether a collection of a client's, of which a copy is durable, may be
// added to a hunt. Nothing is asked of the client, so no rate is kept; the limit is.
func (r *Room) mayCopy(_ time.Time, h *hunt, s flows.HuntStart) error {
	if err := h.permits("add a flow to", Draft, Running, Paused, Stopped, Expired); err != nil {
		return err
	}
	if len(s.Clients) != 1 {
		return fmt.Errorf("add a flow of %d clients to hunt %s: %w", len(s.Clients), s.Hunt, ErrInvalid)
	}
	client, err := ids.ParseClient(s.Clients[0])
	if err != nil {
		return err
	}
	ordinal, known := r.o.Clients.Ordinal(h.key.Org, client)
	if !known {
		return fmt.Errorf("add a flow of %s to hunt %s: no such client: %w", client, s.Hunt, ErrInvalid)
	}
	if err := h.mayReplace(ordinal, s.Again); err != nil {
		return fmt.Errorf("add a flow of %s: %w", client, err)
	}
	if h.m.fresh(ordinal) && h.set.Limit > 0 && int64(h.m.joined()) >= h.set.Limit {
		return fmt.Errorf("add a flow to hunt %s, in which %d clients take part: %w", s.Hunt, h.m.joined(), ErrLimit)
	}
	return nil
}

// mayReplace says whether a collection may stand for what the hunt has of a client.
func (h *hunt) mayReplace(ordinal uint32, again bool) error {
	switch s := h.m.where(ordinal); {
	case s == RunningClients, s == CompletedClients, s == ErroredClients && !again:
		return fmt.Errorf("hunt %s has the client already: %s: %w", h.key.Hunt, s, ErrState)
	}
	return nil
}

// fresh reports whether a client does not count among those that joined.
func (m *members) fresh(ordinal uint32) bool {
	switch m.where(ordinal) {
	case nowhere, DeclinedClients:
		return true
	case PendingClients:
		return m.attempt(ordinal) == 0
	}
	return false
}

// followCopy takes over one step of a collection that was added.
func (r *Room) followCopy(h *hunt, at time.Time, ordinal uint32, c flows.HuntChange) {
	if c.Before == nil {
		r.edit(h).copies[ordinal] = c.After.Flow
	} else if h.m.copies[ordinal] != c.Before.Flow {
		return // the client took part again
	}
	r.move(h, at, ordinal, setOf(c.After))
	r.results(h, at, ordinal, c.After)
}
