package flows

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and the name of its snapshot file.
const Kind = "flows"

// tombstoneLife is how long a deleted flow's id is remembered, by ledger time.
const tombstoneLife = 30 * 24 * time.Hour

// owner names a client of an org.
type owner struct {
	org    ids.Org
	client ids.Client
}

func (k Key) owner() owner { return owner{k.Org, k.Client} }

type specKey struct {
	org  ids.Org
	flow ids.Flow
}

// specEntry counts who needs a spec and who still needs its request.
type specEntry struct {
	spec    *Spec
	request []byte // zlib; nil as soon as no task is pending
	flows   int
	pending int
}

// clientFlows are the flows of one client.
type clientFlows struct {
	order []ids.Flow            // oldest first
	open  map[ids.Flow]struct{} // those that a connection may have to speak about
}

// Table is the replicated memory of all collections, a State of the ledger. Apply and Restore are the
// only writers; everything handed out is immutable. It is safe for concurrent
// use.
type Table struct {
	changed func([]Key) // told after each entry, without a lock

	mu         sync.RWMutex
	index      uint64 // the newest entry seen
	specs      map[specKey]*specEntry
	flows      map[Key]*Flow
	clients    map[owner]*clientFlows
	unfinished map[Key]struct{} // ended well, rows missing: what expiry looks at
	deleted    map[Key]time.Time
}

func newTable(changed func([]Key)) *Table {
	t := &Table{changed: changed}
	t.reset()
	return t
}

func (t *Table) reset() {
	t.specs = map[specKey]*specEntry{}
	t.flows = map[Key]*Flow{}
	t.clients = map[owner]*clientFlows{}
	t.unfinished = map[Key]struct{}{}
	t.deleted = map[Key]time.Time{}
}

// Kind names this room's mutations.
func (t *Table) Kind() string { return Kind }

// Apply takes over one entry: all its changes, or none and the refusal.
func (t *Table) Apply(e *buspb.Entry) error {
	org, body, err := decode(e)
	if err != nil {
		return err
	}
	dirty, err := t.apply(e, org, body)
	if err == nil && len(dirty) > 0 {
		t.changed(dirty)
	}
	return err
}

func decode(e *buspb.Entry) (ids.Org, *buspb.FlowsBody, error) {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err != nil {
		return org, nil, fmt.Errorf("apply flows entry %d: %w", e.GetIndex(), err)
	}
	var body buspb.FlowsBody
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &body); err != nil {
		return org, nil, fmt.Errorf("apply flows entry %d: %w", e.GetIndex(), err)
	}
	return org, &body, nil
}

func (t *Table) apply(e *buspb.Entry, org ids.Org, body *buspb.FlowsBody) ([]Key, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	started := map[string]bool{}
	for _, c := range body.Changes {
		if err := t.check(org, c); err != nil {
			return nil, err
		}
		if s := c.GetStart(); s != nil {
			if started[s.Spec.Flow] {
				return nil, fmt.Errorf("start flow %s twice in one batch: %w", s.Spec.Flow, ErrExists)
			}
			started[s.Spec.Flow] = true
		}
	}
	t.index = max(t.index, e.Index)
	a := applier{Table: t, org: org, entry: e, now: time.UnixMicro(e.Time).UTC()}
	for _, c := range body.Changes {
		a.change(c)
	}
	return a.dirty, nil
}

// check says whether a change can be refused, and is. Facts cannot.
func (t *Table) check(org ids.Org, c *buspb.FlowChange) error {
	switch c := c.Change.(type) {
	case *buspb.FlowChange_Start:
		return t.checkStart(org, c.Start)
	case *buspb.FlowChange_Cancel:
		f, err := t.find(org, c.Cancel.Key)
		if err == nil && f.State.Final() {
			err = fmt.Errorf("cancel flow %s of %s: %w", f.Flow, f.Client, ErrFinished)
		}
		return err
	case *buspb.FlowChange_Delete:
		f, err := t.find(org, c.Delete.Key)
		if err == nil && !f.State.Final() {
			err = fmt.Errorf("delete flow %s of %s: %w", f.Flow, f.Client, ErrUnfinished)
		}
		return err
	}
	return nil
}

func (t *Table) checkStart(org ids.Org, s *buspb.FlowStart) error {
	flow, err := ids.ParseFlow(s.GetSpec().GetFlow())
	if err != nil {
		return fmt.Errorf("start flow: %w", err)
	}
	if h := s.Spec.Hunt; h != "" {
		if _, err := ids.ParseHunt(h); err != nil {
			return fmt.Errorf("start flow %s: %w", flow, err)
		}
	}
	if len(s.Clients) == 0 || len(s.Spec.Request) == 0 {
		return fmt.Errorf("start flow %s: no client or no request: %w", flow, ErrInvalid)
	}
	if known := t.specs[specKey{org, flow}]; known != nil && known.spec.digest != digest(s.Spec) {
		return fmt.Errorf("start flow %s: it was started with other content: %w", flow, ErrExists)
	}
	for _, text := range s.Clients {
		client, err := ids.ParseClient(text)
		if err != nil {
			return fmt.Errorf("start flow %s: %w", flow, err)
		}
		key := Key{org, client, flow}
		_, gone := t.deleted[key]
		if _, found := t.flows[key]; found || gone {
			return fmt.Errorf("start flow %s of %s: %w", flow, client, ErrExists)
		}
	}
	return nil
}

