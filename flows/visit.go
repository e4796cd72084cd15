package flows

import (
	"time"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

const (
	// maxDeliveries is how often this node hands out a task whose client says
	// each time that it never got it. A task that kills its agent before the
	// first message is durable must not do so for ever.
	maxDeliveries = 4

	// resendTable is how long a client has to adopt an event table before it is
	// sent again over the same connection.
	resendTable = 10 * time.Minute

	// forgetVisit is how long a client that is gone is remembered.
	forgetVisit = 10 * time.Minute
)

// visit is what this node knows of a client beside the ledger: its connections,
// and what was said about each open flow. It is soft and never leaves the node.
type visit struct {
	attachments map[*Attachment]struct{}
	errands     map[ids.Flow]*errand
	table       tableNews
	used        time.Time
}

// errand is what was said to a client about one open flow.
type errand struct {
	deliveries  int
	deliveredBy *Attachment // the newest; nil: not by this node
	deliveredAt time.Time

	asked   bool // a question is out
	askedBy *Attachment
	askedAt time.Time

	cleared time.Time // the client said that it does not know the task
	heard   time.Time // the flow's newest sign of life

	cancelledBy *Attachment
	cancelledAt time.Time
	hopeless    bool // delivered too often
}

func (s *shard) visitOf(o owner, now time.Time) *visit {
	v := s.visits[o]
	if v == nil {
		v = &visit{attachments: map[*Attachment]struct{}{}, errands: map[ids.Flow]*errand{}}
		s.visits[o] = v
	}
	v.used = now
	return v
}

func (v *visit) errand(f ids.Flow) *errand {
	e := v.errands[f]
	if e == nil {
		e = &errand{}
		v.errands[f] = e
	}
	return e
}

// note drops what is over.
func (v *visit) note(id ids.Flow, f *Flow) {
	if f == nil || !f.open() {
		delete(v.errands, id)
	}
}

// heard takes a sign of life of a flow, which answers any question about it.
func (v *visit) heard(p *part, at time.Time) {
	if p.end != nil && rank(p.end.Outcome) == 1 || !p.f.open() {
		return
	}
	e := v.errand(p.key.Flow)
	e.heard, e.asked, e.cleared = at, false, time.Time{}
}

func (v *visit) wakes() []chan struct{} {
	out := make([]chan struct{}, 0, len(v.attachments))
	for a := range v.attachments {
		out = append(out, a.wake)
	}
	return out
}

// Attachment is a connection of a client that can deliver. It is safe for
// concurrent use.
type Attachment struct {
	room  *Room
	owner owner
	since uint64 // the newest entry when it began
	at    time.Time
	wake  chan struct{} // one slot: "look again"; a full slot needs no second signal
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
	s.visitOf(o, a.at).attachments[a] = struct{}{}
	_, a.since = r.open(o)
	return a
}

// Wake signals that Next may have something. It is never closed.
func (a *Attachment) Wake() <-chan struct{} { return a.wake }

// Close ends the connection. What it handed out and nobody confirmed is asked
// about over the next one. What this node holds of the client's running flows is
// told to the ledger, because the client may go on elsewhere.
func (a *Attachment) Close() {
	s := a.room.shard(a.owner)
	s.mu.Lock()
	v := s.visits[a.owner]
	var owed []Key
	if v != nil {
		delete(v.attachments, a)
		v.used = time.Now()
		if len(v.attachments) == 0 {
			for id := range v.errands {
				key := Key{a.owner.org, a.owner.client, id}
				if l := s.locals[key]; l != nil && l.version > l.reported {
					owed = append(owed, key)
				}
			}
		}
	}
	s.mu.Unlock()
	for _, key := range owed {
		a.room.due.add(key)
	}
}

// Next takes what is to be sent now, nil when there is nothing. What it gives
// counts as handed out over this connection. Messages may be shared with nobody
// and belong to the caller.
func (a *Attachment) Next() []*wirepb.VeloMessage {
	return a.plan(time.Now(), true)
}

// plan decides what to send. Unless it is for real it changes nothing and only
// tells whether there is something.
func (a *Attachment) plan(now time.Time, real bool) []*wirepb.VeloMessage {
	s := a.room.shard(a.owner)
	d := delivery{a: a, now: now, real: real, events: a.room.Events.of(a.owner.org)}
	if d.events != nil {
		d.labels, d.basis = a.room.labels(a.owner)
	}
	s.mu.Lock()
	v := s.visits[a.owner]
	if v == nil {
		s.mu.Unlock()
		return nil
	}
	d.v = v
	if _, here := v.attachments[a]; !here {
		s.mu.Unlock()
		return nil
	}
	open, _ := a.room.open(a.owner)
	for _, f := range open {
		d.count(f)
	}
	for _, f := range open {
		d.flow(f)
	}
	d.eventTable()
	s.mu.Unlock()
	return d.messages()
}

// delivery is one call of plan.
type delivery struct {
	a    *Attachment
	v    *visit
	now  time.Time
	real bool

	events *orgEvents // the event tables, nil when there are none
	labels []string   // the client's
	basis  time.Time  // when they changed

	flying  int     // flows that the client has
	starts  []*Flow // to be sent
	cancels []ids.Flow
	asks    []ids.Flow
	table   *wirepb.VeloMessage
}

// old reports that a moment is longer ago than a flow may be silent.
func (d *delivery) old(t time.Time) bool { return d.now.Sub(t) >= d.a.room.o.Silence }

// look is the errand of a flow; an empty one when nothing may be changed.
func (d *delivery) look(f *Flow) *errand {
	if e := d.v.errands[f.Flow]; e != nil {
		return e
	}
	if d.real {
		return d.v.errand(f.Flow)
	}
	return &errand{}
}

func (d *delivery) count(f *Flow) {
	e := d.v.errands[f.Flow]
	if f.State == Running || f.State == Pending && e != nil && e.deliveredBy == d.a {
		d.flying++
	}
}

func (d *delivery) flow(f *Flow) {
	e := d.look(f)
	switch {
	case f.CancelDue:
		d.cancel(f, e)
	case f.State == Running:
		if d.old(latest(e.heard, d.a.at, f.Taken)) {
			d.ask(f, e)
		}
	case e.deliveredBy == d.a && e.cleared.IsZero():
		if d.old(latest(e.heard, e.deliveredAt)) {
			d.ask(f, e)
		}
	default:
		d.task(f, e)
	}
}

// task sends a task that this connection has not sent. Where the client may have
// it already, from another node or a connection that broke, it is asked first.
func (d *delivery) task(f *Flow, e *errand) {
	bound := d.a.room.o.Concurrency + 2
	if !f.Spec.Urgent && d.flying >= bound || e.hopeless {
		return
	}
	d.flying++
	held := f.Index > d.a.since && e.deliveries == 0
	cleared := !e.cleared.IsZero() && !d.old(e.cleared)
	if !held && !cleared {
		d.ask(f, e)
		return
	}
	d.starts = append(d.starts, f)
	if d.real {
		e.deliveries++
		e.deliveredBy, e.deliveredAt = d.a, d.now
		e.asked, e.cleared = false, time.Time{}
	}
}

// ask asks once per connection and, when no answer comes, once per silence.
func (d *delivery) ask(f *Flow, e *errand) {
	if e.askedBy == d.a && !d.old(e.askedAt) {
		return
	}
	d.asks = append(d.asks, f.Flow)
	if d.real {
		e.asked, e.askedBy, e.askedAt = true, d.a, d.now
		e.cleared = time.Time{}
	}
}

// cancel tells the client to stop, and asks for its last word: one that does not
// know the flow stays silent on a cancel. Never in one answer with the flow's
// request, which is no task any more.
func (d *delivery) cancel(f *Flow, e *errand) {
	if e.cancelledBy == d.a && !d.old(e.cancelledAt) {
		return
	}
	d.cancels = append(d.cancels, f.Flow)
	d.asks = append(d.asks, f.Flow)
	if d.real {
		e.cancelledBy, e.cancelledAt = d.a, d.now
		e.asked, e.askedBy, e.askedAt = true, d.a, d.now
	}
}

func latest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}

