package flows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// ErrTableChanged means that an event table was made from one that does not stand
// any more. Reading it and trying again helps.
var ErrTableChanged = errors.New("the event table was changed meanwhile")

// EventGroup is what clients with one label watch; no label means all clients.
type EventGroup struct {
	Label     string
	Artifacts []Artifact   // what was asked for
	Queries   []EventQuery // what that compiles to; nil where a table is read
}

// EventQuery is one compiled event query and the names its results have.
type EventQuery struct {
	Args  *wirepb.VQLCollectorArgs
	Names map[string]string // token a client is told -> result name
}

// PlanEvents checks event tables and returns the mutation that gives them to an
// org's clients, whatever they had before. No group at all switches event queries
// off. The error wraps ErrInvalid.
func PlanEvents(org ids.Org, principal string, groups []EventGroup) (*buspb.Mutation, error) {
	return planEvents(org, principal, groups, nil)
}

// PlanEventsFrom is PlanEvents for tables that were made from those of a version.
// If others stand there by then, the change is refused with ErrTableChanged.
func PlanEventsFrom(org ids.Org, principal string, groups []EventGroup, version uint64) (*buspb.Mutation, error) {
	return planEvents(org, principal, groups, &version)
}

func planEvents(org ids.Org, principal string, groups []EventGroup, version *uint64) (*buspb.Mutation, error) {
	body := &buspb.MonitoringBody{Version: version}
	for _, g := range groups {
		group := &buspb.MonitoringGroup{Label: strings.ToLower(g.Label), Artifacts: artifactMessages(g.Artifacts)}
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

// standsAt refuses a table that was made from another version than stands.
func standsAt(wanted *uint64, stands uint64) error {
	if wanted != nil && *wanted != stands {
		return fmt.Errorf("it was made from version %d, and version %d stands: %w", *wanted, stands, ErrTableChanged)
	}
	return nil
}

func artifactMessages(all []Artifact) []*buspb.FlowArtifact {
	var out []*buspb.FlowArtifact
	for _, a := range all {
		one := &buspb.FlowArtifact{Name: a.Name}
		for _, p := range a.Parameters {
			one.Parameters = append(one.Parameters, &buspb.FlowParameter{Name: p.Name, Value: p.Value})
		}
		out = append(out, one)
	}
	return out
}

func artifactsOf(all []*buspb.FlowArtifact) []Artifact {
	var out []Artifact
	for _, a := range all {
		one := Artifact{Name: a.GetName()}
		for _, p := range a.GetParameters() {
			one.Parameters = append(one.Parameters, Parameter{p.GetName(), p.GetValue()})
		}
		out = append(out, one)
	}
	return out
}

func cloneArtifacts(all []Artifact) []Artifact {
	out := slices.Clone(all)
	for i := range out {
		out[i].Parameters = slices.Clone(out[i].Parameters)
	}
	return out
}
