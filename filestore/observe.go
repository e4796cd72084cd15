package filestore

import (
	"context"
	"strconv"
	"time"

	"raptorpack/ids"
)

// verdict is what an observer knows about a claim.
type verdict int

const (
	undecided verdict = iota // it may be alive
	moving                   // its record went on while we watched
	lapsed                   // its record stood still for TTL and margin
	released                 // its holder gave it up
	vanished                 // its holder's process is gone from this machine
)

// dead is enough for terms. An incarnation that lapsed may go on until somebody
// has buried it.
func (v verdict) dead() bool { return v >= lapsed }

// observer judges foreign claims by its own monotonic clock alone.
type observer struct {
	store   *Store
	ttl     time.Duration // at least this, whatever the record says
	margin  time.Duration
	seen    map[string]sighting // by path of the claim
	endings map[string]string   // state, by path of the ending: it never changes
}

// sighting is what stood at a claim's path when it was last seen to change.
type sighting struct {
	record string
	life   uint64    // known to have begun
	newest Heartbeat // ever seen
	since  time.Time // after it was first seen
}

// observation is what is known of a claim by now.
type observation struct {
	beat    Heartbeat // empty if the record is damaged
	life    uint64    // the latest that is known to have begun; 0 for terms
	verdict verdict
}

func (s *Store) observer(ttl, margin time.Duration) *observer {
	return &observer{store: s.Urgent(), ttl: ttl, margin: margin, seen: map[string]sighting{}, endings: map[string]string{}}
}

// look reads a claim by a fresh open and says what is known of it by now. life is
// what the caller knows to have begun. A torn record of a dead holder stands still
// like any other.
//
// Record and life must have stood still together: a holder that went on has time to
// say so in its record, from when we learned of its new life.
func (o *observer) look(ctx context.Context, path string, life uint64) (observation, error) {
	begin := time.Now()
	record, err := o.store.ReadFile(ctx, path, heartbeatBytes)
	if err != nil {
		return observation{}, err
	}
	after := time.Now()
	beat, damage := DecodeHeartbeat(record)
	last, known := o.seen[path]
	seen := observation{beat: beat, life: max(life, beat.Life, last.life)}
	switch {
	case damage == nil && beat.Released:
		seen.verdict = released
	case damage == nil && o.store.self.knowsGone(beat):
		seen.verdict = vanished
	case !known || last.record != string(record) || last.life != seen.life:
		next := sighting{string(record), seen.life, last.newest, after}
		if damage == nil && beat.newer(last.newest) {
			next.newest = beat
			if known {
				seen.verdict = moving
			}
		}
		o.seen[path] = next
	case begin.Sub(last.since) >= max(o.ttl, beat.TTL)+o.margin:
		seen.verdict = lapsed
	}
	return seen, nil
}

// outlived notes that a claim's holder went on after the given life: only what
// stands still from now on counts.
func (o *observer) outlived(path string, life uint64) {
	last := o.seen[path]
	last.life, last.since = max(last.life, life+1), time.Now()
	o.seen[path] = last
}

// listing is a node's directory, read afresh.
type listing struct {
	numbers []uint64 // of incarnations, ascending
	seals   map[uint64]bool
	ends    map[uint64]uint64 // the last life that has an ending
}

func (s *Store) listNode(ctx context.Context, node ids.Node) (listing, error) {
	names, err := s.ReadDir(ctx, nodeDir(node))
	if err != nil {
		return listing{}, err
	}
	l := listing{numbers: numbers(names, "", ""), seals: map[uint64]bool{}, ends: map[uint64]uint64{}}
	for _, n := range numbers(names, "", sealSuffix) {
		l.seals[n] = true
	}
	for _, name := range names {
		if n, life, ok := parseEndName(name); ok {
			l.ends[n] = max(l.ends[n], life)
		}
	}
	return l, nil
}

// last is the node's last incarnation, 0: it has none.
func (l *listing) last() uint64 {
	if len(l.numbers) == 0 {
		return 0
	}
	return l.numbers[len(l.numbers)-1]
}

// judge says what is known of an incarnation by now, and whether it is over for
// good. One that has only lapsed is not: it may revive.
func (o *observer) judge(ctx context.Context, node ids.Node, n uint64, listed *listing) (observation, bool, error) {
	life, buried, err := o.fate(ctx, node, n, listed)
	if err != nil {
		return observation{}, false, err
	}
	seen, err := o.look(ctx, claimPath(node, n), life)
	if err != nil {
		return observation{}, false, err
	}
	over := buried || listed.seals[n] || n < listed.last() || seen.verdict == released || seen.verdict == vanished
	return seen, over, nil
}

// pollEvery is how often a watcher looks at a claim that it waits for.
func pollEvery(ttl time.Duration) time.Duration {
	return min(max(ttl/16, 5*time.Millisecond), 250*time.Millisecond)
}

// numbered reads a listed name as prefix and a number from 1 up; 0 is none.
func numbered(name, prefix, suffix string) uint64 {
	if len(name) <= len(prefix)+len(suffix) || name[:len(prefix)] != prefix || name[len(name)-len(suffix):] != suffix {
		return 0
	}
	digits := name[len(prefix) : len(name)-len(suffix)]
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return 0
	}
	return n
}