func (t *Table) find(org ids.Org, k *buspb.FlowKey) (*Flow, error) {
	key, err := parseKey(org, k)
	if err != nil {
		return nil, err
	}
	f := t.flows[key]
	if f == nil {
		return nil, fmt.Errorf("flow %s of %s: %w", key.Flow, key.Client, ErrNotFound)
	}
	return f, nil
}

func parseKey(org ids.Org, k *buspb.FlowKey) (Key, error) {
	client, err := ids.ParseClient(k.GetClient())
	if err != nil {
		return Key{}, err
	}
	flow, err := ids.ParseFlow(k.GetFlow())
	return Key{org, client, flow}, err
}

func (k Key) proto() *buspb.FlowKey {
	return &buspb.FlowKey{Client: k.Client.String(), Flow: k.Flow.String()}
}

// digest is how two specs are told apart.
func digest(s *buspb.FlowSpec) [32]byte {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil { // only text that is no UTF-8, which decoding refused
		return [32]byte{}
	}
	return sha256.Sum256(data)
}

// applier is Apply at one entry, under the lock.
type applier struct {
	*Table
	org   ids.Org
	entry *buspb.Entry
	now   time.Time
	dirty []Key
}

func (a *applier) change(c *buspb.FlowChange) {
	switch c := c.Change.(type) {
	case *buspb.FlowChange_Start:
		a.start(c.Start)
	case *buspb.FlowChange_Taken:
		a.edit(c.Taken.Key, func(f *Flow) { a.take(f) })
	case *buspb.FlowChange_Coverage:
		a.edit(c.Coverage.Key, func(f *Flow) { f.cover(c.Coverage) })
	case *buspb.FlowChange_End:
		a.edit(c.End.Key, func(f *Flow) { a.end(f, c.End) })
	case *buspb.FlowChange_Cancel:
		a.edit(c.Cancel.Key, func(f *Flow) {
			f.CancelledAt, f.CancelledBy = a.now, a.entry.Mutation.Principal
			f.CancelDue = f.Outcome == buspb.FlowEnd_OUTCOME_UNSPECIFIED
			f.Error = "cancelled by " + cmp.Or(f.CancelledBy, "the server")
		})
	case *buspb.FlowChange_Delete:
		a.remove(c.Delete.Key)
	case *buspb.FlowChange_Expire:
		a.expire(c.Expire)
	}
}

func (a *applier) start(s *buspb.FlowStart) {
	entry := a.spec(s.Spec)
	for _, text := range s.Clients {
		client, err := ids.ParseClient(text)
		key := Key{a.org, client, entry.spec.Flow}
		if err != nil || a.flows[key] != nil { // twice in one batch
			continue
		}
		entry.flows++
		a.put(&Flow{Key: key, Spec: entry.spec, Index: a.entry.Index, State: Pending, Created: a.now})
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
	old := a.flows[key]
	if old == nil {
		return
	}
	next := *old
	change(&next)
	next.judge(a.now)
	a.put(&next)
}

func (a *applier) take(f *Flow) {
	if f.Taken.IsZero() {
		f.Taken = a.now
	}
}

func (a *applier) end(f *Flow, e *buspb.FlowEnd) {
	a.take(f)
	f.cover(e.Coverage)
	f.CancelDue = e.Outcome == buspb.FlowEnd_OUTCOME_LIMIT && rank(f.Outcome) != 2
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
	for key, at := range a.deleted {
		if a.now.Sub(at) >= tombstoneLife {
			delete(a.deleted, key)
		}
	}
}

// put makes f the record of its key and keeps all indexes true to it.
func (a *applier) put(f *Flow) {
	old := a.flows[f.Key]
	a.flows[f.Key] = f
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
}

// queue puts a new flow behind the older ones. The ledger's order is the order
// of age; flows of one entry go by id, as they do in a snapshot.
func (t *Table) queue(c *clientFlows, f *Flow) {
	at := len(c.order)
	for at > 0 {
		before := t.flows[Key{f.Org, f.Client, c.order[at-1]}]
		if before.Index != f.Index || compareText(before.Flow.String(), f.Flow.String()) < 0 {
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
	if next != nil && next.open() {
		if c.open == nil {
			c.open = map[ids.Flow]struct{}{}
		}
		c.open[f.Flow] = struct{}{}
	} else {
		delete(c.open, f.Flow)
	}
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
	f := a.flows[key]
	if err != nil || f == nil {
		return
	}
	c := a.clients[key.owner()]
	a.reindex(c, f, nil)
	delete(a.flows, key)
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
	a.deleted[key] = a.now
	a.dirty = append(a.dirty, key)
}

var _ interface {
	Kind() string
	Apply(*buspb.Entry) error
	View() io.WriterTo
	Restore(io.Reader) error
} = (*Table)(nil)
