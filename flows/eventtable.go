package flows

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// MonitoringKind is the kind of the event table's mutations and its snapshot.
const MonitoringKind = "monitoring"

// maxEventTable bounds the event tables of an org in the ledger, in bytes.
const maxEventTable = 4 << 20

// EventGroup is what clients with one label watch; no label means all clients.
type EventGroup struct {
	Label   string
	Queries []EventQuery
}

// EventQuery is one compiled event query and the names its results have.
type EventQuery struct {
	Args  *wirepb.VQLCollectorArgs
	Names map[string]string // token a client is told -> result name
}

// EventTable is the replicated memory of what clients watch, per org. Apply and
// Restore are its only writers. It is safe for concurrent use.
type EventTable struct {
	changed func(ids.Org) // told after each entry, without a lock

	mu   sync.RWMutex
	orgs map[ids.Org]*orgEvents
}

// orgEvents never changes: an entry makes a new one.
type orgEvents struct {
	set    time.Time // of the entry, nanoseconds are its version for clients
	groups []eventGroup
	names  map[string]eventName // by token; those of earlier tables too
}

type eventGroup struct {
	Label   string       `json:"label,omitempty"`
	Queries []eventQuery `json:"queries"`
}

type eventQuery struct {
	Args  []byte `json:"args"` // a serialised VQLCollectorArgs
	Names []Name `json:"names"`
}

// eventName is what a token stands for, and who was given it.
type eventName struct {
	Result string   `json:"name"`
	Labels []string `json:"labels"` // sorted; "" is all clients
}

func newEventTable(changed func(ids.Org)) *EventTable {
	return &EventTable{changed: changed, orgs: map[ids.Org]*orgEvents{}}
}

// PlanEvents checks event tables and returns the mutation that gives them to an
// org's clients. No group at all switches event queries off. The error wraps
// ErrInvalid.
func PlanEvents(org ids.Org, principal string, groups []EventGroup) (*buspb.Mutation, error) {
	body := &buspb.MonitoringBody{}
	for _, g := range groups {
		group := &buspb.MonitoringGroup{Label: strings.ToLower(g.Label)}
		for _, q := range g.Queries {
			one, err := planEvent(q)
			if err != nil {
				return nil, fmt.Errorf("plan events of label %q: %w", g.Label, err)
			}
			group.Queries = append(group.Queries, one)
		}
		body.Groups = append(body.Groups, group)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("plan events: %w: %w", ErrInvalid, err)
	}
	if len(data) > maxEventTable {
		return nil, fmt.Errorf("plan events: %d bytes: %w", len(data), ErrInvalid)
	}
	return &buspb.Mutation{Kind: MonitoringKind, Org: org.String(), Body: data, Principal: principal}, nil
}

func planEvent(q EventQuery) (*buspb.MonitoringQuery, error) {
	named := ""
	for _, s := range q.Args.GetQuery() {
		if s.Name == "" {
			continue
		}
		if _, ok := q.Names[s.Name]; !ok {
			return nil, fmt.Errorf("name %.60q stands for no result: %w", s.Name, ErrInvalid)
		}
		named = cmp.Or(named, s.Name)
	}
	if named == "" {
		return nil, fmt.Errorf("event query without a name, which clients do not start: %w", ErrInvalid)
	}
	args, err := proto.MarshalOptions{Deterministic: true}.Marshal(q.Args)
	if err != nil {
		return nil, fmt.Errorf("serialise event query: %w: %w", ErrInvalid, err)
	}
	out := &buspb.MonitoringQuery{Args: args}
	for token, name := range q.Names {
		if err := checkResultName(name); err != nil {
			return nil, err
		}
		if name == clientInfoName || token == clientInfoName {
			return nil, fmt.Errorf("result name %q belongs to the protocol: %w", name, ErrInvalid)
		}
		out.Names = append(out.Names, &buspb.FlowName{Token: token, Name: name})
	}
	slices.SortFunc(out.Names, func(a, b *buspb.FlowName) int { return compareText(a.Token, b.Token) })
	return out, nil
}

// Known reports whether an org was ever given an event table, be it an empty one.
func (t *EventTable) Known(org ids.Org) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.orgs[org] != nil
}

// Kind names the event table's mutations.
func (t *EventTable) Kind() string { return MonitoringKind }

