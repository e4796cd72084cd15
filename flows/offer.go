package flows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// A task whose client, asked, did not know it is handed out again, by exactly one
// node, and only if nobody took anything of it meanwhile. Two ways lead there:
//
// The connection that was asked is open still, and the answer came. Then the
// client has been here all the time, and no other node can have reached it. This
// node notes its offer durably, so that the answer, sent again, counts for nothing
// elsewhere, and hands the task out. It needs no master.
//
// Otherwise, as after each poll over HTTP, the answer stands in the ledger, and
// whoever has the client now offers. The first offer after an answer wins; the
// winner hands the task out when its own state says so: over a connection that was
// here then, or over a later one once it has looked again for what others have not
// told yet.

// span is a run of connection numbers, both ends included; zero: none.
type span struct{ first, last uint64 }

func (s span) has(n uint64) bool { return n >= s.first && n <= s.last && n > 0 }

// answered notes that the client does not know a task, if that was the newest
// question about it and the connection that asked is still here.
func (v *visit) answered(id ids.Flow, answer question) bool {
	e := v.errands[id]
	if e == nil || e.question != answer || !v.here(e.askedBy) {
		return false
	}
	e.answered = true
	return true
}

func (v *visit) here(a *Attachment) bool {
	return a != nil && slices.Contains(v.attachments, a)
}

// offers reports whether this connection's node is to offer the task: it asked and
// was answered, or it has the client since the answer.
func (d *delivery) offers(f *Flow, e *errand) bool {
	if e.askedBy == d.a && e.knowsNot(f) {
		return true
	}
	if f.Cleared == 0 {
		return false
	}
	asked := strings.HasPrefix(f.ClearedBy, d.a.room.mark) && e.askedBy != nil && d.a.number >= e.askedBy.number
	return asked || d.a.began >= f.Cleared
}

// knowsNot reports whether the newest question about a task was answered, here or
// through the ledger: the client does not know it.
func (e *errand) knowsNot(f *Flow) bool {
	return e.question.asked >= f.Turn && e.question.by != "" && (e.answered || e.question.by == f.ClearedBy)
}

// makeOffers offers the tasks that are due. One look at what others have not told
// yet serves all.
func (r *Room) makeOffers(ctx context.Context) error {
	keys := r.offers.take()
	if len(keys) == 0 {
		return nil
	}
	here := r.newestConnections(keys)
	spoken, err := r.untold(ctx)
	if err != nil {
		for _, key := range keys {
			r.offers.keep(key)
		}
		return err
	}
	var errs []error
	for some := range slices.Chunk(keys, maxOffering) {
		var due []*offering
		for _, key := range some {
			if spoken[key] {
				r.offers.keep(key) // until the fact is applied here
			} else if o := r.offering(key, here[key]); o != nil {
				due = append(due, o)
			}
		}
		if len(due) > 0 {
			errs = append(errs, r.offer(ctx, due))
		}
	}
	return errors.Join(errs...)
}

// maxOffering is how many offers are made durable at once. A fleet that comes back to
// its tasks must not wait for a commit each; more of them fit an entry of the ledger.
const maxOffering = 500

// newestConnections numbers the newest connection of each flow's client.
func (r *Room) newestConnections(keys []Key) map[Key]uint64 {
	out := make(map[Key]uint64, len(keys))
	for _, key := range keys {
		s := r.shard(key.owner())
		s.mu.Lock()
		if v := s.visits[key.owner()]; v != nil {
			out[key] = v.number
		}
		s.mu.Unlock()
	}
	return out
}

// reopen lets the connections up to one that began before the look at what others
// have not told hand out a task whose offer had won when nobody was there for it.
func (r *Room) reopen(key Key, newest uint64) bool {
	s := r.shard(key.owner())
	s.mu.Lock()
	f, _ := r.lookup(key)
	v := s.visits[key.owner()]
	if f == nil || f.State != Pending || v == nil || s.took(key) {
		s.mu.Unlock()
		return false
	}
	e := v.errands[key.Flow]
	if e == nil || e.won != f.Turn {
		s.mu.Unlock()
		return false
	}
	e.ready = span{1, newest}
	wakes := v.wakes()
	s.mu.Unlock()
	r.wakeAll(key.owner(), wakes)
	return true
}

func (r *Room) wakeAll(o owner, wakes []chan struct{}) {
	signal(wakes)
	if len(wakes) > 0 && r.o.Wake != nil {
		r.o.Wake(o.org, o.client)
	}
}

// untold lists the flows of which some node has made a fact durable that is not
// applied here: a client's first message, perhaps. What a client answered is none.
func (r *Room) untold(ctx context.Context) (map[Key]bool, error) {
	if r.o.Untold == nil {
		return nil, nil
	}
	facts, err := r.o.Untold(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for facts that are on their way: %w", err)
	}
	return spokenIn(facts)
}

