package filestore

import (
	"context"
	"sync"
	"time"

	"raptorpack/internal/retry"
)

// roundsAtOnce is how many rounds of a class are under way: while one waits for
// the outbox's sync, the next writes its data.
const roundsAtOnce = 2

// maxRoundTickets bounds a round by number; RoundBytes bounds it by size.
const maxRoundTickets = 512

// refile is how what met a failing file is tried again, in a new part.
var refile = retry.Policy{First: 20 * time.Millisecond, Cap: 2 * time.Second}

// lane gathers the commits of one class into rounds.
type lane struct {
	c      *Committer
	class  Class
	window time.Duration
	wake   chan struct{} // one slot; full: the lane will look anyway
	slots  chan struct{} // one element per round under way; full: the queue grows

	mu    sync.Mutex
	queue []*ticket
	bytes int64
}

func newLane(c *Committer, class Class, window time.Duration) *lane {
	return &lane{
		c: c, class: class, window: window,
		wake: make(chan struct{}, 1), slots: make(chan struct{}, roundsAtOnce),
	}
}

func (l *lane) put(tickets ...*ticket) {
	l.mu.Lock()
	for _, t := range tickets {
		l.queue = append(l.queue, t)
		l.bytes += t.size
	}
	l.mu.Unlock()
	l.signal()
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run starts rounds until ctx ends and the queue is empty, or life ends.
func (l *lane) run(ctx, life context.Context) {
	var rounds sync.WaitGroup
	defer rounds.Wait()
	for {
		if !l.gather(ctx, life) {
			return
		}
		select {
		case l.slots <- struct{}{}:
		case <-life.Done():
			return
		}
		tickets := l.take(ctx.Err() != nil)
		if len(tickets) == 0 {
			<-l.slots
			continue
		}
		rounds.Go(func() {
			defer l.signal() // the queue may be due now
			defer func() { <-l.slots }()
			l.c.round(life, l, tickets)
		})
	}
}

// gather waits until a round is due; false means that there will be none.
func (l *lane) gather(ctx, life context.Context) bool {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		draining := ctx.Err() != nil // one look: what is waited for below follows from it
		wait, any := l.due(draining)
		if any && wait <= 0 {
			return true
		}
		if !any && draining && len(l.slots) == 0 && l.empty() {
			return false
		}
		if any {
			timer.Reset(wait)
		} else {
			timer.Reset(time.Hour)
		}
		done := ctx.Done()
		if draining {
			done = life.Done() // draining: only a round's end or the limit matter
		}
		select {
		case <-l.wake:
		case <-timer.C:
		case <-done:
			if life.Err() != nil {
				return false
			}
		}
	}
}

func (l *lane) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) == 0
}

// due says how long the oldest ticket may still wait for company. Interactive
// ones do not wait when nothing is under way: those that come meanwhile are the
// next round.
func (l *lane) due(draining bool) (wait time.Duration, any bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return 0, false
	}
	idle := l.class == Interactive && len(l.slots) == 0
	now := time.Now()
	wait = time.Hour
	for _, t := range l.queue {
		left := t.since.Add(l.patience(t)).Sub(now)
		if idle || draining || l.bytes >= l.c.o.RoundBytes {
			left = 0
		}
		wait = min(wait, max(left, t.notUntil.Sub(now)))
		if wait <= 0 {
			break
		}
	}
	return wait, true
}

// largeTicket is the size from which a ticket is worth a write of its own: it waits
// half as long, as whoever sends much waits for each piece in turn.
const largeTicket = 64 << 10

// patience is how long a ticket waits for company.
func (l *lane) patience(t *ticket) time.Duration {
	if t.size >= largeTicket {
		return l.window / 2
	}
	return l.window
}

// take removes the next round's tickets from the queue. Those whose callers have
// left are answered: nobody would tell their client that it is stored.
func (l *lane) take(draining bool) []*ticket {
	l.mu.Lock()
	now := time.Now()
	var round, left, gone []*ticket
	var bytes int64
	for i, t := range l.queue {
		full := len(round) == maxRoundTickets || len(round) > 0 && bytes+t.size > l.c.o.RoundBytes
		if full {
			left = append(left, l.queue[i:]...)
			break
		}
		switch {
		case t.gone():
			gone = append(gone, t)
			l.bytes -= t.size
		case t.notUntil.After(now) && !draining:
			left = append(left, t)
		default:
			round = append(round, t)
			bytes += t.size
			l.bytes -= t.size
		}
	}
	l.queue = left
	l.mu.Unlock()
	for _, t := range gone {
		l.c.settle(t, context.Cause(t.ctx))
	}
	return round
}

// refuse answers all that is still queued.
func (l *lane) refuse(err error) {
	l.mu.Lock()
	queue := l.queue
	l.queue, l.bytes = nil, 0
	l.mu.Unlock()
	for _, t := range queue {
		l.c.settle(t, err)
	}
}

// again queues a ticket once more, for another round in a while.
func (l *lane) again(t *ticket) {
	t.tries++
	t.failed = nil
	t.notUntil = time.Now().Add(refile.Pause(t.tries))
	if t.tries == 1 {
		t.notUntil = time.Time{} // a new part mostly helps at once
	}
	l.mu.Lock()
	l.queue = append([]*ticket{t}, l.queue...)
	l.bytes += t.size
	l.mu.Unlock()
	l.signal()
}
