package flows

import (
	"time"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// Next takes what is to be sent now, nil when there is nothing. What it gives
// counts as handed out over this connection. Messages may be shared with nobody
// and belong to the caller.
func (a *Attachment) Next() []*wirepb.VeloMessage {
	d := a.plan(time.Now(), true)
	for _, f := range d.offered {
		a.room.offers.add(f.Key)
	}
	return d.messages()
}

// due reports whether there is something to say or to do.
func (a *Attachment) due(now time.Time) bool {
	d := a.plan(now, false)
	return len(d.starts)+len(d.cancels)+len(d.asks)+len(d.offered)+len(d.inquiries) > 0 || d.table != nil || d.kills
}

// plan decides what to send. Unless it is for real it changes nothing.
func (a *Attachment) plan(now time.Time, real bool) *delivery {
	s := a.room.shard(a.owner)
	d := &delivery{a: a, s: s, now: now, real: real, events: a.room.Events.of(a.owner.org)}
	if d.events != nil {
		d.labels = a.room.labels(a.owner)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.v = s.visits[a.owner]
	if d.v == nil || !d.v.here(a) {
		return d
	}
	open, index := a.room.open(a.owner)
	d.index = index
	for _, f := range open {
		d.count(f)
	}
	for _, f := range open {
		d.flow(f)
	}
	d.inquire()
	d.probe()
	if real && len(d.asks) > 0 {
		d.ask()
	}
	d.eventTable()
	d.kill()
	return d
}

// delivery is one call of plan.
type delivery struct {
	a    *Attachment
	s    *shard
	v    *visit
	now  time.Time
	real bool

	index  uint64     // the newest entry here
	events *orgEvents // the event tables, nil when there are none
	labels []string   // the client's

	flying    int     // flows that the client has
	starts    []*Flow // to be sent
	offered   []*Flow // to be offered first
	offering  bool    // an offer is on its way
	cancels   []ids.Flow
	asks      []*Flow
	probes    []*Flow    // tasks to be asked about when nothing is offered
	question  question   // about asks
	inquiries []*inquiry // to be sent
	table     *wirepb.VeloMessage
	kills     bool // the client is to exit
}

// old reports that a moment is longer ago than a flow may be silent.
func (d *delivery) old(t time.Time) bool { return d.now.Sub(t) >= d.a.room.o.Silence }

// look is the errand of a flow; an empty one when nothing may be changed.
func (d *delivery) look(f *Flow) *errand {
	if e := d.v.errands[f.Flow]; e != nil {
		return e
	}
	if d.real {
		return d.v.errand(f)
	}
	return &errand{turn: f.Turn}
}

// runs reports whether the client took the task, as far as anybody here knows.
func (d *delivery) runs(f *Flow) bool {
	return f.State == Running || f.State == Pending && d.s.took(f.Key)
}

func (d *delivery) count(f *Flow) {
	e := d.v.errands[f.Flow]
	if d.runs(f) || f.State == Pending && e != nil && e.deliveredBy == d.a {
		d.flying++
	}
}

func (d *delivery) flow(f *Flow) {
	e := d.look(f)
	switch {
	case f.CancelDue:
		d.cancel(f, e)
	case d.runs(f):
		if d.old(latest(e.heard, d.a.at)) {
			d.wonder(f, e)
		}
	case e.deliveredBy == d.a && !e.ready.has(d.a.number) && !d.offers(f, e):
		if d.old(latest(e.heard, e.deliveredAt)) {
			d.wonder(f, e)
		}
	default:
		d.task(f, e)
	}
}

// task sends a task that this connection has not sent. Where the client may have
// it already, from another node or a connection that broke, it is asked first, and
// the task offered to it when it does not know it.
func (d *delivery) task(f *Flow, e *errand) {
	if !f.Spec.Urgent && d.flying >= d.bound(f.late()) {
		return
	}
	d.flying++
	held := f.Index > d.a.since && f.Turn == f.Index && e.deliveredBy == nil
	switch {
	case held, e.ready.has(d.a.number):
		d.start(f, e)
	case e.offering == f.Turn:
		d.offering = true
	case e.won == f.Turn, d.offers(f, e):
		d.offered = append(d.offered, f)
	case d.wonders(f, e):
		d.probes = append(d.probes, f)
	}
}

// bound is how many flows a client may have before it is given another one. Beyond
// what it runs at a time it is given only what others overtake nothing for: of hunts
// none waits there.
func (d *delivery) bound(late int) int { return d.a.room.o.Concurrency + 2 - 2*late }

// probe asks about tasks, unless another one is being offered: a question ends a
// poll over HTTP, and the offer would come to nobody. They are asked about beside
// that task, a moment later.
func (d *delivery) probe() {
	if len(d.offered) == 0 && !d.offering {
		d.asks = append(d.asks, d.probes...)
	}
}

func (d *delivery) start(f *Flow, e *errand) {
	d.starts = append(d.starts, f)
	if d.real {
		e.deliveredBy, e.deliveredAt = d.a, d.now
		e.answered, e.ready = false, span{}
		e.won, e.spent = 0, true
	}
}

func (d *delivery) wonder(f *Flow, e *errand) {
	if d.wonders(f, e) {
		d.asks = append(d.asks, f)
	}
}

// wonders reports whether to ask: once per connection and turn of the flow and,
// when no answer comes, once per silence.
func (d *delivery) wonders(f *Flow, e *errand) bool {
	return e.askedBy != d.a || e.question.asked < f.Turn || d.old(e.askedAt)
}

// ask makes one question of all flows that are wondered about.
func (d *delivery) ask() {
	d.question = d.a.room.ask(d.index)
	for _, f := range d.asks {
		e := d.look(f)
		e.question, e.askedBy, e.askedAt, e.answered = d.question, d.a, d.now, false
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
	d.asks = append(d.asks, f)
	if d.real {
		e.cancelledBy, e.cancelledAt = d.a, d.now
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
		if m := r.requestMessage(f); m != nil {
			out = append(out, m)
		}
	}
	for _, q := range d.inquiries {
		if m := r.inquiryMessage(q); m != nil {
			out = append(out, m)
		}
	}
	if len(d.asks) > 0 {
		flows := make([]string, len(d.asks))
		for i, f := range d.asks {
			flows[i] = f.Flow.String()
		}
		out = append(out, d.question.message(flows))
	}
	if d.table != nil {
		out = append(out, d.table)
	}
	if d.kills {
		out = append(out, killMessage())
	}
	r.metrics.delivered.Add(float64(len(d.starts)))
	r.metrics.asked.Add(float64(len(d.asks)))
	return out
}

// requestMessage is the message that starts a flow; nil when the task has gone
// meanwhile, or its request cannot be read.
func (r *Room) requestMessage(f *Flow) *wirepb.VeloMessage {
	packed := r.request(f.Org, f.Flow)
	if packed == nil {
		return nil
	}
	return r.startMessage(f.Client, f.Flow, packed, f.Spec.Urgent)
}

func (r *Room) startMessage(client ids.Client, flow ids.Flow, packed []byte, urgent bool) *wirepb.VeloMessage {
	request, err := unpackRequest(packed)
	if err != nil {
		r.log.Error("request of a task cannot be read", "client", client.String(), "flow", flow.String(), "err", err)
		return nil
	}
	return &wirepb.VeloMessage{SessionId: flow.String(), RequestId: 1, Urgent: urgent, FlowRequest: request}
}
