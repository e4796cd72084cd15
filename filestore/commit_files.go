package filestore

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// maxKnownFiles bounds how many closed files a cache remembers, so that they
// can be continued. A forgotten one gets a new part.
const maxKnownFiles = 16_384

// fileCache keeps one value per file that this incarnation writes, lends it to
// one user at a time, and bounds how many of them are open.
type fileCache[K comparable, V fileState] struct {
	fresh   func(K) V
	maxOpen int

	mu      sync.Mutex
	entries map[K]*fileEntry[K, V]
	order   *list.List // of *fileEntry, last used first
	open    int        // entries whose files are open, as of their last release
}

// fileState is what a cache asks of its values.
type fileState interface{ isOpen() bool }

type fileEntry[K comparable, V fileState] struct {
	key   K
	value V
	held  chan struct{} // one element while lent; full: the next user waits

	// Guarded by the cache's mutex.
	users   int
	place   *list.Element
	used    time.Time
	counted bool // in open
	dropped bool // no longer in entries
}

func newFileCache[K comparable, V fileState](maxOpen int, fresh func(K) V) *fileCache[K, V] {
	return &fileCache[K, V]{
		fresh: fresh, maxOpen: maxOpen, entries: make(map[K]*fileEntry[K, V]), order: list.New(),
	}
}

// acquire lends the value of a key; release gives it back. The error is ctx's.
func (c *fileCache[K, V]) acquire(ctx context.Context, key K) (*fileEntry[K, V], error) {
	c.mu.Lock()
	e := c.entries[key]
	if e == nil {
		e = &fileEntry[K, V]{key: key, value: c.fresh(key), held: make(chan struct{}, 1)}
		e.place = c.order.PushFront(e)
		c.entries[key] = e
	}
	e.users++
	c.mu.Unlock()
	select {
	case e.held <- struct{}{}:
		return e, nil
	case <-ctx.Done():
		c.leave(e)
		return nil, context.Cause(ctx)
	}
}

func (c *fileCache[K, V]) release(e *fileEntry[K, V]) {
	open := e.value.isOpen()
	<-e.held
	c.mu.Lock()
	if open != e.counted && !e.dropped {
		e.counted = open
		c.open += map[bool]int{true: 1, false: -1}[open]
	}
	e.used = time.Now()
	if !e.dropped {
		c.order.MoveToFront(e.place)
	}
	e.users--
	c.mu.Unlock()
}

func (c *fileCache[K, V]) leave(e *fileEntry[K, V]) {
	c.mu.Lock()
	e.users--
	c.mu.Unlock()
}

// peek returns the value of a key without lending it.
func (c *fileCache[K, V]) peek(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		return e.value, true
	}
	var none V
	return none, false
}

// trim closes the least recently used files beyond maxOpen, and forgets the
// oldest closed ones.
func (c *fileCache[K, V]) trim(closeFile func(V)) { c.closeSome(time.Time{}, closeFile) }

// closeIdle closes what was last used before a time, and what is too much.
func (c *fileCache[K, V]) closeIdle(before time.Time, closeFile func(V)) {
	c.closeSome(before, closeFile)
}

func (c *fileCache[K, V]) closeSome(before time.Time, closeFile func(V)) {
	c.mu.Lock()
	if c.open <= c.maxOpen && before.IsZero() && len(c.entries) <= maxKnownFiles {
		c.mu.Unlock()
		return
	}
	var closing []*fileEntry[K, V]
	surplus := c.open - c.maxOpen
	var next *list.Element
	for at := c.order.Back(); at != nil; at = next {
		next = at.Prev()
		e := at.Value.(*fileEntry[K, V])
		switch {
		case e.users > 0:
		case e.counted && (surplus > 0 || e.used.Before(before)):
			e.users++ // a waiting user finds it closed, and opens it again
			e.held <- struct{}{}
			closing = append(closing, e)
			surplus--
		case !e.counted && len(c.entries) > maxKnownFiles:
			c.remove(e)
		}
		if surplus <= 0 && len(c.entries) <= maxKnownFiles && !e.used.Before(before) {
			break
		}
	}
	c.mu.Unlock()
	for _, e := range closing {
		closeFile(e.value)
		c.release(e)
	}
}

// remove forgets an entry; the mutex is held.
func (c *fileCache[K, V]) remove(e *fileEntry[K, V]) {
	delete(c.entries, e.key)
	c.order.Remove(e.place)
	e.dropped = true
	if e.counted {
		c.open--
	}
}

// drop closes and forgets the files whose keys match, once nobody uses them.
func (c *fileCache[K, V]) drop(match func(K) bool, closeFile func(V)) {
	c.mu.Lock()
	var dropped []*fileEntry[K, V]
	for key, e := range c.entries {
		if match(key) {
			c.remove(e)
			dropped = append(dropped, e)
		}
	}
	c.mu.Unlock()
	for _, e := range dropped {
		e.held <- struct{}{} // wait for its user; one that comes later has a new entry
		closeFile(e.value)
		<-e.held
	}
}
