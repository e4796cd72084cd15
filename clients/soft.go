package clients

import (
	"hash/maphash"
	"sync"
	"time"

	"raptorpack/ids"
)

// Seen is what a node noticed of a client last. It is soft: it does not go
// through the ledger and vanishes with the node.
type Seen struct {
	At      time.Time // of the newest authenticated message; zero: never since start
	Address string    // host part only
	Online  bool      // a reader connection is open on some node
}

const shards = 64

type softState struct {
	seed   maphash.Seed
	shards [shards]softShard
}

type softShard struct {
	mu   sync.Mutex
	seen map[softKey]Seen
}

type softKey struct {
	org    ids.Org
	client ids.Client
}

func (s *softState) init() {
	s.seed = maphash.MakeSeed()
	for i := range s.shards {
		s.shards[i].seen = map[softKey]Seen{}
	}
}

func (s *softState) shard(key softKey) *softShard {
	return &s.shards[maphash.Comparable(s.seed, key)%shards]
}

func (s *softState) change(org ids.Org, client ids.Client, edit func(*Seen)) {
	key := softKey{org, client}
	shard := s.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	seen := shard.seen[key]
	edit(&seen)
	shard.seen[key] = seen
}

func (s *softState) forget(org ids.Org, client ids.Client) {
	key := softKey{org, client}
	shard := s.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	delete(shard.seen, key)
}

// Touch notes that an authenticated message of client came from address.
func (r *Room) Touch(org ids.Org, client ids.Client, address string, at time.Time) {
	r.soft.change(org, client, func(s *Seen) {
		s.At = at
		if address != "" {
			s.Address = address
		}
	})
}

// SetOnline notes whether a reader connection of client is open.
func (r *Room) SetOnline(org ids.Org, client ids.Client, online bool) {
	r.soft.change(org, client, func(s *Seen) { s.Online = online })
}

// Seen returns what is known of a client's presence.
func (r *Room) Seen(org ids.Org, client ids.Client) Seen {
	key := softKey{org, client}
	shard := r.soft.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.seen[key]
}
