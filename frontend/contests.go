package frontend

import (
	"fmt"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"raptorpack/notifier"
)

const (
	contestsKept  = 8192
	contestTurns  = 3 // changes of address within contestWindow that no roaming laptop makes
	contestWindow = 10 * time.Minute
)

// contests notices clients whose reader is taken over again and again from
// different addresses: two holders of one key.
type contests struct {
	mu   sync.Mutex
	seen *otter.Cache[notifier.Key, contest]
}

type contest struct {
	address string
	turns   int
	since   time.Time
}

func newContests() (*contests, error) {
	seen, err := otter.New(&otter.Options[notifier.Key, contest]{MaximumSize: contestsKept, Executor: func(task func()) { task() }})
	if err != nil {
		return nil, fmt.Errorf("cache of contests: %w", err)
	}
	return &contests{seen: seen}, nil
}

// replaced notes that a reader from address took the place of a live one, and
// reports whether this makes a contest.
func (c *contests) replaced(key notifier.Key, address string) bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	last, known := c.seen.GetIfPresent(key)
	if !known || now.Sub(last.since) > contestWindow {
		last = contest{address: address, since: now}
	}
	if last.address != address {
		last.address = address
		last.turns++
	}
	c.seen.Set(key, last)
	return last.turns >= contestTurns
}