// messages builds what was planned; it runs without a lock because requests are
// inflated here.
func (d *delivery) messages() []*wirepb.VeloMessage {
	r := d.a.room
	var out []*wirepb.VeloMessage
	for _, id := range d.cancels {
		out = append(out, &wirepb.VeloMessage{SessionId: id.String(), Urgent: true, Cancel: &wirepb.Cancel{}})
	}
	for _, f := range d.starts {
		if !d.real {
			out = append(out, nil)
			continue
		}
		if m := r.requestMessage(f); m != nil {
			out = append(out, m)
		}
	}
	if len(d.asks) > 0 {
		ask := &wirepb.FlowStatsRequest{}
		for _, id := range d.asks {
			ask.FlowId = append(ask.FlowId, id.String())
		}
		out = append(out, &wirepb.VeloMessage{SessionId: "F.Status", FlowStatsRequest: ask})
	}
	if d.table != nil {
		out = append(out, d.table)
	}
	if d.real {
		r.metrics.delivered.Add(float64(len(d.starts)))
		r.metrics.asked.Add(float64(len(d.asks)))
	}
	return out
}

// requestMessage is the message that starts a flow; nil when the task has gone
// meanwhile, or its request cannot be read.
func (r *Room) requestMessage(f *Flow) *wirepb.VeloMessage {
	packed := r.request(f.Org, f.Flow)
	if packed == nil {
		return nil
	}
	request, err := unpackRequest(packed)
	if err != nil {
		r.log.Error("request of a task cannot be read", "client", f.Client.String(), "flow", f.Flow.String(), "err", err)
		return nil
	}
	return &wirepb.VeloMessage{
		SessionId: f.Flow.String(), RequestId: 1, Urgent: f.Spec.Urgent, FlowRequest: request,
	}
}