// spokenOf is the flow that a fact proves to be in somebody's hands.
func spokenOf(c *buspb.FlowChange) *buspb.FlowKey {
	switch c := c.Change.(type) {
	case *buspb.FlowChange_Taken:
		return c.Taken.GetKey()
	case *buspb.FlowChange_Coverage:
		return c.Coverage.GetKey()
	case *buspb.FlowChange_Offer:
		return c.Offer.GetKey()
	case *buspb.FlowChange_End:
		if c.End.GetAsked() == 0 {
			return c.End.GetKey()
		}
	}
	return nil
}

// offering is an offer on its way to the filestore.
type offering struct {
	key    Key
	fact   *buspb.FlowOffer
	visit  *visit
	errand *errand
	asker  *Attachment
}

// offering looks once more at what became of a task, and says what to make durable;
// nil: nothing. Nothing is offered twice in one turn, nor what the connections up to
// newest may hand out.
func (r *Room) offering(key Key, newest uint64) *offering {
	if r.reopen(key, newest) {
		return nil
	}
	s := r.shard(key.owner())
	s.mu.Lock()
	defer s.mu.Unlock()
	f, _ := r.lookup(key)
	v := s.visits[key.owner()]
	if f == nil || f.State != Pending || v == nil || v.errands[key.Flow] == nil || s.took(key) {
		return nil
	}
	e := v.errands[key.Flow]
	e.sure = e.knowsNot(f) && v.here(e.askedBy)
	if e.offering == f.Turn || !e.sure && f.Cleared == 0 {
		return nil
	}
	e.offering, e.spent = f.Turn, false
	fact := &buspb.FlowOffer{Key: key.proto(), Incarnation: r.o.Incarnation, Turn: f.Turn, Sure: e.sure}
	return &offering{key, fact, v, e, e.askedBy}
}

// offer makes offers durable, in one commit. Those that fail stay due.
func (r *Room) offer(ctx context.Context, all []*offering) error {
	changes := map[ids.Org][]*buspb.FlowChange{}
	for _, o := range all {
		changes[o.key.Org] = append(changes[o.key.Org], &buspb.FlowChange{Change: &buspb.FlowChange_Offer{Offer: o.fact}})
	}
	c := &filestore.Commit{Class: filestore.Interactive}
	var err error
	for org, some := range changes {
		m, wrong := mutation(org, "", some...)
		c.Facts, err = append(c.Facts, m), errors.Join(err, wrong)
	}
	if err == nil {
		err = r.o.Committer.Submit(ctx, c)
	}
	for _, o := range all {
		r.offered(o, err)
	}
	if err != nil {
		return fmt.Errorf("offer %s, the first to %s: %w", plural(int64(len(all)), "task"), all[0].key.Client, err)
	}
	return nil
}

// offered goes on with an offer that is durable, or is not for the reason in err.
func (r *Room) offered(o *offering, err error) {
	s := r.shard(o.key.owner())
	s.mu.Lock()
	if err != nil {
		o.errand.offering = 0
		s.mu.Unlock()
		r.offers.keep(o.key)
		return
	}
	r.metrics.offered.Inc()
	var wakes []chan struct{}
	f, _ := r.lookup(o.key)
	if o.fact.Sure && f != nil && (f.Turn == o.fact.Turn || f.Offered == o.fact.Incarnation) { // no other node was first
		o.errand.answered, o.errand.ready = false, span{o.asker.number, o.asker.number}
		wakes = o.visit.wakes()
	}
	s.mu.Unlock()
	r.wakeAll(o.key.owner(), wakes)
}

// took reports whether this node holds the fact that the client took the task,
// which the ledger may not have told yet. The lock is held.
func (s *shard) took(key Key) bool {
	l := s.locals[key]
	return l != nil && l.taken
}

// turned follows a task through the ledger: an offer of ours that won lets the
// connections hand it out that are here now; that of another node ends ours. A
// sure offer had been obeyed before it came here.
func (v *visit) turned(f *Flow, incarnation string) {
	e := v.errands[f.Flow]
	if e == nil || e.turn == f.Turn {
		return
	}
	e.turn = f.Turn
	ours := f.Offered != "" && f.Offered == incarnation && e.offering > 0
	e.won = 0
	switch {
	case ours && !e.sure:
		e.ready = span{1, v.number}
	case !ours:
		e.ready, e.answered = span{}, false
	}
	if ours && !e.spent {
		e.won = f.Turn
	}
	e.offering, e.sure = 0, false
}
