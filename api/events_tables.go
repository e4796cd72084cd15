package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"raptorpack/artifacts"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/users"
)

// redacted stands in answers for the value of a redacted parameter. Sent back it
// means the value that stands there.
const redacted = "<redacted>"

// EventTable is what clients with one label watch.
type EventTable struct {
	Label     string        `json:"label,omitempty" doc:"left out: all clients"`
	Artifacts []CollectSpec `json:"artifacts" nullable:"false" maxItems:"200"`
}

// ClientMonitoring are the event tables of all clients.
type ClientMonitoring struct {
	Tables  []EventTable `json:"tables" nullable:"false"`
	Version uint64       `json:"version" doc:"the ledger entry that set the tables; 0: none did"`
	AsOf    AsOf         `json:"asOf"`
}

// ServerMonitoring are the event artifacts that run on the master.
type ServerMonitoring struct {
	Artifacts []ServerEventArtifact `json:"artifacts" nullable:"false"`
	Queries   []ServerEventQuery    `json:"queries" nullable:"false"`
	Version   uint64                `json:"version" doc:"the ledger entry that set the table; 0: none did"`
	AsOf      AsOf                  `json:"asOf"`
}

// ServerEventArtifact is one of them.
type ServerEventArtifact struct {
	CollectSpec
	Principal string `json:"principal" doc:"who set it so; it runs with what they may do"`
}

// ServerEventQuery is how far a query has worked off the events that it watches.
type ServerEventQuery struct {
	Name   string    `json:"name" doc:"Artifact or Artifact/Source"`
	Events int64     `json:"events" doc:"rows taken since it is in the table"`
	At     time.Time `json:"at" doc:"when the last of them were worked off and what came of them was stored"`
}

func (s *Server) monitoringRoutes() {
	get(s, "/monitoring/client", "showClientMonitoring", "Show the event tables of clients", s.showClientMonitoring)
	register(s, http.MethodPut, "/monitoring/client", "setClientMonitoring", "Replace the event tables of clients", s.setClientMonitoring)
	get(s, "/monitoring/server", "showServerMonitoring", "Show the event artifacts that run on the master", s.showServerMonitoring)
	register(s, http.MethodPut, "/monitoring/server", "setServerMonitoring", "Replace the event artifacts that run on the master", s.setServerMonitoring)
}

func (s *Server) showClientMonitoring(ctx context.Context, _ *struct{}) (*body[ClientMonitoring], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	tables, version := s.ClientEvents()
	return &body[ClientMonitoring]{ClientMonitoring{Tables: tables, Version: version, AsOf: s.asOf()}}, nil
}

// ClientEvents are the event tables of clients as they may be shown, and their
// version.
func (s *Server) ClientEvents() ([]EventTable, uint64) {
	groups, version := s.o.Flows.Events.Groups(ids.RootOrg)
	tables := []EventTable{}
	for _, g := range groups {
		tables = append(tables, EventTable{g.Label, s.shownSpecs(g.Artifacts)})
	}
	return tables, version
}

// shownSpecs hides what is redacted.
func (s *Server) shownSpecs(all []flows.Artifact) []CollectSpec {
	repository := s.o.Artifacts.Repository(ids.RootOrg)
	for i := range all {
		if d, err := repository.Lookup(artifactOf(all[i].Name)); err == nil {
			hideRedacted(all[i:i+1], []*artifacts.Definition{d})
			continue
		}
		for j := range all[i].Parameters { // nobody can tell any more which were secret
			all[i].Parameters[j].Value = redacted
		}
	}
	return showSpecs(all)
}

func artifactOf(name string) string {
	artifact, _, _ := strings.Cut(name, "/")
	return artifact
}

func (s *Server) setClientMonitoring(ctx context.Context, in *struct {
	Writing
	Body struct {
		Tables  []EventTable `json:"tables" nullable:"false" maxItems:"1000" doc:"none: clients watch nothing"`
		Version *uint64      `json:"version,omitempty" doc:"refuse the change unless this version stands"`
	}
},
) (*body[Done], error) {
	who, err := s.may(ctx, users.CollectClient)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) { return s.planClientEvents(who, in.Body.Tables, in.Body.Version) })
}

