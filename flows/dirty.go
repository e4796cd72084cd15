package flows

import (
	"context"
	"sync"
	"time"
)

// dirtySet is a set of keys and a one-slot signal that it is not empty.
type dirtySet struct {
	limit int // 0: none. A full set forgets any one key for a new one.
	ready chan struct{}

	mu   *sync.Mutex
	keys map[Key]struct{}
}

func newDirtySet(limit int) dirtySet {
	return dirtySet{limit: limit, ready: make(chan struct{}, 1), mu: &sync.Mutex{}, keys: map[Key]struct{}{}}
}

func (d *dirtySet) add(k Key) {
	d.mu.Lock()
	if d.limit > 0 && len(d.keys) >= d.limit {
		for old := range d.keys {
			delete(d.keys, old)
			break
		}
	}
	d.keys[k] = struct{}{}
	d.mu.Unlock()
	signal([]chan struct{}{d.ready})
}

func (d *dirtySet) take() []Key {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Key, 0, len(d.keys))
	for k := range d.keys {
		out = append(out, k)
	}
	clear(d.keys)
	return out
}

// any reports whether keys wait.
func (d *dirtySet) any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.keys) > 0
}

// keep puts a key back without a signal: its taker will look again by itself.
func (d *dirtySet) keep(k Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys[k] = struct{}{}
}

// work lets do take what is in the set, whenever something is added, until ctx
// ends. What do leaves in it, it looks at again after a pause; after an error it
// looks at nothing before.
func (d *dirtySet) work(ctx context.Context, do func(context.Context) error, told func(error)) {
	var again <-chan time.Time
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
			again = nil
		case <-d.ready:
			if failed && again != nil {
				continue // after the pause
			}
		}
		err := do(ctx)
		if failed = err != nil; ctx.Err() == nil {
			told(err)
		}
		if d.any() {
			again = time.After(retryPause)
		}
	}
}
