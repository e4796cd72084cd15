package flows

import (
	"context"
	"fmt"
	"math"
	"sync"

	"raptorpack/filestore"
)

// A deletion takes four steps. Its entry is applied on every node; from then on
// what comes of the flow is dropped. Each node closes the files that it has open,
// once what was on its way when the entry came is stored or refused: Unclosed says
// when. The master waits until all live nodes have, and removes the tree. What a
// node that lost its lease in between may still write is removed by the next
// master, as long as the deletion is remembered.

// closing are deleted flows whose files this node may have open, by the entry that
// deleted them.
type closing struct {
	ready chan struct{} // one slot: "look again"; a full slot needs no second signal

	mu   *sync.Mutex
	keys map[Key]uint64
}

func newClosing() closing {
	return closing{ready: make(chan struct{}, 1), mu: &sync.Mutex{}, keys: map[Key]uint64{}}
}

func (c *closing) add(key Key, index uint64) {
	c.mu.Lock()
	c.keys[key] = index
	c.mu.Unlock()
	signal([]chan struct{}{c.ready})
}

func (c *closing) remove(key Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, key)
}

func (c *closing) all() []Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Key, 0, len(c.keys))
	for key := range c.keys {
		out = append(out, key)
	}
	return out
}

// look makes closeDeleted look again if something waits for a packet.
func (c *closing) look() {
	c.mu.Lock()
	waits := len(c.keys) > 0
	c.mu.Unlock()
	if waits {
		signal([]chan struct{}{c.ready})
	}
}

// Unclosed is the oldest deletion that this node has applied and of which it may
// still write files; false when there is none. A tree may be removed when its
// deletion is applied on every live node and none of them names an entry up to it.
func (r *Room) Unclosed() (index uint64, some bool) {
	r.closing.mu.Lock()
	defer r.closing.mu.Unlock()
	oldest := uint64(math.MaxUint64)
	for _, index := range r.closing.keys {
		oldest = min(oldest, index)
	}
	return oldest, len(r.closing.keys) > 0
}

// closeDeleted closes files of deleted flows until ctx ends.
func (r *Room) closeDeleted(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.closing.ready:
		}
		r.closeQuiet(ctx)
	}
}

// closeQuiet closes the files of deleted flows of which nothing is on its way.
func (r *Room) closeQuiet(ctx context.Context) {
	for _, key := range r.closing.all() {
		s := r.shard(key.owner())
		s.mu.Lock()
		l := s.locals[key]
		busy := l != nil && l.busy()
		s.mu.Unlock()
		if busy {
			continue // whoever ends it looks again
		}
		for _, dir := range flowDirs(key) {
			r.o.Committer.Forget(ctx, dir)
		}
		s.mu.Lock()
		delete(s.locals, key)
		s.mu.Unlock()
		r.closing.remove(key)
	}
}

// flowDirs are the folders that belong to one flow alone.
func flowDirs(key Key) []string {
	return []string{
		filestore.FlowDir(key.Org, key.Client, key.Flow), filestore.FlowUploadsDir(key.Org, key.Client, key.Flow),
	}
}

// RemoveTree removes what the filestore holds of a deleted flow. The master
// calls it once all live nodes have closed their files of it; repeating it does no
// harm. Rows in the shared files of a hunt stay until those are compacted.
func (r *Room) RemoveTree(ctx context.Context, key Key) error {
	if !r.Deleted(key) {
		return fmt.Errorf("remove files of flow %s of %s: %w", key.Flow, key.Client, ErrUnfinished)
	}
	for _, dir := range append(flowDirs(key), filestore.FlowDownloadsDir(key.Org, key.Client, key.Flow)) {
		if err := r.o.Store.RemoveAll(ctx, dir); err != nil {
			return fmt.Errorf("remove files of flow %s of %s: %w", key.Flow, key.Client, err)
		}
	}
	return nil
}
