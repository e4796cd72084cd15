package notifier

import (
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/ids"
)

const shardCount = 64

// Bell is how a waiting connection is told to look for work, or that a newer
// one took its place. Ring must return at once and may come more often than
// there is work.
type Bell interface{ Ring() }

// Signal is a Bell for a goroutine that waits: a channel with one slot. When it
// is full the ring is dropped, since one is enough.
type Signal chan struct{}

// NewSignal makes a Signal.
func NewSignal() Signal { return make(Signal, 1) }

// Ring implements Bell.
func (s Signal) Ring() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// Key names a client within a deployment.
type Key struct {
	Org    ids.Org
	Client ids.Client
}

// Board holds the connections that wait on this node. Safe for concurrent use.
type Board struct {
	seed    maphash.Seed
	shards  [shardCount]shard
	count   atomic.Int64
	changed Signal
	track   atomic.Bool
	metrics *metrics
}

type shard struct {
	mu      sync.Mutex
	waiters map[Key]*Waiter
	dirty   map[Key]struct{} // nil until tracked
}

// New makes an empty board. reg may be nil.
func New(reg prometheus.Registerer) *Board {
	b := &Board{seed: maphash.MakeSeed(), changed: NewSignal()}
	for i := range b.shards {
		b.shards[i].waiters = make(map[Key]*Waiter)
	}
	b.metrics = newMetrics(reg, b.Count)
	return b
}

func (b *Board) shard(k Key) *shard {
	return &b.shards[maphash.Comparable(b.seed, k)%shardCount]
}

// Waiter is one connection's place on the board.
type Waiter struct {
	board    *Board
	key      Key
	bell     Bell
	replaced atomic.Bool
}

// Register puts a connection on the board under a Signal of its own.
func (b *Board) Register(org ids.Org, client ids.Client) (*Waiter, Signal) {
	signal := NewSignal()
	return b.RegisterBell(org, client, signal), signal
}

// RegisterBell puts a connection on the board. An older connection of the same
// client loses its place: Replaced holds for it and its bell rings. Register
// before looking for work, so that nothing falls between.
func (b *Board) RegisterBell(org ids.Org, client ids.Client, bell Bell) *Waiter {
	w := &Waiter{board: b, key: Key{org, client}, bell: bell}
	s := b.shard(w.key)
	s.mu.Lock()
	old := s.waiters[w.key]
	s.waiters[w.key] = w
	if old == nil {
		b.count.Add(1)
		s.mark(w.key)
	} else {
		old.replaced.Store(true)
	}
	s.mu.Unlock()
	if old != nil {
		b.metrics.replaced.Inc()
		old.bell.Ring()
		return w
	}
	b.tell()
	return w
}

// Close leaves the board. Further calls, and the call of a replaced waiter, do
// nothing.
func (w *Waiter) Close() {
	b := w.board
	s := b.shard(w.key)
	s.mu.Lock()
	here := s.waiters[w.key] == w
	if here {
		delete(s.waiters, w.key)
		b.count.Add(-1)
		s.mark(w.key)
	}
	s.mu.Unlock()
	if here {
		b.tell()
	}
}

// Replaced reports whether a newer connection of the client took the place. It
// never becomes false again.
func (w *Waiter) Replaced() bool { return w.replaced.Load() }

// Wake rings the bell of the client's connection and reports whether there is
// one on this node.
func (b *Board) Wake(org ids.Org, client ids.Client) bool {
	k := Key{org, client}
	s := b.shard(k)
	s.mu.Lock()
	w := s.waiters[k]
	s.mu.Unlock()
	if w == nil {
		b.metrics.missed.Inc()
		return false
	}
	b.metrics.wakes.Inc()
	w.bell.Ring()
	return true
}

// Connected reports whether the client waits on this node.
func (b *Board) Connected(org ids.Org, client ids.Client) bool {
	k := Key{org, client}
	s := b.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiters[k] != nil
}

// Count is the number of clients that wait on this node.
func (b *Board) Count() int { return int(b.count.Load()) }

// All walks over the clients that wait on this node, in no order. The board may
// change meanwhile: who comes or goes may or may not be seen.
func (b *Board) All() iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for i := range b.shards {
			for _, k := range b.shards[i].keys() {
				if !yield(k) {
					return
				}
			}
		}
	}
}

func (s *shard) keys() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]Key, 0, len(s.waiters))
	for k := range s.waiters {
		keys = append(keys, k)
	}
	return keys
}
