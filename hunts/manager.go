package hunts

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

const (
	// maxLooks bounds how many pending clients of a hunt are looked at in one step, so
	// that many who are away cost little.
	maxLooks = 32_768

	// maxBatches bounds the admissions of a hunt in one step.
	maxBatches = 8

	// atOnce is how many mutations of one step are on their way together.
	atOnce = 4

	sweepEvery = 2 * time.Second        // expiry, cancelling, deleting
	usualEvery = 250 * time.Millisecond // when nothing happens
	busyEvery  = 10 * time.Millisecond  // while there is somebody to admit
	newsPause  = 50 * time.Millisecond  // after something changed
)

// flowsRoom is what of the room of flows is needed: *flows.Room.
type flowsRoom interface {
	// Used reports whether a flow's id cannot be given to its client again.
	Used(flows.Key) bool

	// HuntFlows lists the flows of a hunt.
	HuntFlows(ids.Org, ids.Hunt) iter.Seq[*flows.Flow]
}

// ManagerOptions wires a Manager. All but Every is required.
type ManagerOptions struct {
	Room  *Room
	Flows flowsRoom

	// Propose returns when a mutation is durable and applied here, or with the refusal.
	Propose func(context.Context, *buspb.Mutation) error

	// Connected says whether a client is connected to any node, as far as this one
	// was told.
	Connected func(ids.Org, ids.Client) bool

	// Now is the time that the next entry would have.
	Now func() time.Time

	Every time.Duration // how often to look when nothing happens; 0: 250 ms
}

// Manager admits pending clients, ends hunts whose time is over, and clears up after
// hunts that were stopped or deleted. It runs on the node that leads. It keeps
// nothing that matters: another goes on from the replicated state. Its plans may be
// out of date when they are applied; then they are refused and made anew.
type Manager struct {
	o       ManagerOptions
	room    *Room
	log     *slog.Logger
	cursors map[Key]uint32 // where to look on
	swept   time.Time
	failing bool
}

// NewManager wires a Manager. Nothing runs before Run.
func NewManager(o ManagerOptions) *Manager {
	if o.Every <= 0 {
		o.Every = usualEvery
	}
	return &Manager{o: o, room: o.Room, log: o.Room.log, cursors: map[Key]uint32{}}
}

// Run does the manager's work until ctx ends; then it returns nil.
func (m *Manager) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-m.room.any:
			if !retry.Sleep(ctx, newsPause) {
				return nil
			}
		}
		n, err := m.Step(ctx)
		m.complain(ctx, err)
		next := m.o.Every
		if n > 0 && err == nil {
			next = busyEvery
		}
		timer.Reset(next)
	}
}

// complain logs what goes wrong when it begins.
func (m *Manager) complain(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if err != nil && !m.failing {
		m.log.WarnContext(ctx, "hunts are not managed at the moment", "err", err)
	}
	m.failing = err != nil
}

// Step does what is due now and returns how many clients were admitted.
func (m *Manager) Step(ctx context.Context) (int, error) {
	now := m.o.Now()
	var errs []error
	if now.Sub(m.swept) >= sweepEvery || now.Before(m.swept) {
		errs = append(errs, m.sweep(ctx, now))
		m.swept = now
	}
	batches, err := m.plan(now)
	n, failed := m.admit(ctx, batches)
	return n, errors.Join(append(errs, err, failed)...)
}

// batch is an admission that is planned.
type batch struct {
	*buspb.Mutation
	hunt    Key
	clients int
}

// admit proposes some batches at a time.
func (m *Manager) admit(ctx context.Context, batches []batch) (int, error) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	errs := make([]error, len(batches))
	for i, b := range batches {
		g.Go(func() error {
			errs[i] = m.o.Propose(ctx, b.Mutation)
			return nil
		})
	}
	_ = g.Wait() // they are in errs
	n := 0
	for i, b := range batches {
		switch err := errs[i]; {
		case err == nil:
			n += b.clients
		case errors.Is(err, ErrNotAdmitted): // something came in between: the next plan knows it
			m.room.metrics.refused.Inc()
			errs[i] = nil
		default:
			errs[i] = fmt.Errorf("admit %d clients to hunt %s: %w", b.clients, b.hunt.Hunt, err)
		}
	}
	m.room.metrics.admitted.Add(float64(n))
	return n, errors.Join(errs...)
}

