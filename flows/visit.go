package flows

import (
	"math"
	"slices"
	"time"

	"raptorpack/ids"
)

const (
	// resendTable is how long a client has to adopt an event table before it is
	// sent again over the same connection.
	resendTable = 10 * time.Minute

	// adoptTable is how long a client is waited for that was given another event
	// table than it should have now.
	adoptTable = 10 * time.Second

	// forgetVisit is how long a client that has no connection here is remembered
	// if something was said to it about a task; forgetIdler, if nothing was.
	forgetVisit = 10 * time.Minute
	forgetIdler = 2 * time.Minute
)

// visit is what this node knows of a client beside the ledger: its connections,
// and what was said about each open flow. It is soft and never leaves the node.
type visit struct {
	attachments []*Attachment        // of most clients one
	errands     map[ids.Flow]*errand // nil: none, as of most clients
	table       tableNews
	number      uint64 // of the newest connection
	used        time.Time

	kill   uint64 // the entry that ordered the client to exit; 0: none did
	killAt time.Time
}

// errand is what was said to a client about one open flow.
type errand struct {
	deliveredBy *Attachment // the newest; nil: not by this node
	deliveredAt time.Time

	question question // the newest
	askedBy  *Attachment
	askedAt  time.Time
	answered bool // the client does not know the task

	turn     uint64 // of the flow, as far as this errand followed it
	offering uint64 // the turn at which an offer was made; 0: none is on its way
	sure     bool   // of that offer: over the connection that asked
	spent    bool   // what was offered last was handed out
	won      uint64 // the turn that an offer of ours made and nothing was handed out in; 0: none
	ready    span   // connections that may hand the task out

	heard time.Time // the flow's newest sign of life

	cancelledBy *Attachment
	cancelledAt time.Time
}

func (s *shard) visitOf(o owner, now time.Time) *visit {
	v := s.visits[o]
	if v == nil {
		v = &visit{}
		s.visits[o] = v
	}
	v.used = now
	return v
}

func (v *visit) errand(f *Flow) *errand {
	e := v.errands[f.Flow]
	if e == nil {
		e = &errand{turn: f.Turn}
		if v.errands == nil {
			v.errands = map[ids.Flow]*errand{}
		}
		v.errands[f.Flow] = e
	}
	return e
}

// note follows the ledger: what is over is dropped, and what other nodes tell of a
// running flow is a sign of life.
func (v *visit) note(id ids.Flow, f *Flow, incarnation string, now time.Time) {
	if f == nil || !f.open() {
		v.forget(id)
		return
	}
	v.turned(f, incarnation)
	if f.State == Running {
		v.errand(f).heard = now
	}
}

// forget drops an errand.
func (v *visit) forget(id ids.Flow) {
	if delete(v.errands, id); len(v.errands) == 0 {
		v.errands = nil // even an empty map takes room, and most clients rest
	}
}

// heard takes a sign of life of a flow, which answers any question about it.
func (v *visit) heard(p *part, at time.Time) {
	if !p.alive || !p.f.open() {
		return
	}
	e := v.errand(p.f)
	e.heard, e.answered = at, false
}

func (v *visit) wakes() []chan struct{} {
	out := make([]chan struct{}, 0, len(v.attachments))
	for _, a := range v.attachments {
		out = append(out, a.wake)
	}
	return out
}

// Attachment is a connection of a client that can deliver. It is safe for
// concurrent use.
type Attachment struct {
	room   *Room
	owner  owner
	number uint64 // of the client's connections to this node
	began  uint64 // the newest entry here when it began
	since  uint64 // the newest entry anywhere when it began, or one after; guarded by the shard
	at     time.Time
	wake   chan struct{} // one slot: "look again"; a full slot needs no second signal
}

