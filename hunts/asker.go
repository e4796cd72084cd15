package hunts

import (
	"context"
	"log/slog"
	"runtime"
	"sync"

	"raptorpack/flows"
	"raptorpack/vql"
)

// AskerOptions wire an Asker. All are required.
type AskerOptions struct {
	Room    *Room
	Foreman *Foreman
	Engine  *vql.Engine // of the language alone

	// Inquire gives a request to a client; see flows.Room.Inquire.
	Inquire func(flows.Inquiry)
}

// Asker finds out what conditions and filters of hunts say of clients: it has clients
// run conditions, and runs the filters over their rows here. It is safe for concurrent
// use.
type Asker struct {
	o   AskerOptions
	log *slog.Logger

	some signal // somebody waits

	mu      sync.Mutex
	waiting []answered
	filters map[string]*filter // of hunts that recruit
	told    map[Key]bool       // hunts whose failures were logged
}

// answered is a client about which a filter is to decide.
type answered struct {
	heard flows.Heard
	rule  *rule
}

// NewAsker wires an Asker. Nothing runs before Run.
func NewAsker(o AskerOptions) *Asker {
	return &Asker{o: o, log: o.Room.log, some: newSignal(), filters: map[string]*filter{}, told: map[Key]bool{}}
}

// Ask is for ForemanOptions: it lets the client run the condition, or has the filter
// decide if there is nothing else. It does not wait.
func (a *Asker) Ask(q Question) {
	if q.Conditions.Condition == "" {
		a.push(flows.Heard{Org: q.Org, Client: q.Client, Hunt: q.Hunt, Asked: q.Asked, Whole: true}, q.rule)
		return
	}
	a.o.Inquire(flows.Inquiry{
		Org: q.Org, Client: q.Client, Hunt: q.Hunt, Asked: q.Asked, Request: q.Conditions.ConditionRequest,
		Expired: func() { a.o.Foreman.Unanswered(q) },
	})
}

// Heard takes the answer of a client, whichever node asked. It does not wait.
func (a *Asker) Heard(h flows.Heard) {
	key := Key{h.Org, h.Hunt}
	rule := a.o.Room.rule(key)
	if rule == nil || rule.c.Condition == "" {
		return // the hunt ended meanwhile
	}
	switch {
	case h.Error != "":
		a.fail(key, h.Error, "client", h.Client.String())
		a.o.Foreman.Answer(key, h.Client, h.Asked, false)
	case rule.c.Filter == "" || h.Count == 0:
		a.o.Foreman.Answer(key, h.Client, h.Asked, h.Count > 0)
	case h.Whole:
		a.push(h, rule)
	default: // some rows came to another node: whoever asked does so again
		a.o.Room.metrics.scattered.Inc()
	}
}

func (a *Asker) push(h flows.Heard, r *rule) {
	a.mu.Lock()
	a.waiting = append(a.waiting, answered{h, r})
	a.mu.Unlock()
	a.some.give()
}

// fail counts what a condition or filter could not decide, and logs the first of each
// hunt. Such a client is declined, so that it is asked again only when it changes.
func (a *Asker) fail(key Key, text string, attributes ...any) {
	a.o.Room.metrics.undecided.Inc()
	a.mu.Lock()
	told := a.told[key]
	a.told[key] = true
	a.mu.Unlock()
	if !told {
		a.log.Warn("condition of a hunt fails; more failures of it are only counted", append(attributes, "hunt", key.Hunt.String(), "err", text)...)
	}
}

// Run lets filters decide until ctx ends; then it returns nil. What waits then is asked
// again by another node.
func (a *Asker) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.some:
		}
		a.mu.Lock()
		all := a.waiting
		a.waiting = nil
		a.mu.Unlock()
		a.decide(ctx, all)
		a.tidy()
	}
}

// decide filters on all processors.
func (a *Asker) decide(ctx context.Context, all []answered) {
	var workers sync.WaitGroup
	next := make(chan answered) // no slot: a worker takes it or all are busy
	for range min(runtime.GOMAXPROCS(0), len(all)) {
		workers.Go(func() {
			for one := range next {
				a.filter(ctx, one)
			}
		})
	}
	for _, one := range all {
		next <- one
	}
	close(next)
	workers.Wait()
}

func (a *Asker) filter(ctx context.Context, one answered) {
	h, key := one.heard, one.rule.key
	record, err := a.o.Room.o.Clients.Lookup(h.Org, h.Client)
	if err != nil || ctx.Err() != nil {
		return // deleted meanwhile, or the node stops
	}
	passed := false
	f, err := a.compiled(one.rule.c.Filter)
	if err == nil {
		passed, err = f.passes(ctx, h.Rows, record)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.fail(key, err.Error(), "client", h.Client.String())
	}
	a.o.Foreman.Answer(key, h.Client, h.Asked, passed && err == nil)
}

// compiled is the filter of a text, parsed once.
func (a *Asker) compiled(text string) (*filter, error) {
	a.mu.Lock()
	f := a.filters[text]
	a.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := newFilter(a.o.Engine, text)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.filters[text] = f
	return f, nil
}

// tidy forgets about hunts that do not recruit any more.
func (a *Asker) tidy() {
	used, recruiting := map[string]bool{}, map[Key]bool{}
	for _, rules := range *a.o.Room.rules.Load() {
		for _, rule := range rules {
			used[rule.c.Filter], recruiting[rule.key] = true, true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for text := range a.filters {
		if !used[text] {
			delete(a.filters, text)
		}
	}
	for key := range a.told {
		if !recruiting[key] {
			delete(a.told, key)
		}
	}
}
