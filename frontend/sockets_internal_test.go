package frontend

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Clients that read nothing delay no ping of those that do.
func TestStalledSocketsDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = time.Minute
		healthy := &connection{}
		var mu sync.Mutex
		last, longest := time.Now(), time.Duration(0)
		w := newWheel(interval, func(c *connection) {
			if c != healthy {
				time.Sleep(600 * time.Millisecond) // what a stalled one costs at most
				return
			}
			mu.Lock()
			defer mu.Unlock()
			longest, last = max(longest, time.Since(last)), time.Now()
		})
		for range 1000 {
			w.add(&connection{})
		}
		w.add(healthy)
		ctx, cancel := context.WithTimeout(t.Context(), 10*interval)
		defer cancel()
		w.run(ctx)
		if longest == 0 || longest > interval {
			t.Errorf("longest pause between pings: %v", longest)
		}
	})
}

// The first visit comes after the time that newcomers have, and not later than
// clients expect a ping.
func TestFirstVisitLeavesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		first := make(map[*connection]time.Duration)
		w := newWheel(time.Minute, func(c *connection) {
			mu.Lock()
			defer mu.Unlock()
			if _, seen := first[c]; !seen {
				first[c] = time.Since(start)
			}
		})
		for range 500 {
			w.add(&connection{})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w.run(ctx)
		if len(first) != 500 {
			t.Errorf("%d of 500 were visited within the interval", len(first))
		}
		for _, at := range first {
			if at < newcomerGrace {
				t.Errorf("visited after %v", at)
			}
		}
	})
}

func TestSourcesAreBounded(t *testing.T) {
	s := newSources(3)
	if !s.take("a", 2) || s.take("a", 2) || !s.take("b", 3) || !s.take("", 100) {
		t.Error("a source has three, each for itself; the one without a name has no bound")
	}
	s.give("a", 2)
	s.give("b", 3)
	s.give("", 100)
	if len(s.held) != 0 || !s.take("a", 3) {
		t.Errorf("left behind: %v", s.held)
	}
}
