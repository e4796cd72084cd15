package flows

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// barrier lets many wait for one thing that holds at some moment after they
// began to wait: all that come while one call is under way share the next.
type barrier struct {
	call  func(context.Context) error // nil: there is nothing to wait for
	ready chan struct{}               // one slot: somebody waits; a full slot says so already

	mu      sync.Mutex
	waiting []chan error // each with room for its one answer
}

func newBarrier(call func(context.Context) error) *barrier {
	return &barrier{call: call, ready: make(chan struct{}, 1)}
}

// wait returns when a call has ended that began after wait did.
func (b *barrier) wait(ctx context.Context) error {
	if b.call == nil {
		return nil
	}
	answer := make(chan error, 1)
	b.mu.Lock()
	b.waiting = append(b.waiting, answer)
	b.mu.Unlock()
	signal([]chan struct{}{b.ready})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run makes the calls until ctx ends.
func (b *barrier) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.ready:
		}
		b.mu.Lock()
		waiting := b.waiting
		b.waiting = nil
		b.mu.Unlock()
		if len(waiting) == 0 {
			continue
		}
		err := b.call(ctx)
		for _, answer := range waiting {
			answer <- err
		}
	}
}

// fences are the connections of which this node does not know yet which tasks
// are older: another node may have applied entries, and handed out what they say,
// that have not come here when the client does.
type fences struct {
	ready chan struct{} // one slot: some are open; a full slot says so already

	mu   sync.Mutex
	open map[*Attachment]struct{}
}

func newFences() fences {
	return fences{ready: make(chan struct{}, 1), open: map[*Attachment]struct{}{}}
}

func (f *fences) add(a *Attachment) {
	f.mu.Lock()
	f.open[a] = struct{}{}
	f.mu.Unlock()
	signal([]chan struct{}{f.ready})
}

func (f *fences) remove(a *Attachment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, a)
}

func (f *fences) all() []*Attachment {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]*Attachment, 0, len(f.open))
	for a := range f.open {
		out = append(out, a)
	}
	return out
}

// raiseFences finds out, for the connections that began since it was called last,
// where the ledger stood when they did. Until then each task is asked about.
func (r *Room) raiseFences(ctx context.Context) error {
	began := r.fences.all()
	if len(began) == 0 {
		return nil
	}
	if err := r.fresh.wait(ctx); err != nil {
		return fmt.Errorf("learn where the ledger stands: %w", err)
	}
	for _, a := range began {
		s := r.shard(a.owner)
		s.mu.Lock()
		_, a.since = r.open(a.owner)
		s.mu.Unlock()
		r.fences.remove(a)
	}
	return nil
}

// keepFences raises fences until ctx ends.
func (r *Room) keepFences(ctx context.Context) {
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.fences.ready:
		}
		err := r.raiseFences(ctx)
		if err != nil && ctx.Err() == nil {
			if !told {
				r.log.Warn("nobody says where the ledger stands: tasks are asked about first", "err", err)
			}
			pause(ctx, retryPause)
			signal([]chan struct{}{r.fences.ready})
		}
		told = err != nil
	}
}

// catchUp makes sure that what this node does not know does not exist: a client
// may name a flow or an event table that it was given by a node that is ahead.
func (r *Room) catchUp(ctx context.Context) error {
	start := time.Now()
	if err := r.fresh.wait(ctx); err != nil {
		return fmt.Errorf("make sure that this node knows what the ledger holds: %w", err)
	}
	r.metrics.caughtUp.Observe(time.Since(start).Seconds())
	return nil
}
