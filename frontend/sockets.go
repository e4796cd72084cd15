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

	closing sync.WaitGroup
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
	s.closing.Go(one.handOver) // one that does not listen must not hold up the others
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
func (s *sockets) wait() {
	s.closing.Wait()
	s.served.Wait()
}

// wheelSlots is how finely pings are spread over the interval.
const wheelSlots = 64

// wheelHands bounds the connections that are visited at a time. A visit waits a
// moment for a client that does not read, and then ends its connection.
const wheelHands = 256

// wheel visits all WebSockets from one goroutine: each connection has a slot, and
// the slots come round a little faster than clients expect pings. The first visit
// comes no sooner than newcomers have to show who they are.
type wheel struct {
	tick  time.Duration
	visit func(*connection)
	hands chan struct{} // full: the next visit waits

	mu    sync.Mutex
	at    int // the slot visited last
	slots [wheelSlots]map[*connection]struct{}
}

func newWheel(interval time.Duration, visit func(*connection)) *wheel {
	w := &wheel{tick: max(interval*9/10/wheelSlots, time.Millisecond), visit: visit, hands: make(chan struct{}, wheelHands)}
	for i := range w.slots {
		w.slots[i] = make(map[*connection]struct{})
	}
	return w
}

func (w *wheel) add(c *connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	grace := min(int(newcomerGrace/w.tick)+1, wheelSlots*3/4)
	c.slot = (w.at + grace + rand.N(wheelSlots-grace) + 1) % wheelSlots
	w.slots[c.slot][c] = struct{}{}
}

func (w *wheel) remove(c *connection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.slots[c.slot], c)
}

// run turns the wheel until ctx ends, and returns after the last visit.
func (w *wheel) run(ctx context.Context) {
	var visits sync.WaitGroup
	defer visits.Wait()
	ticker := time.NewTicker(w.tick)
	defer ticker.Stop()
	var due []*connection
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		due = w.turn(due[:0])
		for _, c := range due {
			w.hands <- struct{}{}
			visits.Go(func() {
				defer func() { <-w.hands }()
				w.visit(c)
			})
		}
		clear(due)
	}
}

// turn goes on to the next slot.
func (w *wheel) turn(due []*connection) []*connection {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = (w.at + 1) % wheelSlots
	for c := range w.slots[w.at] {
		due = append(due, c)
	}
	return due
}
