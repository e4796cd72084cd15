package server

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/vql"
)

type huntsArgs struct {
	HuntID  string `vql:"hunt_id" doc:"This hunt alone."`
	Summary bool   `vql:"summary" doc:"Leave out the parameters of the request."`
}

var huntColumns = []string{
	"hunt_id", "create_time", "creator", "start_time", "expires", "hunt_description", "tags", "start_request", "condition",
	"client_limit", "clients_per_minute", "stats", "artifacts", "artifact_sources", "state", "detailed_state", "org_ids",
}

var huntsPlugin = vql.NewPlugin(vql.Spec{
	Name: "hunts", Permission: "READ_RESULTS", Columns: huntColumns,
	Doc: "Lists hunts, the newest first. Times are microseconds; state is PAUSED (drafts too), RUNNING, STOPPED (expired ones too) or ARCHIVED, detailed_state our own finer word. With hunt_id stats.available_downloads lists the zips of it.",
}, func(ctx context.Context, scope *vql.Scope, args *huntsArgs, emit vql.Emit) error {
	if args.HuntID != "" {
		h, one, err := huntOf(scope, args.HuntID)
		if err != nil {
			return err
		}
		return emit(h.wholeHuntRow(ctx, scope, one, args.Summary))
	}
	h, err := huntHost(scope)
	if err != nil {
		return err
	}
	for _, one := range h.Hunts.List(h.Org) {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		if err := emit(huntRow(one, args.Summary)); err != nil {
			return err
		}
	}
	return nil
})

type huntArgs struct {
	HuntID string `vql:"hunt_id,required" doc:"The hunt."`
}

var huntInfoFunction = vql.NewFunction(vql.Spec{
	Name: "hunt_info", Permission: "READ_RESULTS", Doc: "Describes a hunt as hunts() does; NULL when it is unknown.",
}, func(ctx context.Context, scope *vql.Scope, args *huntArgs) (vql.Value, error) {
	h, one, err := huntOf(scope, args.HuntID)
	if err != nil {
		return nil, err
	}
	return h.wholeHuntRow(ctx, scope, one, false), nil
})

// huntHost returns the host of a query that works on hunts.
func huntHost(scope *vql.Scope) (*Host, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if h.Hunts == nil {
		return nil, fmt.Errorf("hunts: %w", ErrUnsupported)
	}
	return h, nil
}

// huntOf returns the host of a query and the hunt that it names. What is being
// deleted is not found any more.
func huntOf(scope *vql.Scope, text string) (*Host, *hunts.Hunt, error) {
	h, err := huntHost(scope)
	if err != nil {
		return nil, nil, err
	}
	id, err := ids.ParseHunt(text)
	if err != nil {
		return nil, nil, err
	}
	one, err := h.Hunts.Hunt(hunts.Key{Org: h.Org, Hunt: id})
	if err == nil && one.State == hunts.Deleted {
		err = fmt.Errorf("hunt %s is being deleted: %w", id, hunts.ErrNotFound)
	}
	return h, one, err
}

// wholeHuntRow has the hunt's downloads too, for which it looks into its folder: too
// dear for each of many.
func (h *Host) wholeHuntRow(ctx context.Context, scope *vql.Scope, one *hunts.Hunt, summary bool) *vql.Dict {
	row := huntRow(one, summary)
	stats, _ := row.Get("stats")
	if d, ok := stats.(*vql.Dict); ok {
		d.Set("available_downloads", h.downloadsIn(ctx, scope, filestore.HuntDownloadsDir(one.Org, one.Hunt)))
	}
	return row
}

func huntRow(one *hunts.Hunt, summary bool) *vql.Dict {
	request := huntRequest(one)
	if summary {
		request.Delete("specs")
	}
	names := make([]string, len(one.Artifacts))
	for i, a := range one.Artifacts {
		names[i] = a.Name
	}
	return vql.NewDict().
		Set("hunt_id", one.Hunt.String()).
		Set("create_time", micros.Of(one.Created)).
		Set("creator", one.Creator).
		Set("start_time", micros.Of(one.Started)).
		Set("expires", micros.Of(one.Expires)).
		Set("hunt_description", one.Description).
		Set("tags", one.Tags.List()).
		Set("start_request", request).
		Set("condition", conditionDict(&one.Conditions)).
		Set("client_limit", one.Settings.Limit).
		Set("clients_per_minute", one.Rate).
		Set("stats", huntStats(one)).
		Set("artifacts", names).
		Set("artifact_sources", list(one.Results)).
		Set("state", customaryHuntState(one.State)).
		Set("detailed_state", string(one.State)).
		Set("org_ids", []string{orgID(one.Org)})
}

// huntRequest shows what a hunt asks each client for.
func huntRequest(one *hunts.Hunt) *vql.Dict {
	request := requestDict(one.Creator, ids.Client{}, one.Artifacts, one.Urgent)
	request.Delete("client_id")
	return request.Set("max_rows", one.Definition.Limits.Rows).Set("max_upload_bytes", one.Definition.Limits.UploadBytes)
}

