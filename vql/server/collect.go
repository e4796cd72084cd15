package server

import (
	"context"
	"fmt"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/users"
	"raptorpack/vql"
)

type collectArgs struct {
	ClientID  string    `vql:"client_id,required" doc:"The client."`
	FlowID    string    `vql:"flow_id" doc:"An id for the flow; this version always makes one."`
	Artifacts []string  `vql:"artifacts,required" doc:"The artifacts, or sources of them as Artifact/Source."`
	Env       *vql.Dict `vql:"env" doc:"Parameters for every artifact that has them."`
	Spec      *vql.Dict `vql:"spec" doc:"Parameters by artifact: a dict of dicts."`
	Timeout   int64     `vql:"timeout" doc:"Seconds (what the artifacts say)."`
	Ops       float64   `vql:"ops_per_sec" doc:"The old name of iops_limit."`
	CPULimit  float64   `vql:"cpu_limit" doc:"Per cent of the client's processors."`
	IOPSLimit float64   `vql:"iops_limit" doc:"Ops per second."`
	MaxRows   int64     `vql:"max_rows" doc:"Rows at most."`
	MaxBytes  int64     `vql:"max_bytes" doc:"Bytes of uploads at most."`
	Urgent    bool      `vql:"urgent" doc:"Run beside the client's limit on running collections."`
	OrgID     string    `vql:"org_id" doc:"The org; this version reaches the query's own only."`
}

var collectClientFunction = vql.NewFunction(vql.Spec{
	Name: "collect_client",
	Doc:  "Starts a collection on a client, or on the server itself (client_id='server'), and gives its flow_id with the request. Needs COLLECT_CLIENT, or COLLECT_SERVER.",
}, func(ctx context.Context, scope *vql.Scope, args *collectArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if err := mayCollect(scope, args.ClientID); err != nil {
		return nil, err
	}
	if err := h.sameOrg(args.OrgID); err != nil {
		return nil, err
	}
	if args.FlowID != "" {
		return nil, fmt.Errorf("choose a flow id: %w", ErrUnsupported)
	}
	c, err := h.collection(ctx, scope, args)
	if err != nil {
		return nil, err
	}
	flow, err := h.Collect(ctx, *c)
	if err != nil {
		return nil, err
	}
	// What a redacted parameter was set to is the flow's to hide.
	named := c.Artifacts
	if f, err := h.Flows.Flow(flows.Key{Org: h.Org, Client: c.Client, Flow: flow}); err == nil {
		named = f.Spec.Artifacts
	}
	request := requestDict(h.Principal, c.Client, named, c.Urgent).
		Set("timeout", c.TimeoutSeconds).Set("cpu_limit", c.CPUPercent).Set("iops_limit", c.IOPS).
		Set("max_rows", c.MaxRows).Set("max_upload_bytes", c.MaxUploadBytes)
	return vql.NewDict().Set("flow_id", flow.String()).Set("request", request), nil
})

// mayCollect asks for the permission to start or end collections on a client.
func mayCollect(scope *vql.Scope, client string) error {
	if client == ids.Server.String() {
		return need(scope, users.CollectServer)
	}
	return need(scope, users.CollectClient)
}

func (h *Host) collection(ctx context.Context, scope *vql.Scope, args *collectArgs) (*Collection, error) {
	client, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return nil, err
	}
	c, err := newCollection(args.Artifacts, &limitArgs{
		Timeout: args.Timeout, Ops: args.Ops, CPU: args.CPULimit, IOPS: args.IOPSLimit, Rows: args.MaxRows, Bytes: args.MaxBytes,
	})
	if err != nil {
		return nil, err
	}
	c.Client, c.Urgent = client, args.Urgent
	w := &parameterWriter{ctx: ctx, scope: scope, repository: h.Artifacts.Repository(h.Org)}
	if err := w.env(c, args.Env); err != nil {
		return nil, err
	}
	return c, w.specs(c, args.Spec)
}

// limitArgs are the limits that collections and hunts take alike.
type limitArgs struct {
	Timeout, Rows, Bytes int64
	Ops, CPU, IOPS       float64
}

// newCollection makes a collection without parameters for no client yet.
func newCollection(named []string, l *limitArgs) (*Collection, error) {
	if len(named) == 0 {
		return nil, fmt.Errorf("artifacts: expected at least one: %w", ErrArgument)
	}
	if l.Timeout < 0 || l.CPU < 0 || l.CPU > 100 || l.IOPS < 0 || l.Ops < 0 || l.Rows < 0 || l.Bytes < 0 {
		return nil, fmt.Errorf("limits: expected 0 or more, cpu_limit at most 100: %w", ErrArgument)
	}
	c := &Collection{
		TimeoutSeconds: uint64(l.Timeout), CPUPercent: l.CPU, IOPS: l.IOPS, MaxRows: uint64(l.Rows), MaxUploadBytes: uint64(l.Bytes),
	}
	if c.IOPS == 0 {
		c.IOPS = l.Ops
	}
	for _, name := range named {
		c.Artifacts = append(c.Artifacts, flows.Artifact{Name: name})
	}
	return c, nil
}

// requestDict shows what a flow was asked for.
func requestDict(creator string, client ids.Client, named []flows.Artifact, urgent bool) *vql.Dict {
	return requestObject(creator, client, named, urgent).dict()
}

func requestObject(creator string, client ids.Client, named []flows.Artifact, urgent bool) object {
	names, specs := []string{}, []*vql.Dict{}
	for _, a := range named {
		env := []*vql.Dict{}
		for _, p := range a.Parameters {
			env = append(env, vql.NewDict().Set("key", p.Name).Set("value", p.Value))
		}
		names = append(names, a.Name)
		specs = append(specs, vql.NewDict().Set("artifact", a.Name).Set("parameters", vql.NewDict().Set("env", env)))
	}
	return object{{"creator", creator}, {"client_id", client.String()}, {"artifacts", names}, {"specs", specs}, {"urgent", urgent}}
}

type flowArgs struct {
	ClientID string `vql:"client_id,required" doc:"The client."`
	FlowID   string `vql:"flow_id,required" doc:"The flow."`
}

var cancelFlowFunction = vql.NewFunction(vql.Spec{
	Name: "cancel_flow", Doc: "Ends a flow that waits or runs. Needs COLLECT_CLIENT, or COLLECT_SERVER for one on the server itself.",
}, func(ctx context.Context, scope *vql.Scope, args *flowArgs) (vql.Value, error) {
	if err := mayCollect(scope, args.ClientID); err != nil {
		return nil, err
	}
	h, key, err := flowOf(scope, args.ClientID, args.FlowID)
	if err != nil {
		return nil, err
	}
	if err := h.cancel(ctx, key); err != nil {
		return nil, err
	}
	return vql.NewDict().Set("flow_id", key.Flow.String()), nil
})

func (h *Host) cancel(ctx context.Context, key flows.Key) error {
	m, err := h.Flows.PlanCancel(key, h.Principal)
	if err != nil {
		return err
	}
	return h.change(ctx, m, "flow.cancel", key.Client.String(), map[string]string{"flow": key.Flow.String()})
}
