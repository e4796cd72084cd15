package server

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/users"
	"raptorpack/vql"
)

// flowsPage is how many records one look into the room takes.
const flowsPage = 200

type flowsArgs struct {
	ClientID string `vql:"client_id,required" doc:"The client."`
	FlowID   string `vql:"flow_id" doc:"This flow alone."`
	Summary  bool   `vql:"summary" doc:"Leave out the parameters and the counts of each result."`
}

var flowsPlugin = vql.NewPlugin(vql.Spec{
	Name: "flows", Permission: "READ_RESULTS",
	Doc:     "Lists the flows of a client, the newest first. Times are microseconds; state is RUNNING, FINISHED or ERROR, detailed_state our own finer word.",
	Columns: flowColumns,
}, func(ctx context.Context, scope *vql.Scope, args *flowsArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	if args.FlowID != "" {
		key, err := h.key(args.ClientID, args.FlowID)
		if err != nil {
			return err
		}
		f, err := h.Flows.Flow(key)
		if err != nil {
			return err
		}
		return emit(h.flowRow(f, args.Summary))
	}
	client, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return err
	}
	if _, err := h.Clients.Lookup(h.Org, client); err != nil && client != ids.Server {
		scope.Log(vql.LevelDefault, "flows: %v", err) // flows of one that was deleted may be there still
	}
	return h.eachFlow(ctx, scope, client, func(f *flows.Flow) error { return emit(h.flowRow(f, args.Summary)) })
})

// eachFlow goes through a client's flows from the newest, page by page.
func (h *Host) eachFlow(ctx context.Context, scope *vql.Scope, client ids.Client, visit func(*flows.Flow) error) error {
	for before := (ids.Flow{}); ; {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		page := h.Flows.List(h.Org, client, before, flowsPage)
		for _, f := range page {
			if err := visit(f); err != nil {
				return err
			}
		}
		if len(page) < flowsPage {
			return nil
		}
		before = page[len(page)-1].Flow
	}
}

type getFlowArgs struct {
	ClientID string `vql:"client_id,required" doc:"The client."`
	FlowID   string `vql:"flow_id,required" doc:"The flow."`
	Summary  bool   `vql:"summary" doc:"Leave out the parameters and the counts of each result."`
}

var getFlowFunction = vql.NewFunction(vql.Spec{
	Name: "get_flow", Doc: "Describes a flow as flows() does; AvailableDownloads lists the zips of it: name, path, size and date. Needs READ_RESULTS or COLLECT_CLIENT.",
}, func(ctx context.Context, scope *vql.Scope, args *getFlowArgs) (vql.Value, error) {
	if need(scope, users.ReadResults) != nil {
		if err := need(scope, users.CollectClient); err != nil {
			return nil, err
		}
	}
	h, key, err := flowOf(scope, args.ClientID, args.FlowID)
	if err != nil {
		return nil, err
	}
	f, err := h.Flows.Flow(key)
	if err != nil {
		return nil, err
	}
	zips := h.downloadsIn(ctx, scope, filestore.FlowDownloadsDir(key.Org, key.Client, key.Flow))
	return h.flowRow(f, args.Summary).Set("AvailableDownloads", zips), nil
})

var flowColumns = []string{
	"client_id", "session_id", "request", "create_time", "start_time", "active_time", "state", "detailed_state", "status",
	"total_uploaded_files", "total_uploaded_bytes", "total_expected_uploaded_bytes", "total_collected_rows", "total_logs",
	"artifacts_with_results", "query_stats", "execution_duration", "cpu_ns",
}

// member is a member of an object that is shown.
type member struct {
	name  string
	value vql.Value
}

// object is shown as a dict, or written as one without being made into it. Its names
// need no escapes.
type object []member

func (o object) dict() *vql.Dict {
	d := vql.NewDict()
	for _, m := range o {
		if inner, is := m.value.(object); is {
			m.value = inner.dict()
		}
		d.Set(m.name, m.value)
	}
	return d
}

func (o object) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	for i, m := range o {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), m.name...), `":`...)
		if inner, is := m.value.(object); is {
			dst = inner.appendJSON(dst)
		} else {
			dst = vql.AppendJSON(dst, m.value)
		}
	}
	return append(dst, '}')
}

