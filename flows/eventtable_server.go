package flows

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// ServerMonitoringKind is the kind of the server's event table and of how far its
// queries have read: its mutations and its snapshot file.
const ServerMonitoringKind = "server_monitoring"

// maxPlace bounds the place of one watched artifact, in bytes: some thousand segments.
const maxPlace = 128 << 10

// ServerArtifact is an event artifact that runs on the master.
type ServerArtifact struct {
	Artifact
	Principal string `json:"principal"` // who set it so: it runs with what they may do
	Set       uint64 `json:"set"`       // the entry that gave it these parameters
	Added     uint64 `json:"added"`     // the entry that brought it into the table
}

// ServerPlace is how far one query has worked off what it watches.
type ServerPlace struct {
	Round  uint64            // counts up over all masters; 0: never read
	Places map[string]string // by watched artifact
	Events int64             // rows taken in all
	At     time.Time         // of the last entry
}

// ServerTable is the replicated memory of the event artifacts that run on the
// master, per org, and of how far they have read. Apply and Restore are its only
// writers. It is safe for concurrent use.
type ServerTable struct {
	*perOrg[orgServer, serverLine]
	changed chan struct{} // one slot; full: whoever reads it looks again anyway
}

// orgServer never changes: an entry makes a new one.
type orgServer struct {
	index     uint64
	artifacts []ServerArtifact // in the order given
	places    map[string]ServerPlace
}

func newServerTable() *ServerTable {
	return &ServerTable{newPerOrg("server monitoring", lineOfServer, serverOfLine), make(chan struct{}, 1)}
}

// Changed signals that a table may have changed: look again. It has one reader.
func (t *ServerTable) Changed() <-chan struct{} { return t.changed }

// Artifacts are an org's server event artifacts, with all values, secret ones too,
// and the version of the table, 0 if none was ever set. They are the caller's.
func (t *ServerTable) Artifacts(org ids.Org) (all []ServerArtifact, version uint64) {
	o := t.of(org)
	if o == nil {
		return nil, 0
	}
	all = slices.Clone(o.artifacts)
	for i := range all {
		all[i].Parameters = slices.Clone(all[i].Parameters)
	}
	return all, o.index
}

// Orgs lists the orgs that have a table, sorted.
func (t *ServerTable) Orgs() []ids.Org { return t.all() }

// Place is how far a query has read, as far as this node has applied.
func (t *ServerTable) Place(org ids.Org, query string) ServerPlace {
	o := t.of(org)
	if o == nil {
		return ServerPlace{}
	}
	p := o.places[query]
	p.Places = maps.Clone(p.Places)
	return p
}

// Places are those of all queries, by result name.
func (t *ServerTable) Places(org ids.Org) map[string]ServerPlace {
	o := t.of(org)
	if o == nil {
		return nil
	}
	return maps.Clone(o.places)
}

// PlanServerEvents returns the mutation that has the master run these event
// artifacts and no others. With a version the table must still be that one, else
// the change is refused with ErrTableChanged. The error wraps ErrInvalid.
func PlanServerEvents(org ids.Org, principal string, all []Artifact, version *uint64) (*buspb.Mutation, error) {
	seen := map[string]bool{}
	for _, a := range all {
		name, _, _ := strings.Cut(a.Name, "/")
		if seen[name] || checkResultName(a.Name) != nil {
			return nil, fmt.Errorf("server event artifact %.60q is no name, or is there twice: %w", a.Name, ErrInvalid)
		}
		seen[name] = true
	}
	return serverMutation(org, principal, &buspb.ServerMonitoringBody{Change: &buspb.ServerMonitoringBody_Set{
		Set: &buspb.ServerMonitoringSet{Artifacts: artifactMessages(all), Version: version},
	}})
}

// ServerRead is a fact: what a query made of the events up to some places is stored.
type ServerRead struct {
	Org    ids.Org
	Query  string            // result name
	Added  uint64            // ServerArtifact.Added
	Round  uint64            // one more than the round before
	Places map[string]string // all that the query watches, by artifact
	Events int64             // taken in this round
}

// Fact returns the mutation for the outbox.
func (r *ServerRead) Fact() (*buspb.Mutation, error) {
	read := &buspb.ServerMonitoringRead{Query: r.Query, Round: r.Round, Events: r.Events, Since: r.Added}
	for _, artifact := range slices.Sorted(maps.Keys(r.Places)) {
		if len(r.Places[artifact]) > maxPlace {
			return nil, fmt.Errorf("place in %.60q of %d bytes: %w", artifact, len(r.Places[artifact]), ErrInvalid)
		}
		read.Places = append(read.Places, &buspb.WatchPlace{Artifact: artifact, Place: r.Places[artifact]})
	}
	return serverMutation(r.Org, "", &buspb.ServerMonitoringBody{Change: &buspb.ServerMonitoringBody_Read{Read: read}})
}

func serverMutation(org ids.Org, principal string, body *buspb.ServerMonitoringBody) (*buspb.Mutation, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("plan server events: %w: %w", ErrInvalid, err)
	}
	if len(data) > maxEventTable {
		return nil, fmt.Errorf("plan server events: %d bytes: %w", len(data), ErrInvalid)
	}
	return &buspb.Mutation{Kind: ServerMonitoringKind, Org: org.String(), Body: data, Principal: principal}, nil
}

