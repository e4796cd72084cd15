package flows

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// maxOffers is how often a task is handed out again whose client says each time
// that it does not know it. A task that kills its agent before the first message
// is durable must not do so for ever.
const maxOffers = 4

// applier is Apply at one entry, under the lock.
type applier struct {
	*Table
	org   ids.Org
	entry *buspb.Entry
	now   time.Time
	dirty []Key

	hunted []HuntChange // of flows of hunts
	kills  []kill
	ended  []*Flow // for the first time in their lives
}

func (a *applier) change(c *buspb.FlowChange) {
	switch c := c.Change.(type) {
	case *buspb.FlowChange_Start:
		a.start(c.Start)
	case *buspb.FlowChange_Import:
		a.bring(c.Import)
	case *buspb.FlowChange_Taken:
		a.edit(c.Taken.Key, func(f *Flow) { a.take(f) })
	case *buspb.FlowChange_Coverage:
		a.edit(c.Coverage.Key, func(f *Flow) { f.cover(c.Coverage) })
	case *buspb.FlowChange_End:
		a.edit(c.End.Key, func(f *Flow) { a.end(f, c.End) })
	case *buspb.FlowChange_Cancel:
		a.edit(c.Cancel.Key, func(f *Flow) {
			if c.Cancel.IfOpen && f.State.Final() {
				return
			}
			f.CancelledAt, f.CancelledBy = a.now, a.entry.Mutation.Principal
			a.turn(f)
			f.CancelDue = f.Outcome == buspb.FlowEnd_OUTCOME_UNSPECIFIED
			f.Error = "cancelled by " + cmp.Or(f.CancelledBy, "the server")
		})
	case *buspb.FlowChange_Delete:
		a.remove(c.Delete.Key)
	case *buspb.FlowChange_Expire:
		a.expire(c.Expire)
	case *buspb.FlowChange_Kill:
		if client, err := ids.ParseClient(c.Kill.GetClient()); err == nil { // as checked
			a.kills = append(a.kills, kill{owner{a.org, client}, a.entry.Index})
		}
	case *buspb.FlowChange_Offer:
		a.edit(c.Offer.Key, func(f *Flow) { a.offer(f, c.Offer) })
	}
}

// turn begins anew what clients are asked: an answer to an older question tells
// nothing of what was said to the client since.
func (a *applier) turn(f *Flow) {
	f.Turn, f.Cleared, f.ClearedBy, f.Offered = a.entry.Index, 0, "", ""
}

func (a *applier) start(s *buspb.FlowStart) {
	entry := a.spec(s.Spec)
	for _, text := range s.Clients {
		client, err := ids.ParseClient(text)
		key := Key{a.org, client, entry.spec.Flow}
		if err != nil || a.records.has(key) { // twice in one batch
			continue
		}
		entry.flows++
		a.put(&Flow{Key: key, Spec: entry.spec, Index: a.entry.Index, State: Pending, Created: a.now, Turn: a.entry.Index})
	}
}

// spec finds or makes the spec of a start that was checked.
func (a *applier) spec(s *buspb.FlowSpec) *specEntry {
	flow, _ := ids.ParseFlow(s.Flow) // checked before
	hunt, _ := ids.ParseHunt(s.Hunt) // checked before, or none
	key := specKey{a.org, flow}
	entry := a.specs[key]
	if entry == nil {
		spec := &Spec{
			Org: a.org, Flow: flow, Hunt: hunt, Creator: s.Creator, Urgent: s.Urgent,
			Limits: limitsOf(s.Limits), digest: digest(s),
		}
		for _, art := range s.Artifacts {
			one := Artifact{Name: art.Name}
			for _, p := range art.Parameters {
				one.Parameters = append(one.Parameters, Parameter{p.Name, p.Value})
			}
			spec.Artifacts = append(spec.Artifacts, one)
		}
		for _, n := range s.Names {
			spec.Names = append(spec.Names, Name{n.Token, n.Name})
		}
		slices.SortStableFunc(spec.Names, func(x, y Name) int { return compareText(x.Token, y.Token) })
		entry = &specEntry{spec: spec}
		a.specs[key] = entry
	}
	if entry.request == nil {
		entry.request = bytes.Clone(s.Request)
	}
	return entry
}

func limitsOf(l *buspb.FlowLimits) Limits {
	return Limits{l.GetRows(), l.GetRowBytes(), l.GetUploads(), l.GetUploadBytes(), l.GetLogs()}
}

// edit changes a copy of one record. A flow that is not here (deleted, or never
// known) is left alone: facts may be late.
func (a *applier) edit(k *buspb.FlowKey, change func(*Flow)) {
	key, err := parseKey(a.org, k)
	if err != nil {
		return
	}
	old := a.flow(key)
	if old == nil {
		return
	}
	next := *old
	change(&next)
	next.judge(a.now)
	switch {
	case old.State.Final() && !next.State.Final():
		next.Reopened = true // its end was told of, and will not be again
	case !old.State.Final() && next.State.Final() && !next.Reopened:
		a.ended = append(a.ended, &next)
	}
	a.put(&next)
}

func (a *applier) take(f *Flow) {
	if f.Taken.IsZero() {
		f.Taken = a.now
		a.turn(f)
	}
}