// FlowRows writes flows of a room as flows() shows them. It keeps what those that were
// started together have in common. Safe for concurrent use.
type FlowRows struct {
	host Host

	mu      sync.Mutex
	spec    *flows.Spec // request is of it
	request object
	row     object // the last one, for its memory
}

// NewFlowRows makes a FlowRows.
func NewFlowRows(room *flows.Room) *FlowRows { return &FlowRows{host: Host{Flows: room}} }

// AppendJSON adds a flow's row to dst.
func (r *FlowRows) AppendJSON(dst []byte, f *flows.Flow) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spec != f.Spec {
		r.spec, r.request = f.Spec, requestOf(f)
	}
	for i := range r.request {
		if r.request[i].name == "client_id" {
			r.request[i].value = f.Client.String()
		}
	}
	r.row = r.host.appendFlow(r.row[:0], f, r.request, false)
	return r.row.appendJSON(dst)
}

func requestOf(f *flows.Flow) object {
	return requestObject(f.Spec.Creator, f.Client, f.Spec.Artifacts, f.Spec.Urgent)
}

func (h *Host) flowRow(f *flows.Flow, summary bool) *vql.Dict {
	request := requestOf(f)
	if summary {
		request = slices.DeleteFunc(request, func(m member) bool { return m.name == "specs" })
	}
	return h.appendFlow(nil, f, request, summary).dict()
}

func (h *Host) appendFlow(row object, f *flows.Flow, request object, summary bool) object {
	totals, active := f.Totals, latest(f.Created, f.Taken, f.Ended)
	logs := totals.Logs
	if p, ok := h.Flows.Progress(f.Key); ok && !f.State.Final() {
		active, logs = latest(active, p.At), p.Totals.Logs
		totals.ExpectedUploadBytes = max(totals.ExpectedUploadBytes, p.Totals.ExpectedUploadBytes)
	}
	counts := map[string]int64{}
	for _, c := range f.Names {
		counts[c.Name] = c.Rows.Len()
	}
	with, stats := []string{}, []*vql.Dict{}
	for _, name := range f.Spec.Results() {
		if counts[name] > 0 {
			with = append(with, name)
		}
		stats = append(stats, vql.NewDict().Set("names_with_response", []string{name}).Set("result_rows", counts[name]))
	}
	row = append(
		row,
		member{"client_id", f.Client.String()},
		member{"session_id", f.Flow.String()},
		member{"request", request},
		member{"create_time", micros.Of(f.Created)},
		member{"start_time", micros.Of(f.Taken)},
		member{"active_time", micros.Of(active)},
		member{"state", customaryState(f.State)},
		member{"detailed_state", string(f.State)},
		member{"status", f.Error},
		member{"total_uploaded_files", f.Uploads.Len()},
		member{"total_uploaded_bytes", f.UploadBytes()},
		member{"total_expected_uploaded_bytes", totals.ExpectedUploadBytes},
		member{"total_collected_rows", f.Rows()},
		member{"total_logs", logs},
		member{"artifacts_with_results", with},
	)
	if !summary {
		row = append(row, member{"query_stats", stats})
	}
	return append(
		row,
		member{"execution_duration", f.Duration.Nanoseconds()},
		member{"cpu_ns", numberOrNull(f.CPU.Nanoseconds())},
	)
}

// numberOrNull is NULL where nothing was told: 0 would be another answer.
func numberOrNull(n *int64) any {
	if n == nil {
		return vql.NULL
	}
	return *n
}

// customaryState is the word that scripts know: they wait until a flow is no
// longer RUNNING, and trust rows of one that is FINISHED.
func customaryState(s flows.State) string {
	switch s {
	case flows.Completed:
		return "FINISHED"
	case flows.Incomplete, flows.Errored, flows.Cancelled:
		return "ERROR"
	case flows.Pending, flows.Running, flows.Waiting:
	}
	return "RUNNING"
}

func latest(times ...time.Time) (out time.Time) {
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}

