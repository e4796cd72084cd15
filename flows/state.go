package flows

import (
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
	order []ids.Flow // oldest first
	open  []ids.Flow // those that a connection may have to speak about, in no order
}

// reopen notes whether a connection may have to speak about a flow.
func (c *clientFlows) reopen(flow ids.Flow, open bool) {
	at := slices.Index(c.open, flow)
	switch {
	case open && at < 0:
		c.open = append(c.open, flow)
	case !open && len(c.open) == 1 && at == 0:
		c.open = nil // most clients rest most of the time
	case !open && at >= 0:
		c.open = slices.Delete(c.open, at, at+1)
	}
}

// Table is the replicated memory of all collections, a State of the ledger. Apply and Restore are the
// only writers; everything handed out is immutable. It is safe for concurrent
// use.
type Table struct {
	changed  func([]Key) // told after each entry, without a lock
	restored func()      // told after each Restore, likewise
	killed   func(kill)  // told of orders to exit, likewise; nil: nobody
	finished func(index uint64, at time.Time, ended []*Flow)
	hunts    hunts // nil: none

	mu         sync.RWMutex
	index      uint64 // the newest entry seen
	specs      map[specKey]*specEntry
	records    records
	clients    map[owner]*clientFlows
	unfinished map[Key]struct{} // ended well, rows missing: what expiry looks at
	deleted    map[Key]tombstone
}

// tombstone is what is left of a deleted flow.
type tombstone struct {
	at    time.Time // of the entry
	index uint64    // the entry; 0: an earlier version did not tell
}

func newTable(changed func([]Key), restored func()) *Table {
	t := &Table{changed: changed, restored: restored}
	t.reset()
	return t
}

func (t *Table) reset() {
	t.specs = map[specKey]*specEntry{}
	t.records = newRecords()
	t.clients = map[owner]*clientFlows{}
	t.unfinished = map[Key]struct{}{}
	t.deleted = map[Key]tombstone{}
}

// Kind names this room's mutations.
func (t *Table) Kind() string { return Kind }

// Apply takes over one entry: all its changes, or none and the refusal.
func (t *Table) Apply(e *buspb.Entry) error {
	org, body, err := decode(e)
	if err != nil {
		return err
	}
	at := time.UnixMicro(e.Time).UTC()
	if err := t.mayStart(at, org, body); err != nil {
		return err
	}
	a, err := t.apply(e, at, org, body)
	if err != nil {
		return err
	}
	if len(a.hunted) > 0 {
		t.hunts.FlowsChanged(at, org, a.hunted)
	}
	if len(a.ended) > 0 && t.finished != nil {
		t.finished(e.Index, at, a.ended)
	}
	if len(a.dirty) > 0 {
		t.changed(a.dirty)
	}
	if t.killed != nil {
		for _, k := range a.kills {
			t.killed(k)
		}
	}
	return nil
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

func (t *Table) apply(e *buspb.Entry, at time.Time, org ids.Org, body *buspb.FlowsBody) (*applier, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	started := map[string]bool{}
	for _, c := range body.Changes {
		if err := t.check(org, c); err != nil {
			return nil, err
		}
		if s := cmp.Or(c.GetStart().GetSpec(), c.GetImport().GetSpec()); s != nil {
			if started[s.Flow] {
				return nil, fmt.Errorf("start flow %s twice in one batch: %w", s.Flow, ErrExists)
			}
			started[s.Flow] = true
		}
	}
	t.index = max(t.index, e.Index)
	a := &applier{Table: t, org: org, entry: e, now: at}
	for _, c := range body.Changes {
		a.change(c)
	}
	return a, nil
}

// check says whether a change can be refused, and is. Facts cannot.
func (t *Table) check(org ids.Org, c *buspb.FlowChange) error {
	switch c := c.Change.(type) {
	case *buspb.FlowChange_Start:
		return t.checkStart(org, c.Start)
	case *buspb.FlowChange_Import:
		return t.checkImport(org, c.Import)
	case *buspb.FlowChange_Cancel:
		if c.Cancel.IfOpen {
			return nil
		}
		f, err := t.find(org, c.Cancel.Key)
		if err == nil && f.State.Final() {
			err = fmt.Errorf("cancel flow %s of %s: %w", f.Flow, f.Client, ErrFinished)
		}
		return err
	case *buspb.FlowChange_Kill:
		if _, err := ids.ParseClient(c.Kill.GetClient()); err != nil {
			return fmt.Errorf("kill client: %w", err)
		}
		return nil
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
		if t.records.has(key) || gone {
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
	f := t.flow(key)
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

var _ interface {
	Kind() string
	Apply(*buspb.Entry) error
	View() io.WriterTo
	Restore(io.Reader) error
} = (*Table)(nil)
