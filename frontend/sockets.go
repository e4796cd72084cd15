package frontend

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// sockets are the open WebSockets of this node and their goroutines.
type sockets struct {
	mu     sync.Mutex
	all    map[*connection]struct{}
	closed bool
	served sync.WaitGroup
}

func newSockets() *sockets { return &sockets{all: make(map[*connection]struct{})} }

// add takes a connection whose goroutine is about to start; false when all are
// to be closed.
func (s *sockets) add(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.all[c] = struct{}{}
	s.served.Add(1)
	return true
}

// done is the last thing a connection's goroutine does.
func (s *sockets) done(c *connection) {
	s.mu.Lock()
	delete(s.all, c)
	s.mu.Unlock()
	s.served.Done()
}

func (s *sockets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// closeOne closes any connection; false when there is none. A control post in
// progress still gets its answer if the client waits for it on that connection:
// closing is left to its goroutine then.
func (s *sockets) closeOne() bool {
	s.mu.Lock()
	var one *connection
	for c := range s.all {
		one = c
		delete(s.all, c)
		break
	}
	s.mu.Unlock()
	if one == nil {
		return false
	}
	one.handOver()
	return true
}

// closeAll closes what is left and takes no more.
func (s *sockets) closeAll() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for s.closeOne() {
	}
}

// wait returns when the last connection's goroutine has ended.
func (s *sockets) wait() { s.served.Wait() }

// wheelSlots is how finely pings are spread over the interval.
const wheelSlots = 64

// wheel pings all WebSockets from one goroutine: each connection has a slot, and
// the slots come round a little faster than clients expect pings.
type wheel struct {
	tick time.Duration
	ping func(*connection)

	mu    sync.Mutex
	slots [wheelSlots]map[*connection]struct{}
}

func newWheel(interval time.Duration, ping func(*connection)) *wheel {
	w := &wheel{tick: max(interval*9/10/wheelSlots, time.Millisecond), ping: ping}
	for i := range w.slots {
		w.slots[i] = make(map[*connection]struct{})
	}
	return w
}

func (w *wheel) add(c *connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.slot = rand.N(wheelSlots)
	w.slots[c.slot][c] = struct{}{}
}

func (w *wheel) remove(c *connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.slots[c.slot], c)
}

func (w *wheel) run(ctx context.Context) {
	ticker := time.NewTicker(w.tick)
	defer ticker.Stop()
	var due []*connection
	for slot := 0; ; slot = (slot + 1) % wheelSlots {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		due = w.due(slot, due[:0])
		for _, c := range due {
			w.ping(c)
		}
		clear(due)
	}
}

func (w *wheel) due(slot int, due []*connection) []*connection {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.slots[slot] {
		due = append(due, c)
	}
	return due
}
