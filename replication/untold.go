package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"raptorpack/proto/buspb"
)

// Untold returns the facts that any incarnation, living or dead, had made durable
// in its outbox when the call began and that are not applied here, with whole
// bodies. It reads the tail of every outbox: dear, and for what is rare.
func (n *Node) Untold(ctx context.Context) ([]*buspb.Mutation, error) {
	names, err := listOutboxes(ctx, n.store)
	if err != nil {
		return nil, fmt.Errorf("untold facts: %w", err)
	}
	n.bookmarks.only(names)
	var all []*buspb.Mutation
	for _, name := range names {
		if all, err = n.untoldOf(ctx, name, all); err != nil {
			return nil, fmt.Errorf("untold facts: %w", err)
		}
	}
	return all, nil
}

func (n *Node) untoldOf(ctx context.Context, name string, all []*buspb.Mutation) ([]*buspb.Mutation, error) {
	c := &cursor{store: n.store, name: name, next: n.taken(origin{name, buspb.Origin_STREAM_OUTBOX}) + 1}
	marked, kept := n.bookmarks.open(c), false
	for {
		facts, err := c.read(ctx)
		if gone := marked && c.at == 0; gone && err == nil { // the file that the bookmark was in
			marked = false
			continue
		}
		if !kept && err == nil {
			n.bookmarks.keep(c, facts)
			kept = true
		}
		if err != nil || len(facts) == 0 {
			return all, err
		}
		for _, f := range facts {
			whole, err := n.blobs.whole(ctx, f.Mutation)
			if err != nil {
				return all, fmt.Errorf("fact %d of %s: %w", f.Seq, name, err)
			}
			all = append(all, whole)
		}
	}
}

// bookmarks are where the last look at each outbox found what was not applied yet. What
// lies before is applied for good, and often most of a file.
type bookmarks struct {
	mu     sync.Mutex
	places map[string]bookmark // by incarnation
}

type bookmark struct {
	file outboxFile
	at   int64
	next uint64 // number of the fact there
}

// only forgets the outboxes that are gone.
func (b *bookmarks) only(names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.places, func(name string, _ bookmark) bool { return !slices.Contains(names, name) })
}

// open lets a cursor begin at the bookmark of its outbox, and reports whether it does.
func (b *bookmarks) open(c *cursor) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	place, found := b.places[c.name]
	if !found || place.next > c.next {
		return false
	}
	c.file, c.at = place.file, place.at
	return true
}

// keep puts the bookmark where a cursor found the first facts, or else stopped.
func (b *bookmarks) keep(c *cursor, found []*buspb.Fact) {
	place := bookmark{c.file, c.at, c.next}
	if len(found) > 0 {
		place.at, place.next = c.first, found[0].Seq
	}
	if place.at == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.places == nil {
		b.places = map[string]bookmark{}
	}
	b.places[c.name] = place
}