type deleteFlowArgs struct {
	FlowID     string `vql:"flow_id,required" doc:"The flow."`
	ClientID   string `vql:"client_id,required" doc:"The client."`
	ReallyDoIt bool   `vql:"really_do_it" doc:"Delete; otherwise only list what would go."`
	Sync       bool   `vql:"sync" doc:"Kept for scripts: the record is gone when the last row comes in any case, the files soon after."`
}

var deleteFlowPlugin = vql.NewPlugin(vql.Spec{
	Name: "delete_flow", Permission: "DELETE_RESULTS", Columns: []string{"type", "data", "error"},
	Doc: "Deletes a flow that has ended with its results, and lists their files. Without really_do_it it only lists them.",
}, func(ctx context.Context, scope *vql.Scope, args *deleteFlowArgs, emit vql.Emit) error {
	h, key, err := flowOf(scope, args.ClientID, args.FlowID)
	if err != nil {
		return err
	}
	f, err := h.Flows.Flow(key)
	if err != nil {
		return err
	}
	files, err := h.filesOf(ctx, scope, f)
	if err != nil {
		return err
	}
	failure := ""
	if args.ReallyDoIt {
		if err := h.deleteFlow(ctx, key); err != nil {
			scope.Log(vql.LevelError, "delete_flow: %v", err)
			failure = err.Error()
		}
	}
	for _, file := range files {
		if err := emit(file.row().Set("error", failure)); err != nil {
			return err
		}
	}
	return nil
})

func (h *Host) deleteFlow(ctx context.Context, key flows.Key) error {
	m, err := h.Flows.PlanDelete(key, h.Principal)
	if err != nil {
		return err
	}
	return h.change(ctx, m, "flow.delete", key.Client.String(), map[string]string{"flow": key.Flow.String()})
}

type clientDeleteArgs struct {
	ClientID   string `vql:"client_id,required" doc:"The client."`
	ReallyDoIt bool   `vql:"really_do_it" doc:"Delete; otherwise only list what would go."`
}

var clientDeletePlugin = vql.NewPlugin(vql.Spec{
	Name: "client_delete", Permission: "DELETE_RESULTS", Columns: []string{"client_id", "type", "vfs_path", "error"},
	Doc: "Forgets a client with its flows and lists their files. Without really_do_it it only lists them. An agent that still runs enrols anew.",
}, func(ctx context.Context, scope *vql.Scope, args *clientDeleteArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	client, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return err
	}
	if _, err := h.Clients.Lookup(h.Org, client); err != nil {
		return err
	}
	kept := 0
	err = h.eachFlow(ctx, scope, client, func(f *flows.Flow) error {
		failed, err := h.deleteFlowOf(ctx, scope, f, args.ReallyDoIt, emit)
		if failed {
			kept++
		}
		return err
	})
	if err != nil || !args.ReallyDoIt {
		return err
	}
	if kept > 0 {
		return fmt.Errorf("client %s is kept: %d of its flows could not be deleted", client, kept)
	}
	m, err := h.Clients.PlanDelete(h.Org, client)
	if err != nil {
		return err
	}
	if err := h.change(ctx, m, "client.delete", client.String(), nil); err != nil {
		return err
	}
	return emit(clientFile(client, "ClientRecord", "", nil))
})

// deleteFlowOf deletes one flow of a client that is to go, ending it first.
func (h *Host) deleteFlowOf(ctx context.Context, scope *vql.Scope, f *flows.Flow, really bool, emit vql.Emit) (failed bool, err error) {
	files, err := h.filesOf(ctx, scope, f)
	if err != nil {
		return false, err
	}
	var failure error
	if really && !f.State.Final() {
		failure = h.cancel(ctx, f.Key)
	}
	if really && failure == nil {
		failure = h.deleteFlow(ctx, f.Key)
	}
	for _, file := range files {
		if err := emit(clientFile(f.Client, file.kind, file.path, failure)); err != nil {
			return failure != nil, err
		}
	}
	return failure != nil, nil
}

func clientFile(client ids.Client, kind, path string, failure error) *vql.Dict {
	text := ""
	if failure != nil {
		text = failure.Error()
	}
	return vql.NewDict().Set("client_id", client.String()).Set("type", kind).Set("vfs_path", path).Set("error", text)
}
