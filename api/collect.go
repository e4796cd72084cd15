package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"raptorpack/artifacts"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/wirepb"
	"raptorpack/users"
)

// CollectRequest is a wish to run artifacts on one client.
type CollectRequest struct {
	Artifacts []CollectSpec `json:"artifacts" minItems:"1" maxItems:"100"`
	Limits    CollectLimits `json:"limits,omitempty" required:"false"`
	Urgent    bool          `json:"urgent,omitempty" doc:"beside the client's limit on running collections"`

	preferCustom bool // Custom.X counts where X is asked for: for what the server asks by itself
}

// CollectSpec is one artifact, or one of its sources as Artifact/Source.
type CollectSpec struct {
	Name       string            `json:"name" minLength:"1"`
	Parameters map[string]string `json:"parameters,omitempty"`
}

// CollectLimits bound a collection; 0 leaves what the artifacts say.
type CollectLimits struct {
	TimeoutSeconds uint64  `json:"timeout_seconds,omitempty"`
	CPUPercent     float64 `json:"cpu_percent,omitempty" minimum:"0" maximum:"100"`
	IOPS           float64 `json:"iops,omitempty" minimum:"0"`
	MaxRows        uint64  `json:"max_rows,omitempty"`
	MaxUploadBytes uint64  `json:"max_upload_bytes,omitempty"`
}

// Collected is a started collection.
type Collected struct {
	Flow  string `json:"flow_id"`
	Index uint64 `json:"index"`
}

type collectIn struct {
	Writing
	ClientPath
	Body CollectRequest
}

func (s *Server) collect(ctx context.Context, in *collectIn) (*body[Collected], error) {
	who, err := s.may(ctx)
	if err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(in.Client)
	if err != nil {
		return nil, err
	}
	started, err := s.start(ctx, who, client, in.Body, in.Writing)
	if err != nil {
		return nil, err
	}
	return &body[Collected]{*started}, nil
}

// Collect starts a collection in the name of who, for queries; both doors start
// collections by the same function.
func (s *Server) Collect(ctx context.Context, who *Principal, client ids.Client, r CollectRequest) (*Collected, error) {
	return s.start(ctx, who, client, r, Writing{})
}

func (s *Server) start(ctx context.Context, who *Principal, client ids.Client, r CollectRequest, w Writing) (*Collected, error) {
	if index, known, err := s.earlier(ctx, who, w); known {
		if err != nil {
			return nil, err
		}
		return s.startedBy(client, index)
	}
	l, err := s.launchOn(client)
	if err != nil {
		return nil, err
	}
	wish, err := s.compileFor(ctx, who, l, r)
	if err != nil {
		return nil, err
	}
	wish.Clients, wish.Creator = []ids.Client{client}, who.Name
	m, flow, err := flows.PlanStart(*wish)
	if err != nil {
		return nil, err
	}
	c := &change{m, "collect", client.String(), map[string]string{"flow": flow.String(), "artifacts": artifactNames(wish.Artifacts)}}
	index, err := s.propose(ctx, who, w, c)
	if err != nil {
		return nil, err
	}
	if f, err := s.o.Flows.Flow(flows.Key{Org: ids.RootOrg, Client: client, Flow: flow}); w.Key != "" && (err != nil || f.Index != index) {
		return s.startedBy(client, index) // the same request came at the same time, and was first
	}
	s.Audit(ctx, who, c.operation, c.object, c.details)
	return &Collected{Flow: flow.String(), Index: index}, nil
}

// launch is what collecting takes: a permission, and artifacts of one type.
type launch struct {
	permission users.Permission
	kind       artifacts.Type
	where      string // for people
}

// launchOn is what collecting from a client takes, be it the server itself.
func (s *Server) launchOn(client ids.Client) (launch, error) {
	if client == ids.Server {
		return launch{permission: launchPermission(client), kind: artifacts.Server, where: "on the server"}, nil
	}
	if _, err := s.o.Clients.Lookup(ids.RootOrg, client); err != nil {
		return launch{}, err
	}
	return launch{launchPermission(client), artifacts.Client, "from a client"}, nil
}

// launchPermission is what starting and ending collections takes.
func launchPermission(client ids.Client) users.Permission {
	if client == ids.Server {
		return users.CollectServer
	}
	return users.CollectClient
}

// compileFor makes what is to run of a wish, for somebody who may launch it. Tools
// that nobody has fetched yet are fetched for it.
func (s *Server) compileFor(ctx context.Context, who *Principal, l launch, r CollectRequest) (*flows.Start, error) {
	var missing []artifacts.Tool
	wish, definitions, err := s.compile(r, func(t artifacts.Tool) ([]artifacts.Value, error) {
		values, err := s.o.ToolVariables(t)
		if errors.Is(err, inventory.ErrMissing) || errors.Is(err, inventory.ErrFetching) {
			missing = append(missing, t)
			return nil, nil
		}
		return values, err
	})
	if err != nil {
		return nil, err
	}
	if err := s.mayLaunch(who, l, definitions); err != nil {
		return nil, err
	}
	if len(missing) == 0 {
		return wish, nil
	}
	if err := s.fetchTools(ctx, who, missing); err != nil {
		return nil, err
	}
	wish, _, err = s.compile(r, s.o.ToolVariables)
	return wish, err
}

