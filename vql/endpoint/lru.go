package endpoint

import (
	"container/list"
	"context"
	"errors"
	"sync"

	"raptorpack/vql"
)

type lruArgs struct {
	Size int64 `vql:"size" doc:"How many keys it holds (1000)."`
}

var errNoNumber = errors.New("size has to be at least 1")

const (
	defaultLRU = 1000
	maxLRU     = 1 << 20
)

var lruFunction = vql.NewFunction(vql.Spec{
	Name: "lru", Doc: "Makes a dict of limited size: set() adds to it, and the key that was used longest ago goes.",
}, func(_ context.Context, _ *vql.Scope, args *lruArgs) (vql.Value, error) {
	size := args.Size
	switch {
	case size < 0:
		return nil, errNoNumber
	case size == 0:
		size = defaultLRU
	}
	return vql.HostObject(newLRU(int(min(size, maxLRU)))), nil
})

// lruCache is a dict that forgets. It is safe for concurrent use.
type lruCache struct {
	size int

	mu    sync.Mutex
	order *list.List // of *lruEntry, the latest used in front
	byKey map[string]*list.Element
}

type lruEntry struct {
	key   string
	value vql.Value
}

func newLRU(size int) *lruCache {
	return &lruCache{size: size, order: list.New(), byKey: map[string]*list.Element{}}
}

// Members implements vql.Object: the keys, the latest used first.
func (c *lruCache) Members() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]string, 0, len(c.byKey))
	for e := c.order.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(*lruEntry).key)
	}
	return out
}

// Member implements vql.Object; asking for a key uses it.
func (c *lruCache) Member(name string) (vql.Value, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[name]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruEntry).value, true
}

// SetMember implements vql.Settable.
func (c *lruCache) SetMember(name string, v vql.Value) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[name]; ok {
		e.Value.(*lruEntry).value = v
		c.order.MoveToFront(e)
		return
	}
	c.byKey[name] = c.order.PushFront(&lruEntry{name, v})
	if len(c.byKey) > c.size {
		last := c.order.Back()
		delete(c.byKey, c.order.Remove(last).(*lruEntry).key)
	}
}