// planClientEvents checks and compiles tables. What is new in them, or changed, has
// to be allowed to who.
func (s *Server) planClientEvents(who *Principal, tables []EventTable, version *uint64) (*change, error) {
	before, _ := s.o.Flows.Events.Groups(ids.RootOrg)
	var groups []flows.EventGroup
	var names []string
	for _, table := range tables {
		label := strings.ToLower(strings.TrimSpace(table.Label))
		if slices.ContainsFunc(groups, func(g flows.EventGroup) bool { return g.Label == label }) {
			return nil, fmt.Errorf("label %.60q has two tables: %w", label, flows.ErrInvalid)
		}
		if len(table.Artifacts) == 0 {
			continue
		}
		old := slices.IndexFunc(before, func(g flows.EventGroup) bool { return g.Label == label })
		var known []flows.Artifact
		if old >= 0 {
			known = before[old].Artifacts
		}
		group, err := s.compileEvents(who, label, table.Artifacts, known)
		if err != nil {
			return nil, fmt.Errorf("event table of label %.60q: %w", label, err)
		}
		groups = append(groups, *group)
		names = append(names, strings.TrimPrefix(label+":"+artifactNames(group.Artifacts), ":"))
	}
	plan := flows.PlanEvents
	if version != nil {
		plan = func(org ids.Org, principal string, groups []flows.EventGroup) (*buspb.Mutation, error) {
			return flows.PlanEventsFrom(org, principal, groups, *version)
		}
	}
	m, err := plan(ids.RootOrg, who.Name, groups)
	return &change{m, "monitoring.client", "", map[string]string{"tables": strings.Join(names, " ")}}, err
}

func (s *Server) compileEvents(who *Principal, label string, specs []CollectSpec, known []flows.Artifact) (*flows.EventGroup, error) {
	named, request, err := s.compileTable(who, artifacts.ClientEvent, users.CollectClient, specs, known)
	if err != nil {
		return nil, err
	}
	group := &flows.EventGroup{Label: label, Artifacts: named}
	for _, query := range request.Queries {
		if query.MaxWait == 0 && s.o.EventWait != nil {
			query.MaxWait = s.o.EventWait()
		}
		names := map[string]string{}
		for _, statement := range query.GetQuery() {
			if name, ok := request.Names[statement.GetName()]; ok {
				names[statement.GetName()] = name
			}
		}
		group.Queries = append(group.Queries, flows.EventQuery{Args: query, Names: names})
	}
	return group, nil
}

// compileTable checks artifacts of an event table against what stands there.
func (s *Server) compileTable(who *Principal, kind artifacts.Type, base users.Permission, specs []CollectSpec, known []flows.Artifact) ([]flows.Artifact, *artifacts.Request, error) {
	named, wish, err := s.wishFor(specs, known)
	if err != nil {
		return nil, nil, err
	}
	wish.Tools = s.o.ToolVariables // what nobody has fetched or uploaded yet is refused
	request, err := s.o.Artifacts.Repository(ids.RootOrg).Compile(wish)
	if err != nil {
		return nil, nil, err
	}
	if err := knownParameters(named, request.Definitions); err != nil {
		return nil, nil, err
	}
	for i, d := range request.Definitions {
		if d.Type != kind {
			return nil, nil, fmt.Errorf("%s is of type %s, not %s: %w", d.Name, d.Type, kind, flows.ErrInvalid)
		}
		if slices.ContainsFunc(known, func(a flows.Artifact) bool {
			return a.Name == named[i].Name && slices.Equal(a.Parameters, named[i].Parameters)
		}) {
			continue
		}
		if err := s.mayRun(who, d, base); err != nil {
			return nil, nil, err
		}
	}
	return named, request, nil
}

// wishFor is what specs ask for, with the values that redacted ones stand for.
func (s *Server) wishFor(specs []CollectSpec, known []flows.Artifact) ([]flows.Artifact, artifacts.Collect, error) {
	named := make([]flows.Artifact, len(specs))
	wish := artifacts.Collect{ClearNames: s.o.ClearNames, Metadata: s.o.Clients.ServerMetadata(ids.RootOrg)}
	for i, spec := range specs {
		old := slices.IndexFunc(known, func(a flows.Artifact) bool { return a.Name == spec.Name })
		named[i].Name = spec.Name
		one := artifacts.Spec{Name: spec.Name}
		for _, name := range sortedKeys(spec.Parameters) {
			value, ok := spec.Parameters[name], true
			if value == redacted {
				if ok = old >= 0; ok {
					value, ok = valueOf(known[old], name)
				}
			}
			if !ok {
				return nil, wish, fmt.Errorf("%s: parameter %.60q: %s stands for a value that is not there: %w", spec.Name, name, redacted, flows.ErrInvalid)
			}
			named[i].Parameters = append(named[i].Parameters, flows.Parameter{Name: name, Value: value})
			one.Parameters = append(one.Parameters, artifacts.Value{Name: name, Value: value})
		}
		wish.Artifacts = append(wish.Artifacts, one)
	}
	return named, wish, nil
}