// offer lets one incarnation hand out a task whose client does not know it. The
// first of a turn wins, and the next needs a new answer.
func (a *applier) offer(f *Flow, o *buspb.FlowOffer) {
	if f.State != Pending || f.Turn != o.Turn || f.Cleared == 0 && !o.Sure {
		return
	}
	a.turn(f)
	f.Offered = o.Incarnation
	f.Offers++
}

// lost takes a client's answer that it does not know the flow: of a task that it
// may have it, of one that it had that it lost it. An answer to a question that
// was asked before the newest turn may be older than what the client was told
// since. It reports whether the flow is over by it.
func (a *applier) lost(f *Flow, e *buspb.FlowEnd) bool {
	if e.Asked < f.Turn {
		return false
	}
	if f.State != Pending {
		return true
	}
	if f.Offers >= maxOffers {
		e.Error = "handed out " + plural(maxOffers, "time") + ", but the client says each time that it does not know the flow"
		return true
	}
	f.Cleared, f.ClearedBy = a.entry.Index, shorten(e.AskedBy, maxMark)
	return false
}

func (a *applier) end(f *Flow, e *buspb.FlowEnd) {
	if f.cover(e.Coverage); e.Outcome == buspb.FlowEnd_OUTCOME_UNKNOWN && e.Asked > 0 && !a.lost(f, e) {
		return
	}
	a.take(f)
	f.CancelDue = e.Outcome == buspb.FlowEnd_OUTCOME_LIMIT && rank(f.Outcome) != 2
	// What the client had spent it tells after our limit has ended the flow.
	f.CPU.grow(e.CpuNs)
	if rank(e.Outcome) <= rank(f.Outcome) {
		return
	}
	real := rank(e.Outcome) == 2
	f.Outcome, f.Ended = e.Outcome, a.now
	if f.CancelledAt.IsZero() || e.Outcome == buspb.FlowEnd_OUTCOME_LIMIT {
		f.Error = shorten(e.Error, maxErrorText)
	}
	if real || f.Totals == (Totals{}) {
		t := e.Totals
		f.Totals = Totals{t.GetRows(), t.GetLogs(), t.GetUploads(), t.GetUploadBytes(), t.GetExpectedUploadBytes()}
	}
	if e.FirstActive > 0 {
		f.FirstActive = time.UnixMicro(e.FirstActive).UTC()
	}
	f.Duration = max(f.Duration, time.Duration(e.Duration))
}

func (a *applier) expire(x *buspb.FlowExpire) {
	for _, k := range x.Keys {
		a.edit(k, func(f *Flow) {
			if f.State == Waiting && a.now.Sub(f.WaitingSince) >= WaitForRows {
				f.State, f.Error = Incomplete, f.missing()
			}
		})
	}
	for key, d := range a.deleted {
		if a.now.Sub(d.at) >= tombstoneLife {
			delete(a.deleted, key)
		}
	}
}

// put makes f the record of its key and keeps all indexes true to it.
func (a *applier) put(f *Flow) {
	old := a.flow(f.Key)
	a.records.keep(f)
	c := a.clients[f.owner()]
	if c == nil {
		c = &clientFlows{}
		a.clients[f.owner()] = c
	}
	if old == nil {
		a.queue(c, f)
	}
	a.reindex(c, old, f)
	a.dirty = append(a.dirty, f.Key)
	a.hunt(old, f)
}

// queue puts a new flow behind the older ones. The ledger's order is the order
// of age; flows of one entry go by id, as they do in a snapshot.
func (t *Table) queue(c *clientFlows, f *Flow) {
	at := len(c.order)
	for at > 0 {
		before := c.order[at-1]
		if t.records.started(Key{f.Org, f.Client, before}) != f.Index || compareText(before.String(), f.Flow.String()) < 0 {
			break
		}
		at--
	}
	c.order = slices.Insert(c.order, at, f.Flow)
}

// reindex moves one flow from where old stood to where next stands; either may
// be nil.
func (t *Table) reindex(c *clientFlows, old, next *Flow) {
	f := cmp.Or(next, old)
	c.reopen(f.Flow, next != nil && next.open())
	if next != nil && next.State == Waiting {
		t.unfinished[f.Key] = struct{}{}
	} else {
		delete(t.unfinished, f.Key)
	}
	was, is := old != nil && old.State == Pending, next != nil && next.State == Pending
	entry := t.specs[specKey{f.Org, f.Flow}]
	if entry == nil || was == is {
		return
	}
	if is {
		entry.pending++
		return
	}
	if entry.pending--; entry.pending == 0 {
		entry.request = nil
	}
}

func (a *applier) remove(k *buspb.FlowKey) {
	key, err := parseKey(a.org, k)
	f := a.flow(key)
	if err != nil || f == nil {
		return
	}
	c := a.clients[key.owner()]
	a.reindex(c, f, nil)
	a.records.forget(key)
	c.order = slices.DeleteFunc(slices.Clone(c.order), func(id ids.Flow) bool { return id == key.Flow })
	if len(c.order) == 0 {
		delete(a.clients, key.owner())
	}
	sk := specKey{key.Org, key.Flow}
	if entry := a.specs[sk]; entry != nil {
		if entry.flows--; entry.flows == 0 {
			delete(a.specs, sk)
		}
	}
	a.deleted[key] = tombstone{a.now, a.entry.Index}
	a.dirty = append(a.dirty, key)
	a.hunt(f, nil)
}