// plan makes the admissions that are due in all hunts.
func (m *Manager) plan(now time.Time) ([]batch, error) {
	var out []batch
	for _, h := range m.room.all(Running) {
		if h.Counts[PendingClients] == 0 {
			delete(m.cursors, h.Key)
			continue
		}
		more, err := m.planHunt(h.Key, now)
		if err != nil {
			return out, fmt.Errorf("plan admissions to hunt %s: %w", h.Hunt, err)
		}
		out = append(out, more...)
	}
	return out, nil
}

// applicant is a pending client, with the attempt that it waits for.
type applicant struct {
	ordinal uint32
	attempt int
}

// opening is what a hunt has to offer at the moment.
type opening struct {
	spec       []byte
	places     int64 // by the rate
	fresh      int64 // of these, for clients that did not take part before
	applicants []applicant
}

// opening looks at a hunt's pending clients, from one on and around.
func (r *Room) opening(key Key, now time.Time, cursor uint32) opening {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.find(key)
	if h == nil || h.life.State != Running || !h.set.Expires.After(now) {
		return opening{}
	}
	o := opening{spec: h.def.spec, places: h.pace.allowance(h.set.Rate, now.UnixMicro()), fresh: 1 << 40}
	if o.places == 0 {
		return opening{}
	}
	if h.set.Limit > 0 {
		o.fresh = h.set.Limit - int64(h.m.joined())
	}
	ordinals := some(h.m.sets[PendingClients], cursor, maxLooks)
	for _, ordinal := range some(h.m.sets[PendingClients], 0, maxLooks-len(ordinals)) {
		if ordinal >= cursor {
			break
		}
		ordinals = append(ordinals, ordinal)
	}
	o.applicants = make([]applicant, len(ordinals))
	for i, ordinal := range ordinals {
		o.applicants[i] = applicant{ordinal, h.m.attempt(ordinal)}
	}
	return o
}

// planHunt chooses whom a hunt admits now.
func (m *Manager) planHunt(key Key, now time.Time) ([]batch, error) {
	o := m.room.opening(key, now, m.cursors[key])
	chosen := map[ids.Flow][]ids.Client{}
	var order []ids.Flow
	left := min(o.places, maxBatches*maxBatch)
	for _, a := range o.applicants {
		if left == 0 {
			break
		}
		m.cursors[key] = a.ordinal + 1
		if a.attempt == 0 && o.fresh <= 0 {
			continue
		}
		client, there := m.room.o.Clients.ByOrdinal(key.Org, a.ordinal)
		if !there || !m.o.Connected(key.Org, client) {
			continue
		}
		flow := m.freeFlow(key, client, a.attempt)
		if flow.IsZero() {
			continue
		}
		if a.attempt == 0 {
			o.fresh--
		}
		if chosen[flow] == nil {
			order = append(order, flow)
		}
		chosen[flow] = append(chosen[flow], client)
		left--
	}
	return planBatches(key, o.spec, order, chosen)
}

// freeFlow is the flow of an attempt, or of the first later one whose id the client
// did not have yet: one that was deleted and enrolled again may have had it. None if
// all are used up.
func (m *Manager) freeFlow(key Key, client ids.Client, attempt int) ids.Flow {
	for {
		flow := key.Hunt.Flow(attempt)
		if flow.IsZero() || !m.o.Flows.Used(flows.Key{Org: key.Org, Client: client, Flow: flow}) {
			return flow
		}
		attempt++
	}
}

func planBatches(key Key, raw []byte, order []ids.Flow, chosen map[ids.Flow][]ids.Client) ([]batch, error) {
	if len(order) == 0 {
		return nil, nil
	}
	spec, err := readSpec(raw)
	if err != nil {
		return nil, err
	}
	var out []batch
	for _, flow := range order {
		for clients := chosen[flow]; len(clients) > 0; {
			n := min(len(clients), maxBatch)
			mutation, err := flows.PlanAdmit(key.Org, spec, flow, clients[:n])
			if err != nil {
				return out, err
			}
			out = append(out, batch{mutation, key, n})
			clients = clients[n:]
		}
	}
	return out, nil
}
