package server

import (
	"context"
	"fmt"
	"time"

	"raptorpack/ids"
	"raptorpack/vql"
)

type deleteEventsArgs struct {
	Artifact   string    `vql:"artifact,required" doc:"The event artifact, or Artifact/Source."`
	ClientID   string    `vql:"client_id,required" doc:"The client, or server."`
	StartTime  vql.Value `vql:"start_time" doc:"Days that begin at this time or later (all)."`
	EndTime    vql.Value `vql:"end_time" doc:"Days that end at this time or before (all that have ended)."`
	ReallyDoIt bool      `vql:"really_do_it" doc:"Delete; otherwise only list what would go."`
}

var deleteEventsPlugin = vql.NewPlugin(vql.Spec{
	Name: "delete_events", Permission: "DELETE_RESULTS", Columns: []string{"type", "data", "error"},
	Doc: "Deletes a client's rows of an event artifact and of its log: those of whole days, UTC, that have ended more than an hour ago. Lists the files of these days. A file that holds other clients' rows, too, stays, and its deleted rows are not shown any more. Without really_do_it it only lists them.",
}, func(ctx context.Context, scope *vql.Scope, args *deleteEventsArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	client, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return err
	}
	from, err := timeArgument(scope, "start_time", args.StartTime)
	if err != nil {
		return err
	}
	to, err := timeArgument(scope, "end_time", args.EndTime)
	if err != nil {
		return err
	}
	m, deletion, err := h.Flows.Erased.PlanDelete(h.Org, args.Artifact, client, from, to, time.Now())
	if err != nil {
		return err
	}
	files, err := h.Flows.EventFiles(ctx, *deletion)
	if err != nil {
		return err
	}
	failure := ""
	if args.ReallyDoIt && len(files) > 0 {
		details := map[string]string{"client": client.String(), "from": deletion.From, "to": deletion.To}
		if err := h.change(ctx, m, "events.delete", args.Artifact, details); err != nil {
			scope.Log(vql.LevelError, "delete_events: %v", err)
			failure = fmt.Sprint(err)
		}
	}
	for _, file := range files {
		if err := emit((flowFile{"EventFile", file}).row().Set("error", failure)); err != nil {
			return err
		}
	}
	return nil
})
