package flows

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// MonitoringKind is the kind of the event table's mutations and its snapshot.
const MonitoringKind = "monitoring"

// maxEventTable bounds the event tables of an org in the ledger, in bytes.
const maxEventTable = 4 << 20

// EventTable is the replicated memory of what clients watch, per org. Apply and
// Restore are its only writers. It is safe for concurrent use.
type EventTable struct {
	*perOrg[orgEvents, eventsLine]
	changed func(ids.Org) // told after each entry, without a lock
}

// orgEvents never changes: an entry makes a new one.
type orgEvents struct {
	set    time.Time // of the entry
	index  uint64    // of the entry; 0 of one that was set by an older version
	groups []eventGroup
	names  map[string]eventName // by token; those of earlier tables too
}

type eventGroup struct {
	Label     string       `json:"label,omitempty"`
	Queries   []eventQuery `json:"queries"`
	Artifacts []Artifact   `json:"artifacts,omitempty"` // what the queries were made of
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
	return &EventTable{newPerOrg("monitoring", lineOfEvents, eventsOfLine), changed}
}

// Known reports whether an org was ever given an event table, be it an empty one.
func (t *EventTable) Known(org ids.Org) bool {
	return t.of(org) != nil
}

// Version is the index of the entry that set an org's table, 0 if none did.
func (t *EventTable) Version(org ids.Org) uint64 {
	if o := t.of(org); o != nil {
		return o.index
	}
	return 0
}

// Groups are an org's tables as operators gave them, with all values, secret ones
// too, and their version. They are the caller's.
func (t *EventTable) Groups(org ids.Org) (groups []EventGroup, version uint64) {
	o := t.of(org)
	if o == nil {
		return nil, 0
	}
	for _, g := range o.groups {
		groups = append(groups, EventGroup{Label: g.Label, Artifacts: cloneArtifacts(g.Artifacts)})
	}
	return groups, o.index
}

// Kind names the event table's mutations.
func (t *EventTable) Kind() string { return MonitoringKind }

// Apply takes over one entry.
func (t *EventTable) Apply(e *buspb.Entry) error {
	var body buspb.MonitoringBody
	org, err := t.body(e, &body)
	if err != nil {
		return err
	}
	next := &orgEvents{set: time.UnixMicro(e.Time).UTC(), index: e.GetIndex(), names: map[string]eventName{}}
	if err := standsAt(body.Version, t.Version(org)); err != nil {
		return t.refused(e, err)
	}
	for _, g := range body.Groups {
		group := eventGroup{Label: g.Label, Artifacts: artifactsOf(g.Artifacts)}
		for _, q := range g.Queries {
			one := eventQuery{Args: q.Args}
			for _, n := range q.Names {
				one.Names = append(one.Names, Name{n.Token, n.Name})
			}
			group.Queries = append(group.Queries, one)
		}
		next.groups = append(next.groups, group)
	}
	next.learn(t.of(org))
	t.put(org, next)
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

type eventsLine struct {
	Org    string       `json:"org"`
	Set    int64        `json:"set"` // unix microseconds
	Index  uint64       `json:"index,omitempty"`
	Groups []eventGroup `json:"groups,omitempty"`
	Names  []nameLine   `json:"names,omitempty"`
}

type nameLine struct {
	Token string `json:"token"`
	eventName
}

func lineOfEvents(org string, o *orgEvents) eventsLine {
	line := eventsLine{Org: org, Set: micros.Of(o.set), Index: o.index, Groups: o.groups}
	for token, n := range o.names {
		line.Names = append(line.Names, nameLine{token, n})
	}
	slices.SortFunc(line.Names, func(a, b nameLine) int { return compareText(a.Token, b.Token) })
	return line
}

func eventsOfLine(line *eventsLine) (string, *orgEvents) {
	o := &orgEvents{set: micros.Time(line.Set), index: line.Index, groups: line.Groups, names: map[string]eventName{}}
	for _, n := range line.Names {
		o.names[n.Token] = n.eventName
	}
	return line.Org, o
}

// Restore replaces the state by what a View wrote.
func (t *EventTable) Restore(r io.Reader) error {
	orgs, err := t.restore(r)
	for _, org := range orgs {
		t.changed(org)
	}
	return err
}

// tableNews is what this node knows of a client's event table.
type tableNews struct {
	reported  uint64 // version that the client runs
	known     bool   // it said so
	offered   uint64 // newest version handed out
	offeredAt time.Time
	offeredBy *Attachment
}

// tagBits are the low bits of a version, by which every node knows what it is of.
const tagBits = 30

// hasTag reports whether a version is of the table that has a tag.
func hasTag(version, tag uint64) bool { return version&(1<<tagBits-1) == tag }

// eventChoice is what of an org's event table is for one client.
type eventChoice struct {
	*orgEvents
	groups []eventGroup
}

// choose finds what is for a client with these labels.
func (o *orgEvents) choose(labels []string) eventChoice {
	c := eventChoice{orgEvents: o}
	for _, g := range o.groups {
		if g.Label == "" || slices.Contains(labels, g.Label) {
			c.groups = append(c.groups, g)
		}
	}
	return c
}

// tag is what the versions of a choice have in their low bits, on every node.
func (c eventChoice) tag() uint64 {
	text := binary.BigEndian.AppendUint64(nil, uint64(c.set.UnixNano()))
	for _, g := range c.groups {
		text = append(append(text, g.Label...), 0) // no label has one
	}
	sum := sha256.Sum256(text)
	return binary.BigEndian.Uint64(sum[:]) >> (64 - tagBits)
}

// version is the number of a choice for a client that has run, or was offered, all
// up to above: clients take no lower one, whatever gave them theirs. It lies within
// a second or so of the nanosecond at which the table was set if it can.
func (c eventChoice) version(above uint64) uint64 {
	least := max(above, uint64(max(0, c.set.UnixNano()))) + 1
	version := least>>tagBits<<tagBits | c.tag()
	if version < least {
		version += 1 << tagBits
	}
	return version
}

// eventTable adds the event table if the client runs another one. The version is
// above what the client has, and every node knows by it which table it is of. Any
// other number tells nothing, however high: another server, a clock that was ahead
// or a ledger that was restored may have issued it. No clock of a node is in it.
//
// While the client has not said that it runs what it was given, it is given nothing
// newer for some seconds: it takes one answer a second, and labels may change by
// the thousand.
func (d *delivery) eventTable() {
	r, n := d.a.room, &d.v.table
	if d.events == nil || !n.known {
		return
	}
	choice := d.events.choose(d.labels)
	tag := choice.tag()
	switch underWay := n.offeredBy == d.a && n.offered > n.reported; {
	case !underWay && hasTag(n.reported, tag),
		underWay && hasTag(n.offered, tag) && d.now.Sub(n.offeredAt) < resendTable,
		underWay && d.now.Sub(n.offeredAt) < adoptTable:
		return
	}
	table := &wirepb.VQLEventTable{Version: choice.version(max(n.reported, n.offered))}
	for _, g := range choice.groups {
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
		n.offered, n.offeredAt, n.offeredBy = table.Version, d.now, d.a
	}
}

// labels are a client's labels in lower case.
func (r *Room) labels(o owner) []string {
	if r.o.Labels == nil {
		return nil
	}
	labels := r.o.Labels(o.org, o.client)
	lower := make([]string, len(labels))
	for i, l := range labels {
		lower[i] = strings.ToLower(l)
	}
	return lower
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
	for _, l := range r.labels(o) {
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
	r.wakeAll(o, wakes)
}