// Reads picks out of facts that are not applied yet those that tell how far queries
// have read, the last of each by its result name: whoever takes over goes on there.
func (t *ServerTable) Reads(org ids.Org, facts []*buspb.Mutation) map[string]ServerPlace {
	out := map[string]ServerPlace{}
	o := t.of(org)
	for _, m := range facts {
		var body buspb.ServerMonitoringBody
		at, err := ids.ParseOrg(m.GetOrg())
		if m.GetKind() != ServerMonitoringKind || err != nil || at != org || o == nil || proto.Unmarshal(m.GetBody(), &body) != nil {
			continue
		}
		read := body.GetRead()
		if before := max(out[read.GetQuery()].Round, o.places[read.GetQuery()].Round); read != nil && o.takes(read, before) {
			out[read.GetQuery()] = placeOf(read)
		}
	}
	return out
}

// Kind names the table's mutations.
func (t *ServerTable) Kind() string { return ServerMonitoringKind }

var errNoServerChange = errors.New("no change of the server's event table")

// Apply takes over one entry.
func (t *ServerTable) Apply(e *buspb.Entry) error {
	var body buspb.ServerMonitoringBody
	org, err := t.body(e, &body)
	if err != nil {
		return err
	}
	next, err := t.of(org), errNoServerChange
	switch change := body.GetChange().(type) {
	case *buspb.ServerMonitoringBody_Set:
		next, err = next.set(e, change.Set)
	case *buspb.ServerMonitoringBody_Read:
		next, err = next.read(e, change.Read), nil
	}
	if err != nil {
		return t.refused(e, err)
	}
	if next == nil {
		return nil // how far a query read that no table has any more
	}
	t.put(org, next)
	if body.GetSet() != nil {
		signal([]chan struct{}{t.changed})
	}
	return nil
}

// set is a new table. What stays in it keeps its place, what stays as it was its
// principal too.
func (o *orgServer) set(e *buspb.Entry, set *buspb.ServerMonitoringSet) (*orgServer, error) {
	if o == nil {
		o = &orgServer{}
	}
	if err := standsAt(set.Version, o.index); err != nil {
		return nil, err
	}
	next := &orgServer{index: e.GetIndex(), places: map[string]ServerPlace{}}
	for _, a := range artifactsOf(set.Artifacts) {
		one := ServerArtifact{Artifact: a, Principal: e.GetMutation().GetPrincipal(), Set: e.GetIndex(), Added: e.GetIndex()}
		if old := o.named(a.Name); old != nil {
			one.Added = old.Added
			if slices.Equal(old.Parameters, a.Parameters) {
				one = *old
			}
		}
		next.artifacts = append(next.artifacts, one)
	}
	for query, place := range o.places {
		if next.owner(query) != nil {
			next.places[query] = place
		}
	}
	return next, nil
}

func (o *orgServer) named(name string) *ServerArtifact {
	at := slices.IndexFunc(o.artifacts, func(a ServerArtifact) bool { return a.Name == name })
	if at < 0 {
		return nil
	}
	return &o.artifacts[at]
}

// owner is the artifact that a query is of.
func (o *orgServer) owner(query string) *ServerArtifact {
	if a := o.named(query); a != nil {
		return a
	}
	artifact, _, _ := strings.Cut(query, "/")
	return o.named(artifact)
}

// read is the table with a query's new place, nil if it tells nothing new.
func (o *orgServer) read(e *buspb.Entry, read *buspb.ServerMonitoringRead) *orgServer {
	if o == nil || !o.takes(read, o.places[read.GetQuery()].Round) {
		return nil
	}
	next := *o
	next.places = maps.Clone(o.places)
	place := placeOf(read)
	place.Events += o.places[read.GetQuery()].Events
	place.At = time.UnixMicro(e.GetTime()).UTC()
	next.places[read.GetQuery()] = place
	return &next
}

// takes reports whether the table has the query still, and never heard of this round.
func (o *orgServer) takes(read *buspb.ServerMonitoringRead, round uint64) bool {
	owner := o.owner(read.GetQuery())
	return owner != nil && owner.Added == read.GetSince() && read.GetRound() > round
}

func placeOf(read *buspb.ServerMonitoringRead) ServerPlace {
	p := ServerPlace{Round: read.GetRound(), Events: read.GetEvents(), Places: map[string]string{}}
	for _, w := range read.GetPlaces() {
		p.Places[w.GetArtifact()] = w.GetPlace()
	}
	return p
}

type serverLine struct {
	Org       string           `json:"org"`
	Index     uint64           `json:"index"`
	Artifacts []ServerArtifact `json:"artifacts,omitempty"`
	Places    []placeLine      `json:"places,omitempty"`
}

type placeLine struct {
	Query  string            `json:"query"`
	Round  uint64            `json:"round"`
	Places map[string]string `json:"places"` // encoding/json sorts keys
	Events int64             `json:"events"`
	At     int64             `json:"at"` // unix microseconds
}

func lineOfServer(org string, o *orgServer) serverLine {
	line := serverLine{Org: org, Index: o.index, Artifacts: o.artifacts}
	for _, query := range slices.Sorted(maps.Keys(o.places)) {
		p := o.places[query]
		line.Places = append(line.Places, placeLine{query, p.Round, p.Places, p.Events, micros.Of(p.At)})
	}
	return line
}

func serverOfLine(line *serverLine) (string, *orgServer) {
	o := &orgServer{index: line.Index, artifacts: line.Artifacts, places: map[string]ServerPlace{}}
	for _, p := range line.Places {
		o.places[p.Query] = ServerPlace{Round: p.Round, Places: p.Places, Events: p.Events, At: micros.Time(p.At)}
	}
	return line.Org, o
}

// Restore replaces the state by what a View wrote.
func (t *ServerTable) Restore(r io.Reader) error {
	if _, err := t.restore(r); err != nil {
		return err
	}
	signal([]chan struct{}{t.changed})
	return nil
}
