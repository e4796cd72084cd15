package client

import (
	"context"
	"fmt"
	"runtime/metrics"
	"sync"
	"time"
)

// nannyLook is how often the watchdog looks.
const nannyLook = 10 * time.Second

// nanny ends the agent's Run when a comms loop is stuck or the process holds
// too much memory, so that whoever started it starts it afresh. The transport
// bounds each of its waits, so a stuck loop is a fault of ours.
type nanny struct {
	delay  time.Duration
	memory int64

	mu    sync.Mutex
	beats map[string]time.Time // of loops that talk now
}

func newNanny(delay time.Duration, memory int64) *nanny {
	return &nanny{delay: delay, memory: memory, beats: map[string]time.Time{}}
}

// beat says that a loop is about to talk to the server.
func (n *nanny) beat(loop string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.beats[loop] = time.Now()
}

// park says that a loop has come back.
func (n *nanny) park(loop string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.beats, loop)
}

// run watches until ctx ends.
func (n *nanny) run(ctx context.Context) error {
	if n.delay <= 0 && n.memory <= 0 {
		return nil
	}
	ticker := time.NewTicker(nannyLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if err := n.look(now); err != nil {
				return err
			}
		}
	}
}

func (n *nanny) look(now time.Time) error {
	if n.memory > 0 {
		if held := heldBytes(); held > n.memory {
			return fmt.Errorf("%w: %d bytes held, %d allowed", ErrMemory, held, n.memory)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for loop, since := range n.beats {
		if n.delay > 0 && now.Sub(since) > n.delay {
			return fmt.Errorf("%w: %s for %s", ErrStalled, loop, now.Sub(since))
		}
	}
	return nil
}

// heldBytes is the heap in use.
func heldBytes() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