// mayRun asks for a permission and for all that an artifact requires.
func (s *Server) mayRun(who *Principal, d *artifacts.Definition, base users.Permission) error {
	if err := s.check(who, base); err != nil {
		return err
	}
	for _, name := range d.RequiredPermissions {
		permission, err := users.ParsePermission(name)
		if err != nil {
			return err
		}
		if err := s.check(who, permission); err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	return nil
}

func valueOf(a flows.Artifact, parameter string) (string, bool) {
	for _, p := range a.Parameters {
		if p.Name == parameter {
			return p.Value, true
		}
	}
	return "", false
}

func (s *Server) showServerMonitoring(ctx context.Context, _ *struct{}) (*body[ServerMonitoring], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	specs, version := s.ServerEvents()
	out := ServerMonitoring{Artifacts: specs, Queries: []ServerEventQuery{}, Version: version, AsOf: s.asOf()}
	for name, p := range s.o.Flows.Server.Places(ids.RootOrg) {
		out.Queries = append(out.Queries, ServerEventQuery{name, p.Events, p.At})
	}
	slices.SortFunc(out.Queries, func(a, b ServerEventQuery) int { return strings.Compare(a.Name, b.Name) })
	return &body[ServerMonitoring]{out}, nil
}

// ServerEvents are the event artifacts of the master as they may be shown, and
// their version.
func (s *Server) ServerEvents() ([]ServerEventArtifact, uint64) {
	all, version := s.o.Flows.Server.Artifacts(ids.RootOrg)
	out := []ServerEventArtifact{}
	for _, a := range all {
		out = append(out, ServerEventArtifact{s.shownSpecs([]flows.Artifact{a.Artifact})[0], a.Principal})
	}
	return out, version
}

func (s *Server) setServerMonitoring(ctx context.Context, in *struct {
	Writing
	Body struct {
		Artifacts []CollectSpec `json:"artifacts" nullable:"false" maxItems:"200" doc:"none: nothing runs"`
		Version   *uint64       `json:"version,omitempty" doc:"refuse the change unless this version stands"`
	}
},
) (*body[Done], error) {
	who, err := s.may(ctx, users.CollectServer)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) { return s.planServerEvents(who, in.Body.Artifacts, in.Body.Version) })
}

func (s *Server) planServerEvents(who *Principal, specs []CollectSpec, version *uint64) (*change, error) {
	var known []flows.Artifact
	all, _ := s.o.Flows.Server.Artifacts(ids.RootOrg)
	for _, a := range all {
		known = append(known, a.Artifact)
	}
	var named []flows.Artifact
	if len(specs) > 0 {
		var err error
		if named, _, err = s.compileTable(who, artifacts.ServerEvent, users.CollectServer, specs, known); err != nil {
			return nil, fmt.Errorf("event table of the server: %w", err)
		}
	}
	m, err := flows.PlanServerEvents(ids.RootOrg, who.Name, named, version)
	return &change{m, "monitoring.server", "", map[string]string{"artifacts": artifactNames(named)}}, err
}

// maxChangeTries is how often a change is made anew because somebody else's came
// between reading a table and writing it.
const maxChangeTries = 10

// ChangeClientEvents reads the event tables of clients, lets edit change them, and
// sets them, in the name of who; for queries. It reads again when somebody else's
// change came between.
func (s *Server) ChangeClientEvents(ctx context.Context, who *Principal, edit func([]EventTable) ([]EventTable, error)) error {
	if err := s.check(who, users.CollectClient); err != nil {
		return err
	}
	return s.changeTable(ctx, who, func() (*change, error) {
		tables, version := s.ClientEvents()
		tables, err := edit(tables)
		if err != nil {
			return nil, err
		}
		return s.planClientEvents(who, tables, &version)
	})
}

// ChangeServerEvents is ChangeClientEvents for the event artifacts of the master.
func (s *Server) ChangeServerEvents(ctx context.Context, who *Principal, edit func([]CollectSpec) ([]CollectSpec, error)) error {
	if err := s.check(who, users.CollectServer); err != nil {
		return err
	}
	return s.changeTable(ctx, who, func() (*change, error) {
		shown, version := s.ServerEvents()
		var specs []CollectSpec
		for _, a := range shown {
			specs = append(specs, a.CollectSpec)
		}
		specs, err := edit(specs)
		if err != nil {
			return nil, err
		}
		return s.planServerEvents(who, specs, &version)
	})
}

func (s *Server) changeTable(ctx context.Context, who *Principal, plan func() (*change, error)) error {
	for tries := 1; ; tries++ {
		_, err := s.change(ctx, who, Writing{}, plan)
		if !errors.Is(err, flows.ErrTableChanged) || tries == maxChangeTries {
			return err
		}
	}
}