// Attach begins a connection. Call Next at once and after every wake; Close when
// the connection has ended, however it did.
func (r *Room) Attach(org ids.Org, client ids.Client) *Attachment {
	o := owner{org, client}
	a := &Attachment{room: r, owner: o, at: time.Now(), wake: make(chan struct{}, 1)}
	s := r.shard(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	// The index is read after the connection can be woken, under the lock that
	// waking takes: an entry is either in it or wakes.
	v := s.visitOf(o, a.at)
	v.number++
	a.number = v.number
	v.attachments = append(v.attachments, a)
	_, a.began = r.open(o)
	if a.since = a.began; r.o.Fresh != nil {
		a.since = math.MaxUint64 // older than all tasks, until the master was asked
		r.fences.add(a)
	}
	return a
}

// Wake signals that Next may have something. It is never closed.
func (a *Attachment) Wake() <-chan struct{} { return a.wake }

// Close ends the connection. What it handed out and nobody confirmed is asked
// about over the next one. What this node holds of the client's running flows is
// told to the ledger, because the client may go on elsewhere; of a flow that ends
// elsewhere it is told then, whether or not a connection has left.
func (a *Attachment) Close() {
	a.room.fences.remove(a)
	s := a.room.shard(a.owner)
	s.mu.Lock()
	v := s.visits[a.owner]
	var owed []Key
	if v != nil {
		v.attachments = slices.DeleteFunc(v.attachments, func(one *Attachment) bool { return one == a })
		v.used = time.Now()
		if len(v.attachments) == 0 {
			owed = s.owed(a.room, a.owner)
		}
	}
	s.mu.Unlock()
	for _, key := range owed {
		a.room.due.add(key)
	}
}

// owed lists a client's running flows of which this node holds more than it has
// told. The lock is held.
func (s *shard) owed(r *Room, o owner) []Key {
	var out []Key
	open, _ := r.open(o)
	for _, f := range open {
		if l := s.locals[f.Key]; l != nil && l.version > l.reported {
			out = append(out, f.Key)
		}
	}
	return out
}

// CheckedIn notes the version of the event table that a client says it runs.
func (r *Room) CheckedIn(org ids.Org, client ids.Client, version uint64) {
	now := time.Now()
	s := r.shard(owner{org, client})
	s.mu.Lock()
	v := s.visitOf(owner{org, client}, now)
	v.table.reported, v.table.known = version, true
	wakes := v.wakes()
	s.mu.Unlock()
	signal(wakes)
}

// rouse wakes the connections that have something to say because time went by,
// and forgets clients that are gone and flows that rest. What this node holds of
// a flow is told before it is forgotten.
func (r *Room) rouse(now time.Time) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		all := s.forget(now)
		owed := r.rest(s, now)
		expired := r.expireInquiries(s, now)
		s.mu.Unlock()
		for _, q := range expired {
			q.Expired()
		}
		for _, key := range owed {
			r.due.add(key)
		}
		for _, a := range all {
			if a.due(now) {
				signal([]chan struct{}{a.wake})
				if r.o.Wake != nil {
					r.o.Wake(a.owner.org, a.owner.client)
				}
			}
		}
	}
}

// over reports whether a visit can be forgotten.
func (v *visit) over(now time.Time) bool {
	keep := forgetVisit
	if len(v.errands) == 0 && v.kill == 0 {
		keep = forgetIdler
	}
	return len(v.attachments) == 0 && now.Sub(v.used) > keep
}

// forget drops what is known of clients that have left, and lists the connections
// of the others. The lock is held.
func (s *shard) forget(now time.Time) []*Attachment {
	var all []*Attachment
	for o, v := range s.visits {
		all = append(all, v.attachments...)
		if v.over(now) {
			delete(s.visits, o)
		}
	}
	for o, a := range s.allowances {
		if a.over(now) {
			delete(s.allowances, o)
		}
	}
	return all
}

// rest drops the notes on flows that rest, and lists those that have to be told
// before. That a client took its task is not forgotten before the ledger says so.
// The lock is held.
func (r *Room) rest(s *shard, now time.Time) []Key {
	var owed []Key
	for key, l := range s.locals {
		v := s.visits[key.owner()]
		if here := v != nil && len(v.attachments) > 0; !l.idle(now, here) {
			continue
		}
		f, _ := r.lookup(key)
		switch {
		case l.taken && f != nil && f.State == Pending:
		case f != nil && l.version > l.reported:
			owed = append(owed, key)
		default:
			delete(s.locals, key)
		}
	}
	return owed
}