// Unknown notes that a client answered that it does not know a pending flow, so
// that its task may be delivered. Only an answer to a question that is out
// counts: one that was sent twice must not deliver twice. Another node that got
// the answer passes it on to here.
func (r *Room) Unknown(key Key) {
	now := time.Now()
	s := r.shard(key.owner())
	s.mu.Lock()
	v := s.visits[key.owner()]
	if v == nil || v.errands[key.Flow] == nil || !v.errands[key.Flow].asked {
		s.mu.Unlock()
		return
	}
	e := v.errands[key.Flow]
	e.asked, e.cleared = false, now
	e.hopeless = e.deliveries >= maxDeliveries
	hopeless := e.hopeless
	wakes := v.wakes()
	s.mu.Unlock()
	if hopeless {
		r.due.add(key)
	}
	signal(wakes)
	if r.o.Wake != nil {
		r.o.Wake(key.Org, key.Client)
	}
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
		var all []*Attachment
		var owed []Key
		for o, v := range s.visits {
			for a := range v.attachments {
				all = append(all, a)
			}
			if len(v.attachments) == 0 && now.Sub(v.used) > forgetVisit {
				if open, _ := r.open(o); len(open) == 0 || now.Sub(v.used) > keepIdle {
					delete(s.visits, o)
				}
			}
		}
		for key, l := range s.locals {
			switch {
			case !l.idle(now):
			case l.version > l.reported:
				owed = append(owed, key)
			default:
				delete(s.locals, key)
			}
		}
		for o, a := range s.allowances {
			if now.Sub(a.since) >= 24*time.Hour {
				delete(s.allowances, o)
			}
		}
		s.mu.Unlock()
		for _, key := range owed {
			r.due.add(key)
		}
		for _, a := range all {
			if len(a.plan(now, false)) > 0 {
				signal([]chan struct{}{a.wake})
				if r.o.Wake != nil {
					r.o.Wake(a.owner.org, a.owner.client)
				}
			}
		}
	}
}
