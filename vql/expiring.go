package vql

import (
	"container/list"
	"sync"
	"time"
)

// expiring is a bounded map whose entries end after a time; the least recently
// used goes when it is full.
type expiring struct {
	limit int

	mu      sync.Mutex
	entries map[string]*list.Element
	recent  list.List // of *expiringEntry, the newest in front
}

type expiringEntry struct {
	key   string
	value any
	until time.Time
}

func newExpiring(limit int) *expiring {
	return &expiring{limit: limit, entries: map[string]*list.Element{}}
}

// get returns a value that has not ended.
func (e *expiring) get(key string) (any, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	element, ok := e.entries[key]
	if !ok {
		return nil, false
	}
	entry, _ := element.Value.(*expiringEntry)
	if time.Now().After(entry.until) {
		return nil, false
	}
	e.recent.MoveToFront(element)
	return entry.value, true
}

func (e *expiring) set(key string, value any, life time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.put(key, value, life)
}

func (e *expiring) put(key string, value any, life time.Duration) {
	entry := &expiringEntry{key: key, value: value, until: time.Now().Add(life)}
	if element, ok := e.entries[key]; ok {
		element.Value = entry
		e.recent.MoveToFront(element)
		return
	}
	e.entries[key] = e.recent.PushFront(entry)
	for len(e.entries) > e.limit {
		last := e.recent.Back()
		old, _ := e.recent.Remove(last).(*expiringEntry)
		delete(e.entries, old.key)
	}
}

// add remembers a key and reports whether it was new.
func (e *expiring) add(key string, life time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if element, ok := e.entries[key]; ok {
		entry, _ := element.Value.(*expiringEntry)
		if time.Now().Before(entry.until) {
			return false
		}
	}
	e.put(key, nil, life)
	return true
}
