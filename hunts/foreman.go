package hunts

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"raptorpack/ids"
	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

const (
	// maxBatch bounds the clients of one mutation.
	maxBatch = 500

	// maxWaiting bounds the findings that are not told yet. Beyond it clients are not
	// taken: they are matched again when they check in the next time.
	maxWaiting = 200_000

	// company is how long a finding waits for others, so that they share an entry.
	company = 50 * time.Millisecond

	// retryPause is how long the foreman waits after findings could not be told.
	retryPause = time.Second
)

// ForemanOptions wires a Foreman.
type ForemanOptions struct {
	Room *Room // required

	// Tell makes facts durable in this node's outbox. Required.
	Tell func(context.Context, []*buspb.Mutation) error

	// Here lists the clients of an org that are connected to this node, and IsHere
	// finds one. They are matched when a hunt starts, or when what is known of them
	// changes. Nil: clients are matched when they check in.
	Here   func(ids.Org) iter.Seq[ids.Client]
	IsHere func(ids.Org, ids.Client) bool

	// Ask lets a client run a hunt's own condition; it is called without a lock and
	// must not block. In the end Answer is called, on the node that the answer comes
	// to, or Unanswered on this one. Nil: hunts with a condition find nobody by
	// themselves.
	Ask func(Question)

	// Index is the newest entry that was applied here; required with Ask.
	Index func() uint64
}

// Want is a hunt that wants a client.
type Want struct {
	Hunt ids.Hunt
	Ask  bool // its own condition decides

	rule    *rule
	ordinal uint32
}

// Question is what a client is to be asked on behalf of a hunt.
type Question struct {
	Key
	Client     ids.Client
	Conditions *Conditions // shared, not to be changed
	Asked      uint64      // what was known of the client when it was asked: up to this entry

	rule    *rule
	ordinal uint32
	number  uint64
}

// Foreman matches the clients of one node against the hunts that recruit, and tells
// the ledger whom they found. All it remembers is soft: after a restart clients are
// matched again, and a client that is told twice is taken once. It is safe for
// concurrent use.
type Foreman struct {
	o    ForemanOptions
	room *Room
	log  *slog.Logger

	some signal // findings wait

	mu      sync.Mutex
	found   map[Key]*findings
	waiting int
	asked   map[asking]uint64 // the question that is out
	number  uint64
}

type findings struct{ nominated, declined []ids.Client }

type asking struct {
	rule    *rule
	ordinal uint32
}

// NewForeman wires a Foreman. Nothing runs before Run.
func NewForeman(o ForemanOptions) *Foreman {
	return &Foreman{
		o: o, room: o.Room, log: o.Room.log, some: newSignal(), found: map[Key]*findings{}, asked: map[asking]uint64{},
	}
}

// Match returns the hunts that want a client now. It changes nothing but what this
// node knows to be settled: a client that no hunt wants costs a look at one bit per
// hunt the next time, until its labels or facts change.
func (f *Foreman) Match(org ids.Org, client ids.Client) []Want {
	rules := (*f.room.rules.Load())[org]
	if len(rules) == 0 {
		return nil
	}
	ordinal, known := f.room.o.Clients.Ordinal(org, client)
	if !known || ordinal > maxOrdinal {
		return nil
	}
	var wants []Want
	for _, rule := range rules {
		if !rule.seen.has(ordinal) && f.wanted(rule, client, ordinal) {
			wants = append(wants, Want{rule.key.Hunt, rule.c.Asks(), rule, ordinal})
		}
	}
	return wants
}

// wanted looks closer. It marks first and looks then: a change in between takes the
// mark away.
func (f *Foreman) wanted(rule *rule, client ids.Client, ordinal uint32) bool {
	if !rule.seen.add(ordinal) || f.room.has(rule.key, ordinal) {
		return false
	}
	record, err := f.room.o.Clients.Lookup(rule.key.Org, client)
	if err != nil || !rule.wants(record) {
		return false
	}
	rule.seen.remove(ordinal)
	return true
}

// Arrived is to be called when a client connects or checks in: it is nominated for
// the hunts that want it, or asked. It does not wait.
func (f *Foreman) Arrived(org ids.Org, client ids.Client) {
	for _, w := range f.Match(org, client) {
		switch {
		case w.Ask && f.o.Ask == nil:
			w.rule.seen.add(w.ordinal)
		case !w.rule.seen.add(w.ordinal): // another goroutine was faster
		case w.Ask:
			f.ask(w, client)
		case !f.note(w.rule.key, client, true):
			w.rule.seen.remove(w.ordinal)
		}
	}
}

func (f *Foreman) ask(w Want, client ids.Client) {
	asked := f.o.Index()
	f.mu.Lock()
	f.number++
	q := Question{w.rule.key, client, w.rule.c, asked, w.rule, w.ordinal, f.number}
	f.asked[asking{w.rule, w.ordinal}] = q.number
	f.mu.Unlock()
	f.room.metrics.asked.Inc()
	f.o.Ask(q)
}

