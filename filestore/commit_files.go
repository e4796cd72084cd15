package filestore

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// maxKnownFiles bounds how many closed files a cache remembers, so that they
// can be continued. A forgotten one gets a new part.
const maxKnownFiles = 4_096

// fileCache keeps one value per file that this incarnation writes, lends it to
// one user at a time, and bounds how many of them are open.
type fileCache[K comparable, V fileState] struct {
	fresh   func(K) V
	maxOpen int

	mu      sync.Mutex
	entries map[K]*fileEntry[K, V]
	opened  *list.List // of *fileEntry whose files were open at their last release, last used first
	closed  *list.List // of the others, in the same order
}

// fileState is what a cache asks of its values.
type fileState interface{ isOpen() bool }

type fileEntry[K comparable, V fileState] struct {
	key   K
	value V
	held  chan struct{} // one element while lent; full: the next user waits

	// Guarded by the cache's mutex.
	users   int
	open    bool          // in opened, else in closed
	place   *list.Element // there
	used    time.Time
	dropped bool // no longer in entries
}

func newFileCache[K comparable, V fileState](maxOpen int, fresh func(K) V) *fileCache[K, V] {
	return &fileCache[K, V]{
		fresh: fresh, maxOpen: maxOpen, entries: make(map[K]*fileEntry[K, V]), opened: list.New(), closed: list.New(),
	}
}

// acquire lends the value of a key; release gives it back. The error is ctx's.
func (c *fileCache[K, V]) acquire(ctx context.Context, key K) (*fileEntry[K, V], error) {
	c.mu.Lock()
	e := c.entries[key]
	if e == nil {
		e = &fileEntry[K, V]{key: key, value: c.fresh(key), held: make(chan struct{}, 1)}
		e.place = c.closed.PushFront(e)
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
	e.used = time.Now()
	if !e.dropped {
		c.list(e).Remove(e.place)
		e.open = open
		e.place = c.list(e).PushFront(e)
	}
	e.users--
	c.mu.Unlock()
}

// list is where an entry stands; the mutex is held.
func (c *fileCache[K, V]) list(e *fileEntry[K, V]) *list.List {
	if e.open {
		return c.opened
	}
	return c.closed
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

// closeSome looks at no more entries than it closes or forgets, and those in use:
// it runs after each commit, with thousands of closed files known.
func (c *fileCache[K, V]) closeSome(before time.Time, closeFile func(V)) {
	c.mu.Lock()
	var closing []*fileEntry[K, V]
	surplus := c.opened.Len() - c.maxOpen
	for at := c.opened.Back(); at != nil; at = at.Prev() {
		e := at.Value.(*fileEntry[K, V])
		if surplus <= 0 && !e.used.Before(before) {
			break
		}
		if e.users == 0 {
			e.users++ // a waiting user finds it closed, and opens it again
			e.held <- struct{}{}
			closing = append(closing, e)
			surplus--
		}
	}
	var next *list.Element
	for at := c.closed.Back(); at != nil && len(c.entries) > maxKnownFiles; at = next {
		next = at.Prev()
		if e := at.Value.(*fileEntry[K, V]); e.users == 0 {
			c.remove(e)
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
	c.list(e).Remove(e.place)
	e.dropped = true
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
