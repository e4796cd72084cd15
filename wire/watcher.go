package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Watcher waits for many connections at a time, so that none of them takes a
// goroutine while it has nothing to say: their stacks are most of what an idle
// connection would cost. Where the system has no means that we use (it is epoll, on
// Linux), or while Run does not run, no connection rests and all are read as ever.
// Safe for concurrent use.
type Watcher struct {
	tick   time.Duration
	poll   *poller
	closed chan struct{} // one slot: "look at due"; a full slot needs no second signal

	mu      sync.Mutex
	running bool
	seats   []seat  // by number; the first is nobody's
	free    []int32 // numbers without a connection
	due     []func(context.Context)
}

// seat is where one connection rests.
type seat struct {
	turn   uint32 // raised when another connection gets the seat
	resume func(context.Context)
	place  *place
	silent time.Duration // since clockZero: when its silence is over
}

// clockZero is what watchers count time from.
var clockZero = time.Now()

// watchTicks is how finely the end of a silence is seen.
const watchTicks = 32

// NewWatcher makes a Watcher for connections whose silence may last so long.
func NewWatcher(silence time.Duration) *Watcher {
	return &Watcher{tick: max(silence/watchTicks, 10*time.Millisecond), closed: make(chan struct{}, 1), seats: make([]seat, 1)}
}

// Run watches until ctx ends, with which connections are resumed. Those that rest
// then are resumed, too, and none rests any more.
func (w *Watcher) Run(ctx context.Context) error {
	poll, err := newPoller()
	if errors.Is(err, errors.ErrUnsupported) {
		<-ctx.Done()
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch connections: %w", err)
	}
	w.begin(poll)
	var timer sync.WaitGroup
	timer.Go(func() { w.keepTime(ctx) })
	err = poll.wait(func(number int32, turn uint32) { w.woken(ctx, number, turn) })
	w.end(ctx)
	timer.Wait()
	if ctx.Err() == nil {
		return fmt.Errorf("watch connections: %w", err)
	}
	return nil
}

func (w *Watcher) begin(poll *poller) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.poll, w.running = poll, true
}

func (w *Watcher) end(ctx context.Context) {
	w.mu.Lock()
	w.running = false
	resumes := w.due
	for n := range w.seats {
		if resume := w.seats[n].take(); resume != nil {
			resumes = append(resumes, resume)
		}
	}
	w.due = nil
	w.mu.Unlock()
	for _, resume := range resumes {
		go resume(ctx) // waited for by whoever serves the connection
	}
	w.poll.close()
}

// take empties a seat. The lock is held.
func (s *seat) take() func(context.Context) {
	resume := s.resume
	s.resume = nil
	return resume
}

// woken resumes the connection on which something came, if it rests still.
func (w *Watcher) woken(ctx context.Context, number int32, turn uint32) {
	w.mu.Lock()
	var resume func(context.Context)
	if s := &w.seats[number]; s.turn == turn {
		resume = s.take()
	}
	w.mu.Unlock()
	if resume != nil {
		go resume(ctx) // as above
	}
}

// keepTime resumes connections that were closed, and those that were silent for too
// long.
func (w *Watcher) keepTime(ctx context.Context) {
	ticker := time.NewTicker(w.tick)
	defer ticker.Stop()
	for {
		var resumes []func(context.Context)
		select {
		case <-ctx.Done():
			w.poll.interrupt()
			return
		case <-w.closed:
			resumes = w.left()
		case <-ticker.C:
			resumes = w.silent(time.Since(clockZero))
		}
		for _, resume := range resumes {
			go resume(ctx) // as above
		}
	}
}

func (w *Watcher) left() []func(context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resumes := w.due
	w.due = nil
	return resumes
}

func (w *Watcher) silent(now time.Duration) []func(context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var resumes []func(context.Context)
	for n := range w.seats {
		if s := &w.seats[n]; s.resume != nil && s.silent <= now {
			s.place.expired.Store(true)
			resumes = append(resumes, s.take())
		}
	}
	return resumes
}

// place is a connection's side of it.
type place struct {
	watcher *Watcher        // nil: it never rests
	raw     syscall.RawConn // of the TCP connection
	layered bool            // something lies between that may keep bytes it has read
	expired atomic.Bool     // the silence was too long
	number  int32           // of the seat, 0: none yet; guarded by the watcher
	turn    uint32          // likewise
}

// of finds the TCP connection below conn.
func (p *place) of(w *Watcher, conn net.Conn) {
	if w == nil {
		return
	}
	below := conn
	if t, ok := below.(*tls.Conn); ok {
		below = t.NetConn()
	}
	if proxied, ok := below.(interface{ Raw() net.Conn }); ok {
		below = proxied.Raw()
	}
	tcp, ok := below.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		p.watcher, p.raw, p.layered = w, raw, below != conn
	}
}

// rest takes the connection's seat and has the system tell when something comes.
func (p *place) rest(s *served, resume func(context.Context)) bool {
	w := p.watcher
	w.mu.Lock()
	if !w.running || s.closed.Load() {
		w.mu.Unlock()
		return false
	}
	first := p.number == 0
	if first {
		p.number = w.seat()
		p.turn = w.seats[p.number].turn
	}
	number, turn := p.number, p.turn
	w.seats[number].resume, w.seats[number].place = resume, p
	w.seats[number].silent = time.Since(clockZero) + s.silence
	w.mu.Unlock()

	err := w.poll.arm(p.raw, first, number, turn)
	if err == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if seat := &w.seats[number]; seat.turn == turn && seat.take() != nil {
		return false
	}
	return true // somebody was faster, and resumes it
}

// seat finds a free one. The lock is held.
func (w *Watcher) seat() int32 {
	if last := len(w.free) - 1; last >= 0 {
		number := w.free[last]
		w.free = w.free[:last]
		return number
	}
	w.seats = append(w.seats, seat{})
	return int32(len(w.seats) - 1)
}

// leave gives the seat up after the connection was closed. If it rested, Run resumes
// it, so that its reader sees the end.
func (p *place) leave() {
	w := p.watcher
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.number == 0 {
		return
	}
	s := &w.seats[p.number]
	if resume := s.take(); resume != nil {
		w.due = append(w.due, resume)
		select {
		case w.closed <- struct{}{}:
		default:
		}
	}
	s.turn++
	s.place = nil
	w.free = append(w.free, p.number)
	p.number = 0
}
