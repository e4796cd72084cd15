package server

import (
	"context"
	"fmt"
	"time"

	"raptorpack/hunts"
	"raptorpack/vql"
)

// Hunt is a wish for a hunt.
type Hunt struct {
	Collection // but for Client and Urgent

	Description   string
	Tags          []string
	Expires       time.Time // zero: in a week
	IncludeLabels []string  // clients that have one of them; none given: all
	ExcludeLabels []string  // but none of these
	OS            string    // windows, linux, darwin, freebsd; empty: any
	Start         bool      // runs at once; otherwise it is a draft
}

type huntCreateArgs struct {
	Description   string    `vql:"description" doc:"What it is for."`
	Tags          []string  `vql:"tags" doc:"Words to find the hunt by."`
	Artifacts     []string  `vql:"artifacts,required" doc:"The artifacts, or sources of them as Artifact/Source."`
	Expires       vql.Lazy  `vql:"expires" doc:"A time: when the hunt ends (in a week)."`
	Spec          vql.Value `vql:"spec" doc:"Parameters by artifact: a dict of dicts."`
	Timeout       int64     `vql:"timeout" doc:"Seconds on each client (what the artifacts say)."`
	Ops           float64   `vql:"ops_per_sec" doc:"The old name of iops_limit."`
	CPULimit      float64   `vql:"cpu_limit" doc:"Per cent of the client's processors."`
	IOPSLimit     float64   `vql:"iops_limit" doc:"Ops per second."`
	MaxRows       int64     `vql:"max_rows" doc:"Rows of each client at most."`
	MaxBytes      int64     `vql:"max_bytes" doc:"Bytes of each client's uploads at most."`
	Pause         bool      `vql:"pause" doc:"Do not start it yet."`
	IncludeLabels []string  `vql:"include_labels" doc:"Only clients with one of these labels."`
	ExcludeLabels []string  `vql:"exclude_labels" doc:"No clients with one of these labels."`
	OS            string    `vql:"os" doc:"Only clients with this system: windows, linux, darwin or freebsd."`
	OrgID         []string  `vql:"org_id" doc:"The orgs; this version reaches the query's own only."`
}

var huntFunction = vql.NewFunction(vql.Spec{
	Name: "hunt", Permission: "START_HUNT", Doc: "Makes a hunt and starts it unless pause is set. Gives its HuntId with the Request.",
}, func(ctx context.Context, scope *vql.Scope, args *huntCreateArgs) (vql.Value, error) {
	h, err := huntHost(scope)
	if err != nil {
		return nil, err
	}
	if err := h.sameOrg(args.OrgID...); err != nil {
		return nil, err
	}
	wish, err := h.huntWish(ctx, scope, args)
	if err != nil {
		return nil, err
	}
	id, err := h.CreateHunt(ctx, *wish)
	if err != nil {
		return nil, err
	}
	one, err := h.Hunts.Hunt(hunts.Key{Org: h.Org, Hunt: id})
	if err != nil {
		return nil, fmt.Errorf("hunt %s was made: %w", id, err)
	}
	// What a redacted parameter was set to is the hunt's to hide, so its record is shown.
	request := huntRequest(one).
		Set("timeout", wish.TimeoutSeconds).Set("cpu_limit", wish.CPUPercent).Set("iops_limit", wish.IOPS)
	return vql.NewDict().Set("HuntId", id.String()).Set("Request", request), nil
})

// huntWish reads the arguments of hunt().
func (h *Host) huntWish(ctx context.Context, scope *vql.Scope, args *huntCreateArgs) (*Hunt, error) {
	c, err := newCollection(args.Artifacts, &limitArgs{
		Timeout: args.Timeout, Ops: args.Ops, CPU: args.CPULimit, IOPS: args.IOPSLimit, Rows: args.MaxRows, Bytes: args.MaxBytes,
	})
	if err != nil {
		return nil, err
	}
	wish := &Hunt{
		Collection: *c, Description: args.Description, Tags: args.Tags, OS: args.OS, Start: !args.Pause,
		IncludeLabels: args.IncludeLabels, ExcludeLabels: args.ExcludeLabels,
	}
	if _, err := hunts.ParseTags(args.Tags); err != nil {
		return nil, err
	}
	if wish.Expires, err = expiry(ctx, scope, args.Expires); err != nil {
		return nil, err
	}
	spec := scope.Real(ctx, args.Spec)
	if vql.IsNull(spec) {
		return wish, nil
	}
	parameters, ok := spec.(*vql.Dict)
	if !ok {
		return nil, fmt.Errorf("spec: expected a dict of dicts, not %s: %w", vql.TypeName(spec), ErrArgument)
	}
	w := &parameterWriter{ctx: ctx, scope: scope, repository: h.Artifacts.Repository(h.Org)}
	return wish, w.specs(&wish.Collection, parameters)
}

// expiry reads when a hunt is to end; the zero time when nothing is said.
func expiry(ctx context.Context, scope *vql.Scope, given vql.Lazy) (time.Time, error) {
	if !given.Given() {
		return time.Time{}, nil
	}
	v := scope.Real(ctx, given.Value(ctx, scope))
	if vql.IsNull(v) {
		return time.Time{}, nil
	}
	at, ok := scope.Time(v)
	if !ok || at.IsZero() {
		return time.Time{}, fmt.Errorf("expires: expected a time, not %s: %w", vql.TypeName(v), ErrArgument)
	}
	return at, nil
}
