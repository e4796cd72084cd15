package clients

import (
	"slices"
	"sync"
	"time"

	"raptorpack/ids"
	"raptorpack/internal/micros"
)

// Seen is what nodes noticed of a client last. It is soft: it does not go through
// the ledger and vanishes with the process.
type Seen struct {
	At      time.Time // of the newest authenticated message, to the microsecond; zero: never since start
	Address string    // host part only
	Online  bool      // a reader connection is open on some node
}

// Sighting is one client as another node saw it.
type Sighting struct {
	Client  ids.Client
	At      time.Time
	Address string // empty: not known
}

// softState is the presence of all clients. Its lock may be held when Room.mu is
// taken, never the other way round.
type softState struct {
	mu   sync.RWMutex
	orgs map[ids.Org]*presence
}

// atOnce is how many clients are noted under one lock.
const atOnce = 512

// Touch notes that an authenticated message of client came from address.
func (r *Room) Touch(org ids.Org, client ids.Client, address string, at time.Time) {
	v4, odd := packAddress(address)
	r.soft.mu.Lock()
	defer r.soft.mu.Unlock()
	if p, w := r.place(org, client); p != nil {
		p.saw(w, sight{micros.Of(at), v4, odd})
	}
}

// SetOnline notes whether a reader connection of client is open at this node.
func (r *Room) SetOnline(org ids.Org, client ids.Client, online bool) {
	r.setOnline(here, org, []ids.Client{client}, online)
}

// RemoteOnline notes what another node tells of its connections: which opened and
// which closed since it told last. It may speak of clients that are not enrolled
// here yet. node names one run of a process, as an incarnation does, so that a
// new run is not taken for the old one; it is not empty.
func (r *Room) RemoteOnline(node string, org ids.Org, online, offline []ids.Client) {
	r.setOnline(node, org, online, true)
	r.setOnline(node, org, offline, false)
}

func (r *Room) setOnline(node string, org ids.Org, clients []ids.Client, online bool) {
	for some := range slices.Chunk(clients, atOnce) {
		r.soft.mu.Lock()
		for _, client := range some {
			if p, w := r.place(org, client); p != nil {
				p.setOnline(node, w, online)
			}
		}
		r.soft.mu.Unlock()
	}
}

// RemoteGone forgets all connections of another node. What it saw stays seen.
func (r *Room) RemoteGone(node string) {
	r.soft.mu.Lock()
	defer r.soft.mu.Unlock()
	for _, p := range r.soft.orgs {
		p.gone(node)
	}
}

// RemoteSeen notes what another node saw of clients. The newest sighting counts,
// whoever's it is, and stays when its node goes.
func (r *Room) RemoteSeen(_ string, org ids.Org, seen []Sighting) {
	for some := range slices.Chunk(seen, atOnce) {
		r.soft.mu.Lock()
		for i := range some {
			if p, w := r.place(org, some[i].Client); p != nil {
				v4, odd := packAddress(some[i].Address)
				p.saw(w, sight{micros.Of(some[i].At), v4, odd})
			}
		}
		r.soft.mu.Unlock()
	}
}

// Seen returns what is known of a client's presence.
func (r *Room) Seen(org ids.Org, client ids.Client) Seen {
	w, ok := r.whoIs(org, client)
	if !ok {
		return Seen{}
	}
	return r.seenOf(org, w)
}

func (r *Room) seenOf(org ids.Org, w who) Seen {
	r.soft.mu.RLock()
	defer r.soft.mu.RUnlock()
	if p := r.soft.orgs[org]; p != nil {
		return p.seen(w)
	}
	return Seen{}
}

// who is a client as presence knows it: by its ordinal, once it is enrolled.
type who struct {
	id      number
	ordinal uint32
	known   bool
}

func (r *Room) whoIs(org ids.Org, client ids.Client) (who, bool) {
	id, ok := numberOf(client.String())
	if !ok {
		return who{}, false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	w := who{id: id}
	if t := r.orgs[org]; t != nil {
		w.ordinal, w.known = t.byID[id]
	}
	return w, true
}

// place finds where something of a client is to be noted; nil if it is no agent.
// The caller holds soft.mu.
func (r *Room) place(org ids.Org, client ids.Client) (*presence, who) {
	w, ok := r.whoIs(org, client)
	if !ok {
		return nil, w
	}
	p := r.soft.orgs[org]
	if p == nil {
		p = newPresence()
		r.soft.orgs[org] = p
	}
	return p, w
}

// enrolled gives a client what was noted of it before.
func (s *softState) enrolled(org ids.Org, id number, ordinal uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.orgs[org]; p != nil {
		p.settle(id, ordinal)
	}
}

// move carries presence over to other tables, by client id. The caller holds the
// lock, and nobody changes the tables.
func (s *softState) move(before, after map[ids.Org]*table) {
	for org, p := range s.orgs {
		moved := newPresence()
		moved.strangers = p.strangers
		if t := before[org]; t != nil {
			p.moveTo(moved, t)
		}
		if t := after[org]; t != nil {
			moved.settleAll(t)
		}
		s.orgs[org] = moved
	}
}