// Apply takes over one entry.
func (t *EventTable) Apply(e *buspb.Entry) error {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err != nil {
		return fmt.Errorf("apply monitoring entry %d: %w", e.GetIndex(), err)
	}
	var body buspb.MonitoringBody
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &body); err != nil {
		return fmt.Errorf("apply monitoring entry %d: %w", e.GetIndex(), err)
	}
	next := &orgEvents{set: time.UnixMicro(e.Time).UTC(), names: map[string]eventName{}}
	for _, g := range body.Groups {
		group := eventGroup{Label: g.Label}
		for _, q := range g.Queries {
			one := eventQuery{Args: q.Args}
			for _, n := range q.Names {
				one.Names = append(one.Names, Name{n.Token, n.Name})
			}
			group.Queries = append(group.Queries, one)
		}
		next.groups = append(next.groups, group)
	}
	t.mu.Lock()
	next.learn(t.orgs[org])
	t.orgs[org] = next
	t.mu.Unlock()
	t.changed(org)
	return nil
}

// learn gathers the names. Those of the table before stay known: a client that
// was away still sends what it watched.
func (o *orgEvents) learn(before *orgEvents) {
	if before != nil {
		for token, n := range before.names {
			o.names[token] = n
		}
	}
	for _, g := range o.groups {
		for _, q := range g.Queries {
			for _, n := range q.Names {
				known := o.names[n.Token]
				labels := []string{g.Label}
				if known.Result == n.Result {
					labels = append(labels, known.Labels...)
				}
				slices.Sort(labels)
				o.names[n.Token] = eventName{n.Result, slices.Compact(labels)}
			}
		}
	}
}

func (t *EventTable) of(org ids.Org) *orgEvents {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.orgs[org]
}

// eventsView is a snapshot: orgEvents are immutable.
type eventsView map[ids.Org]*orgEvents

type eventsLine struct {
	Org    string       `json:"org"`
	Set    int64        `json:"set"` // unix microseconds
	Groups []eventGroup `json:"groups,omitempty"`
	Names  []nameLine   `json:"names,omitempty"`
}

type nameLine struct {
	Token string `json:"token"`
	eventName
}

// View returns the state as it stands.
func (t *EventTable) View() io.WriterTo {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v := eventsView{}
	for org, o := range t.orgs {
		v[org] = o
	}
	return v
}

// WriteTo writes a line per org.
func (v eventsView) WriteTo(w io.Writer) (int64, error) {
	var lines []eventsLine
	for org, o := range v {
		line := eventsLine{Org: org.String(), Set: micros.Of(o.set), Groups: o.groups}
		for token, n := range o.names {
			line.Names = append(line.Names, nameLine{token, n})
		}
		slices.SortFunc(line.Names, func(a, b nameLine) int { return compareText(a.Token, b.Token) })
		lines = append(lines, line)
	}
	slices.SortFunc(lines, func(a, b eventsLine) int { return compareText(a.Org, b.Org) })
	return jsonlines.Write(w, slices.Values(lines))
}

// Restore replaces the state by what a View wrote.
func (t *EventTable) Restore(r io.Reader) error {
	fresh := map[ids.Org]*orgEvents{}
	dec := json.NewDecoder(bufio.NewReader(r))
	for {
		var line eventsLine
		err := dec.Decode(&line)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("restore monitoring: %w", err)
		}
		org, err := ids.ParseOrg(line.Org)
		if err != nil {
			return fmt.Errorf("restore monitoring: %w", err)
		}
		o := &orgEvents{set: micros.Time(line.Set), groups: line.Groups, names: map[string]eventName{}}
		for _, n := range line.Names {
			o.names[n.Token] = n.eventName
		}
		fresh[org] = o
	}
	t.mu.Lock()
	t.orgs = fresh
	t.mu.Unlock()
	for org := range fresh {
		t.changed(org)
	}
	return nil
}

// tableNews is what this node knows of a client's event table.
type tableNews struct {
	reported  uint64 // version that the client runs
	known     bool   // it said so
	offered   uint64 // newest version handed out
	offeredAt time.Time
	offeredBy *Attachment
	basis     time.Time // state of table and labels that was handed out
}

// versionOf is the version that a state of table and labels has on every node.
func versionOf(basis time.Time) uint64 { return uint64(max(0, basis.UnixNano())) + 1 }

// tagBits are the low bits by which every node knows a version above versionOf.
const tagBits = 30

