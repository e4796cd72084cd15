package frontend

import (
	"context"
	"sync"

	"raptorpack/notifier"
)

// pushers bounds the WebSockets that are written to at a time; a slow client
// holds one for as long as a write may take.
const pushers = 128

type pushState uint8

const (
	idle    pushState = iota
	queued            // on the list
	running           // a pusher has it
	again             // a pusher has it, and a ring came meanwhile
	gone              // closed
)

// pushes is the list of WebSocket readers whose bell rang. Each is on it at most
// once, so it needs no bound of its own.
type pushes struct {
	signal notifier.Signal
	slots  chan struct{} // full: ringing readers wait on the list

	mu   sync.Mutex
	list []*reader
}

func newPushes() *pushes {
	return &pushes{signal: notifier.NewSignal(), slots: make(chan struct{}, pushers)}
}

// ring puts a reader on the list.
func (p *pushes) ring(r *reader) {
	p.mu.Lock()
	switch r.push {
	case idle:
		r.push = queued
		p.list = append(p.list, r)
	case running:
		r.push = again
	}
	p.mu.Unlock()
	p.signal.Ring()
}

// forget stops further deliveries to a reader that closes.
func (p *pushes) forget(r *reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.push = gone
}

// run delivers until ctx ends, and returns after the last delivery.
func (p *pushes) run(ctx context.Context) {
	var deliveries sync.WaitGroup
	defer deliveries.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.signal:
		}
		for _, r := range p.take() {
			select {
			case <-ctx.Done():
				return
			case p.slots <- struct{}{}:
			}
			deliveries.Go(func() {
				defer func() { <-p.slots }()
				p.deliver(ctx, r)
			})
		}
	}
}

func (p *pushes) take() []*reader {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.list
	p.list = nil
	return list
}

// deliver serves one reader until no ring is left.
func (p *pushes) deliver(ctx context.Context, r *reader) {
	for p.begin(r) {
		r.deliver(ctx)
		p.finish(r)
	}
}

func (p *pushes) begin(r *reader) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.push != queued {
		return false
	}
	r.push = running
	return true
}

func (p *pushes) finish(r *reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.push {
	case running:
		r.push = idle
	case again:
		r.push = queued
	}
}