// conditionDict has the names that hunt() takes, as far as it takes them.
func conditionDict(c *hunts.Conditions) *vql.Dict {
	return vql.NewDict().Set("include_labels", list(c.Include)).Set("exclude_labels", list(c.Exclude)).Set("os", c.OS).
		Set("only_added", c.OnlyAdded).Set("condition", c.Condition).Set("filter", c.Filter)
}

// huntStats has the counters that scripts know, then all sets and sums.
func huntStats(one *hunts.Hunt) *vql.Dict {
	stats := vql.NewDict().
		Set("total_clients_scheduled", one.Counts.Joined()+one.Again).
		Set("total_clients_with_results", one.Counts[hunts.WithResults]).
		Set("total_clients_with_errors", one.Counts[hunts.ErroredClients]).
		Set("available_downloads", []*vql.Dict{})
	for set, n := range one.Counts {
		stats.Set(hunts.Set(set).String(), n)
	}
	return stats.Set("flows", one.Sums.Flows).Set("rows", one.Sums.Rows).Set("uploads", one.Sums.Uploads).
		Set("upload_bytes", one.Sums.UploadBytes).Set("logs", one.Sums.Logs).Set("duration_seconds", one.Sums.Duration.Seconds()).
		Set("cpu_ns", numberOrNull(one.Sums.CPUNanoseconds())).Set("cpu_told", one.Sums.CPUTold)
}

// customaryHuntState is the word that scripts know: they wait while a hunt is
// RUNNING, start what is PAUSED, and take STOPPED for its end.
func customaryHuntState(s hunts.State) string {
	switch s {
	case hunts.Draft, hunts.Paused:
		return "PAUSED"
	case hunts.Running:
		return "RUNNING"
	case hunts.Archived:
		return "ARCHIVED"
	case hunts.Stopped, hunts.Expired, hunts.Deleted:
	}
	return "STOPPED"
}

type huntFlowsArgs struct {
	HuntID    string `vql:"hunt_id,required" doc:"The hunt."`
	StartRow  int64  `vql:"start_row" doc:"Flows to skip (0)."`
	Limit     int64  `vql:"limit" doc:"Flows at most (all). The word is a keyword: it goes in backticks."`
	BasicInfo bool   `vql:"basic_info" doc:"Ids only: Flow is NULL."`
}

var huntFlowsPlugin = vql.NewPlugin(vql.Spec{
	Name: "hunt_flows", Permission: "READ_RESULTS", Columns: []string{"HuntId", "ClientId", "FlowId", "Flow"},
	Doc: "Lists the flows of a hunt by client, all attempts, each Flow as flows() shows it. Clients that were deleted are left out.",
}, func(ctx context.Context, scope *vql.Scope, args *huntFlowsArgs, emit vql.Emit) error {
	h, one, err := huntOf(scope, args.HuntID)
	if err != nil {
		return err
	}
	shown := int64(0)
	for f := range h.flowsOfHunt(scope, one) {
		if shown++; shown <= args.StartRow {
			continue
		}
		if args.Limit > 0 && shown > max(0, args.StartRow)+args.Limit {
			break
		}
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		row := vql.NewDict().Set("HuntId", one.Hunt.String()).Set("ClientId", f.Client.String()).Set("FlowId", f.Flow.String())
		if args.BasicInfo {
			row.Set("Flow", vql.NULL)
		} else {
			row.Set("Flow", h.flowRow(f, false))
		}
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
})

// flowsOfHunt goes over a hunt's flows by client, so that start_row and limit cut
// pages. It says how many it left out, as far as it was followed.
func (h *Host) flowsOfHunt(scope *vql.Scope, one *hunts.Hunt) iter.Seq[*flows.Flow] {
	return func(yield func(*flows.Flow) bool) {
		hidden := 0
		for f := range h.Flows.HuntFlows(h.Org, one.Hunt) {
			if _, known := h.Clients.Ordinal(h.Org, f.Client); !known {
				hidden++
			} else if !yield(f) {
				break
			}
		}
		if hidden > 0 {
			scope.Log(vql.LevelInfo, "hunt %s: %d flows of clients that were deleted are left out", one.Hunt, hidden)
		}
	}
}

// huntUploads lists the finished uploads of a hunt, flow by flow.
func huntUploads(ctx context.Context, scope *vql.Scope, hunt string, emit vql.Emit) error {
	h, one, err := huntOf(scope, hunt)
	if err != nil {
		return err
	}
	for f := range h.flowsOfHunt(scope, one) {
		if f.Uploads.Len() == 0 {
			continue
		}
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		if err := h.uploadsOf(ctx, f.Key, emit); err != nil && !errors.Is(err, flows.ErrNotFound) { // deleted meanwhile
			return err
		}
	}
	return nil
}