// compile makes what is to run of a wish, which is the same for all clients.
func (s *Server) compile(r CollectRequest, tools artifacts.ToolVariables) (*flows.Start, []*artifacts.Definition, error) {
	wish := artifacts.Collect{
		ClearNames: s.o.ClearNames, AllowCustom: r.preferCustom, Metadata: s.o.Clients.ServerMetadata(ids.RootOrg), Tools: tools, Resources: artifacts.Resources{
			Timeout: r.Limits.TimeoutSeconds, CPULimit: r.Limits.CPUPercent, IOPSLimit: r.Limits.IOPS,
			MaxRows: r.Limits.MaxRows, MaxUploadBytes: r.Limits.MaxUploadBytes,
		},
	}
	var named []flows.Artifact
	for _, spec := range r.Artifacts {
		one, shown := artifacts.Spec{Name: spec.Name}, flows.Artifact{Name: spec.Name}
		for _, name := range sortedKeys(spec.Parameters) {
			one.Parameters = append(one.Parameters, artifacts.Value{Name: name, Value: spec.Parameters[name]})
			shown.Parameters = append(shown.Parameters, flows.Parameter{Name: name, Value: spec.Parameters[name]})
		}
		wish.Artifacts = append(wish.Artifacts, one)
		named = append(named, shown)
	}
	request, err := s.o.Artifacts.Repository(ids.RootOrg).Compile(wish)
	if err != nil {
		return nil, nil, err
	}
	if err := knownParameters(named, request.Definitions); err != nil {
		return nil, nil, err
	}
	hideRedacted(named, request.Definitions)
	return &flows.Start{
		Org: ids.RootOrg, Artifacts: named, Urgent: r.Urgent, Request: s.flowRequest(request), Names: request.Names,
	}, request.Definitions, nil
}

// flowRequest is what a client is sent of a compiled collection.
func (s *Server) flowRequest(r *artifacts.Request) *wirepb.FlowRequest {
	return &wirepb.FlowRequest{
		VqlClientActions: r.Queries, MaxRows: r.MaxRows, MaxUploadBytes: r.MaxUploadBytes,
		Compression: wirepb.FlowRequest_ZLIB, LogErrorRegex: s.o.ErrorPattern,
	}
}

// mayLaunch asks for a permission, and for all that the artifacts require.
func (s *Server) mayLaunch(who *Principal, l launch, definitions []*artifacts.Definition) error {
	if err := s.check(who, l.permission); err != nil {
		return err
	}
	for _, d := range definitions {
		if d.Type != l.kind {
			return fmt.Errorf("%s is of type %s, not for collecting %s: %w", d.Name, d.Type, l.where, flows.ErrInvalid)
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
	}
	return nil
}

// startedBy is the flow that a ledger entry started: what a wish that came a second
// time is answered with.
func (s *Server) startedBy(client ids.Client, index uint64) (*Collected, error) {
	for _, f := range s.o.Flows.List(ids.RootOrg, client, ids.Flow{}, 0) {
		if f.Index == index {
			return &Collected{Flow: f.Flow.String(), Index: index}, nil
		}
	}
	return nil, fmt.Errorf("the collection was started and is deleted: %w", flows.ErrNotFound)
}

// knownParameters refuses names that an artifact does not have: a slip would
// otherwise collect something else than was meant.
func knownParameters(named []flows.Artifact, definitions []*artifacts.Definition) error {
	for i, d := range definitions {
		for _, p := range named[i].Parameters {
			if _, ok := d.Parameter(p.Name); !ok {
				return fmt.Errorf("%s has no parameter %.60q: %w", d.Name, p.Name, flows.ErrInvalid)
			}
		}
	}
	return nil
}

// hideRedacted keeps values of redacted parameters out of the flow's record.
func hideRedacted(named []flows.Artifact, definitions []*artifacts.Definition) {
	for i, d := range definitions {
		for j, p := range named[i].Parameters {
			if parameter, ok := d.Parameter(p.Name); ok && strings.EqualFold(parameter.Type, "redacted") {
				named[i].Parameters[j].Value = redacted
			}
		}
	}
}

func (s *Server) collectRoutes() {
	register(s, http.MethodPost, "/clients/{client}/flows", "collect", "Collect artifacts from a client", s.collect)
	register(s, http.MethodPost, "/clients/{client}/interrogate", "interrogate", "Ask a client about its host again", s.interrogate)
}

func (s *Server) interrogate(ctx context.Context, in *struct {
	Writing
	ClientPath
},
) (*body[Collected], error) {
	who, err := s.may(ctx, users.CollectClient)
	if err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(in.Client)
	if err != nil {
		return nil, err
	}
	wish := CollectRequest{Artifacts: []CollectSpec{{Name: "Generic.Client.Info"}}, preferCustom: true}
	started, err := s.start(ctx, who, client, wish, in.Writing)
	if err != nil {
		return nil, err
	}
	flow, err := ids.ParseFlow(started.Flow)
	if err != nil {
		return nil, err
	}
	m, err := s.o.Clients.PlanInterrogated(ids.RootOrg, []ids.Client{client}, flow)
	if err != nil {
		return nil, err
	}
	_, err = s.change(ctx, who, Writing{}, func() (*change, error) {
		return &change{m, "interrogate", client.String(), map[string]string{"flow": started.Flow}}, nil
	})
	if err != nil {
		return nil, err
	}
	return &body[Collected]{*started}, nil
}
