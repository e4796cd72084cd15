package flows

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
)

// tails follows event rows: *filestore.Reader.
type tails interface {
	NewTail(filestore.TailOptions) (*filestore.Tail, error)
}

const (
	// lookEvery is how often a follower looks again though nobody told it of rows:
	// what other nodes tell may get lost with their connection.
	lookEvery = 3 * time.Second

	// lookPause is how long a follower lets further rows gather before it looks: a
	// look costs some file operations for each node that stored rows.
	lookPause = 250 * time.Millisecond
)

// FollowOptions say what a follower reads.
type FollowOptions struct {
	Org    ids.Org
	Name   string     // result name: Artifact or Artifact/Source
	Client ids.Client // zero: of all
	Place  string     // where to go on; empty: behind all that is there now
}

// Follower reads the rows of one event artifact that any node stores, as they come,
// each once. For one goroutine at a time; Close it in the end.
type Follower struct {
	room *Room
	key  eventKey
	tail *filestore.Tail
	news chan struct{} // one slot; a full one stands for all that follow
	more bool          // the last look left something
}

// FollowEvents makes a follower; it has looked at nothing yet. A malformed place is
// filestore.ErrBadCursor.
func (r *Room) FollowEvents(o FollowOptions) (*Follower, error) {
	if err := checkResultName(o.Name); err != nil {
		return nil, err
	}
	tail, err := r.o.Tails.NewTail(filestore.TailOptions{Org: o.Org, Name: o.Name, Client: o.Client, Place: o.Place})
	if err != nil {
		return nil, fmt.Errorf("follow events: %w", err)
	}
	f := &Follower{room: r, key: eventKey{o.Org, o.Name}, tail: tail, news: make(chan struct{}, 1)}
	r.news.add(f)
	return f, nil
}

// Close ends it.
func (f *Follower) Close() { f.room.news.remove(f) }

// Look returns what is there behind the place and was not given before; no rows if
// there are none at the moment. limit as filestore.Tail.Next has it.
func (f *Follower) Look(ctx context.Context, limit int) (*filestore.TailPage, error) {
	select {
	case <-f.news: // what it told of is seen by this look
	default:
	}
	page, err := f.tail.Next(ctx, limit)
	if f.more = err == nil && page.More; err != nil {
		return page, err
	}
	if deleted := f.room.Erased.of(f.key.org, f.key.name); len(deleted) > 0 {
		page.Rows = slices.DeleteFunc(page.Rows, func(row filestore.Row) bool {
			return gone(deleted, row.Client, time.Unix(EventTime(row.Line), 0).UTC().Format(time.DateOnly))
		})
	}
	return page, nil
}

// Wait returns true when it is time to look again, and false when ctx has ended or
// until is closed.
func (f *Follower) Wait(ctx context.Context, until <-chan struct{}) bool {
	if f.more {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	select {
	case <-f.news:
		return rest(ctx, until, lookPause)
	case <-timer.C:
		return true
	case <-until:
		return false
	case <-ctx.Done():
		return false
	}
}

func rest(ctx context.Context, until <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-until:
		return false
	case <-ctx.Done():
		return false
	}
}

// eventKey names the rows of one event artifact.
type eventKey struct {
	org  ids.Org
	name string
}

// eventNews are the followers to wake.
type eventNews struct {
	mu        sync.Mutex
	followers map[eventKey]map[*Follower]struct{}
}

func newEventNews() *eventNews {
	return &eventNews{followers: map[eventKey]map[*Follower]struct{}{}}
}

func (n *eventNews) add(f *Follower) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.followers[f.key] == nil {
		n.followers[f.key] = map[*Follower]struct{}{}
	}
	n.followers[f.key][f] = struct{}{}
}

func (n *eventNews) remove(f *Follower) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.followers[f.key], f)
	if len(n.followers[f.key]) == 0 {
		delete(n.followers, f.key)
	}
}

func (n *eventNews) wake(key eventKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for f := range n.followers[key] {
		select {
		case f.news <- struct{}{}:
		default:
		}
	}
}

// HeardOfEvents wakes the followers of an event artifact: some node stored rows.
func (r *Room) HeardOfEvents(org ids.Org, name string) { r.news.wake(eventKey{org, name}) }

// StoredEvents tells that rows of an event artifact are durable here, to followers
// on all nodes.
func (r *Room) StoredEvents(org ids.Org, name string) {
	r.HeardOfEvents(org, name)
	if r.o.Grown != nil {
		r.o.Grown(org, name)
	}
}