// tagOf is what a state of table and labels has in those bits.
func tagOf(basis time.Time) uint64 {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, versionOf(basis)))
	return binary.BigEndian.Uint64(sum[:]) >> (64 - tagBits)
}

// versionAbove is the version of a basis for a client that has run, or was offered,
// all below least: clients take no lower number, whatever gave them theirs.
func versionAbove(least uint64, basis time.Time) uint64 {
	if v := versionOf(basis); least <= v {
		return v
	}
	version := least>>tagBits<<tagBits | tagOf(basis)
	if version < least {
		version += 1 << tagBits
	}
	return version
}

// runs reports whether the client runs the table of a basis, whichever node gave it
// that. Any other number tells nothing, however high: another server, a clock that
// was ahead or a ledger that was restored may have issued it.
func (n *tableNews) runs(basis time.Time) bool {
	v := versionOf(basis)
	return n.reported == v || n.reported > v && n.reported&(1<<tagBits-1) == tagOf(basis)
}

// eventTable adds the event table if the client runs another one. The version is
// above what the client has, and every node knows it by its basis. No clock of a
// node is in it: one that jumped ahead would put it above all tables to come.
func (d *delivery) eventTable() {
	r, n := d.a.room, &d.v.table
	o := d.events
	if o == nil || !n.known {
		return
	}
	basis := latest(d.basis, o.set)
	if n.runs(basis) {
		return
	}
	if n.offeredBy == d.a && !basis.After(n.basis) && d.now.Sub(n.offeredAt) < resendTable {
		return
	}
	version := versionAbove(max(n.reported, n.offered)+1, basis)
	table := &wirepb.VQLEventTable{Version: version}
	for _, g := range o.groups {
		if g.Label != "" && !slices.Contains(d.labels, g.Label) {
			continue
		}
		for _, q := range g.Queries {
			var args wirepb.VQLCollectorArgs
			if err := proto.Unmarshal(q.Args, &args); err != nil {
				r.log.Error("event query cannot be read", "org", d.a.owner.org.String(), "err", err)
				continue
			}
			table.Event = append(table.Event, &args)
		}
	}
	d.table = &wirepb.VeloMessage{SessionId: ids.Monitoring.String(), UpdateEventTable: table}
	if d.real {
		n.offered, n.offeredAt, n.offeredBy, n.basis = version, d.now, d.a, basis
	}
}

// labels are a client's labels in lower case, and when they changed last.
func (r *Room) labels(o owner) ([]string, time.Time) {
	if r.o.Labels == nil {
		return nil, time.Time{}
	}
	labels, changed := r.o.Labels(o.org, o.client)
	lower := make([]string, len(labels))
	for i, l := range labels {
		lower[i] = strings.ToLower(l)
	}
	return lower, changed
}

// eventName is what a token stands for, if this client was given it. A random
// token is proof enough: only who was given it knows it. A name in clear must
// belong to a table of the client's labels.
func (r *Room) eventName(o owner, token string) (string, bool) {
	events := r.Events.of(o.org)
	if events == nil || token == "" {
		return "", false
	}
	n, ok := events.names[token]
	if !ok {
		return "", false
	}
	if token != n.Result || slices.Contains(n.Labels, "") {
		return n.Result, true
	}
	labels, _ := r.labels(o)
	for _, l := range labels {
		if slices.Contains(n.Labels, l) {
			return n.Result, true
		}
	}
	return "", false
}

// eventsChanged wakes an org's connections for their new event table.
func (r *Room) eventsChanged(org ids.Org) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		var wakes []chan struct{}
		var owners []owner
		for o, v := range s.visits {
			if o.org == org && len(v.attachments) > 0 {
				wakes = append(wakes, v.wakes()...)
				owners = append(owners, o)
			}
		}
		s.mu.Unlock()
		signal(wakes)
		if r.o.Wake != nil {
			for _, o := range owners {
				r.o.Wake(o.org, o.client)
			}
		}
	}
}

// LabelsChanged wakes a client's connections: other event queries may be due.
func (r *Room) LabelsChanged(org ids.Org, client ids.Client) {
	o := owner{org, client}
	s := r.shard(o)
	s.mu.Lock()
	var wakes []chan struct{}
	if v := s.visits[o]; v != nil {
		wakes = v.wakes()
	}
	s.mu.Unlock()
	signal(wakes)
	if len(wakes) > 0 && r.o.Wake != nil {
		r.o.Wake(org, client)
	}
}