// Answer takes what a client's condition, and the filter over its rows, said, whichever
// node asked. asked is that of the question. It does not count if the client has
// changed since: then it was asked again, or will be when it checks in.
func (f *Foreman) Answer(key Key, client ids.Client, asked uint64, yes bool) {
	rule := f.room.rule(key)
	ordinal, known := f.room.o.Clients.Ordinal(key.Org, client)
	if rule == nil || !known || ordinal > maxOrdinal || !rule.c.Asks() || rule.stale(ordinal, asked) {
		return
	}
	record, err := f.room.o.Clients.Lookup(key.Org, client)
	if err != nil || !rule.wants(record) {
		return // nobody asked for it
	}
	f.mu.Lock()
	delete(f.asked, asking{rule, ordinal})
	f.mu.Unlock()
	rule.seen.add(ordinal)
	if !f.note(key, client, yes) {
		rule.seen.remove(ordinal)
	}
}

// Unanswered gives up a question that nothing came of. The client is asked again, if
// no other node had its answer: at once if it is connected here, else when it checks in.
func (f *Foreman) Unanswered(q Question) {
	if !f.settle(q) {
		return
	}
	q.rule.seen.remove(q.ordinal)
	if f.o.IsHere != nil && f.o.IsHere(q.Org, q.Client) {
		f.Arrived(q.Org, q.Client)
	}
}

// settle reports whether a question is the newest to its client.
func (f *Foreman) settle(q Question) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	who := asking{q.rule, q.ordinal}
	if f.asked[who] != q.number {
		return false
	}
	delete(f.asked, who)
	return true
}

// note keeps a finding to be told; false if too many wait.
func (f *Foreman) note(key Key, client ids.Client, wanted bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting >= maxWaiting {
		f.room.metrics.overflow.Inc()
		return false
	}
	all := f.found[key]
	if all == nil {
		all = &findings{}
		f.found[key] = all
	}
	if wanted {
		all.nominated = append(all.nominated, client)
	} else {
		all.declined = append(all.declined, client)
	}
	f.waiting++
	f.some.give()
	return true
}

// Run tells what was found, and matches connected clients when hunts start or what
// is known of clients changes. It returns nil when ctx ends; what was not told by
// then is found again when the clients check in.
func (f *Foreman) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { f.look(ctx) })
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.some:
		}
		if !retry.Sleep(ctx, company) {
			return nil
		}
		err := f.tell(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			f.log.Warn("clients found for hunts are not told yet", "err", err)
		}
		if failed = err != nil; failed && !retry.Sleep(ctx, retryPause) {
			return nil
		}
	}
}

// look matches the connected.
func (f *Foreman) look(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.room.sought:
			f.sweep(ctx)
		case <-f.room.rechecks:
			f.again()
		}
	}
}

func (f *Foreman) sweep(ctx context.Context) {
	if f.o.Here == nil {
		return
	}
	for org := range *f.room.rules.Load() {
		for client := range f.o.Here(org) {
			if ctx.Err() != nil {
				return
			}
			f.Arrived(org, client)
		}
	}
}

func (f *Foreman) again() {
	for _, p := range f.room.takeRechecks() {
		client, there := f.room.o.Clients.ByOrdinal(p.org, p.ordinal)
		if there && f.o.IsHere != nil && f.o.IsHere(p.org, client) {
			f.Arrived(p.org, client)
		}
	}
}

// tell makes all that was found durable. What fails waits for the next time.
func (f *Foreman) tell(ctx context.Context) error {
	found := f.take()
	mutations, err := plans(found)
	if err != nil {
		return err // ids are text that was parsed: a mistake of ours
	}
	if len(mutations) == 0 {
		return nil
	}
	if err := f.o.Tell(ctx, mutations); err != nil {
		f.giveBack(found)
		return fmt.Errorf("tell about %d hunts: %w", len(found), err)
	}
	for _, all := range found {
		f.room.metrics.nominated.Add(float64(len(all.nominated)))
		f.room.metrics.declined.Add(float64(len(all.declined)))
	}
	return nil
}

func (f *Foreman) take() map[Key]*findings {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := f.found
	f.found, f.waiting = map[Key]*findings{}, 0
	return found
}

func (f *Foreman) giveBack(found map[Key]*findings) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, all := range found {
		if later := f.found[key]; later != nil {
			all.nominated = append(all.nominated, later.nominated...)
			all.declined = append(all.declined, later.declined...)
		}
		f.found[key] = all
	}
	f.waiting = 0
	for _, all := range f.found {
		f.waiting += len(all.nominated) + len(all.declined)
	}
	f.some.give()
}

func plans(found map[Key]*findings) ([]*buspb.Mutation, error) {
	var out []*buspb.Mutation
	for key, all := range found {
		for _, some := range []struct {
			plan func(Key, []ids.Client) ([]*buspb.Mutation, error)
			who  []ids.Client
		}{{PlanNominate, all.nominated}, {PlanDecline, all.declined}} {
			mutations, err := some.plan(key, some.who)
			if err != nil {
				return nil, err
			}
			out = append(out, mutations...)
		}
	}
	return out, nil
}
