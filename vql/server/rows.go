package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/vql"
)

const (
	rowsPage = 1000 // rows held in memory at a time, of source() and its like
	maxHoles = 10   // holes told one by one
)

type sourceArgs struct {
	ClientID            string    `vql:"client_id" doc:"The client (the variable ClientId); of events without one, all."`
	FlowID              string    `vql:"flow_id" doc:"The flow (the variable FlowId)."`
	HuntID              string    `vql:"hunt_id" doc:"A hunt, as hunt_results() (the variable HuntId where there is no flow)."`
	Artifact            string    `vql:"artifact" doc:"The artifact, or Artifact/Source (the variable ArtifactName, else the first with rows)."`
	Source              string    `vql:"source" doc:"The source of the artifact."`
	StartTime           vql.Value `vql:"start_time" doc:"Of events: taken by the server at this time or later (the variable StartTime)."`
	EndTime             vql.Value `vql:"end_time" doc:"Of events: taken by the server before this time (the variable EndTime)."`
	NotebookID          string    `vql:"notebook_id" doc:"A notebook; of one, this version keeps timelines only."`
	NotebookCellID      string    `vql:"notebook_cell_id" doc:"A notebook's cell; this version has none."`
	NotebookCellVersion string    `vql:"notebook_cell_version" doc:"A notebook's cell; this version has none."`
	NotebookCellTable   int64     `vql:"notebook_cell_table" doc:"A notebook's cell; this version has none."`
	StartRow            *int64    `vql:"start_row" doc:"Rows to skip (the variable StartRow, else 0)."`
	Count               int64     `vql:"count" doc:"Rows at most (all)."`
	Orgs                []string  `vql:"orgs" doc:"The orgs; this version reaches the query's own only."`
}

var sourcePlugin = vql.NewPlugin(vql.Spec{
	Name: "source", Permission: "READ_RESULTS", Doc: "Reads the rows of a flow's or a hunt's result, in their order, or those of an event artifact of all nodes, day by day; each once. Rows that are missing are told in the log.",
}, func(ctx context.Context, scope *vql.Scope, args *sourceArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	if err := args.supported(h); err != nil {
		return err
	}
	from := scope.LookupInt("StartRow", 0)
	if args.StartRow != nil {
		from = *args.StartRow
	}
	if span, ok := args.events(scope, h); ok {
		return span.read(ctx, scope, max(0, from), max(0, args.Count), emit)
	}
	if !vql.IsNull(args.StartTime) || !vql.IsNull(args.EndTime) {
		return fmt.Errorf("start_time and end_time choose rows of an event artifact, and none is named: %w", ErrArgument)
	}
	artifact := args.Artifact
	if artifact == "" {
		artifact = scope.LookupString("ArtifactName")
	}
	if hunt := args.hunt(scope); hunt != "" {
		_, one, err := huntOf(scope, hunt)
		if err != nil {
			return err
		}
		r := &huntRows{h: h, hunt: one, skip: max(0, from)}
		return r.run(ctx, scope, artifact, args.Source, max(0, args.Count), emit)
	}
	key, err := h.keyFrom(scope, args.ClientID, args.FlowID)
	if err != nil {
		return err
	}
	return h.results(ctx, scope, key, artifact, args.Source, max(0, from), max(0, args.Count), emit)
})

// hunt is the hunt that is meant, "" if it is a flow. A flow is nearer than the hunt it
// belongs to, as in the rows of hunt_flows().
func (a *sourceArgs) hunt(scope *vql.Scope) string {
	if a.HuntID != "" || a.ClientID+a.FlowID != "" || scope.LookupString("FlowId") != "" {
		return a.HuntID
	}
	return scope.LookupString("HuntId")
}

func (a *sourceArgs) supported(h *Host) error {
	if err := h.sameOrg(a.Orgs...); err != nil {
		return err
	}
	switch {
	case a.HuntID != "" && a.ClientID+a.FlowID != "":
		return fmt.Errorf("hunt_id goes without client_id and flow_id: %w", ErrArgument)
	case a.NotebookID+a.NotebookCellID+a.NotebookCellVersion != "" || a.NotebookCellTable != 0:
		return fmt.Errorf("read a notebook's cell: %w", ErrUnsupported)
	}
	return nil
}

// keyFrom reads the ids of a flow, with the scope's variables for what is empty.
func (h *Host) keyFrom(scope *vql.Scope, client, flow string) (flows.Key, error) {
	if client == "" {
		client = scope.LookupString("ClientId")
	}
	if flow == "" {
		flow = scope.LookupString("FlowId")
	}
	if client == "" || flow == "" {
		return flows.Key{}, fmt.Errorf("client_id and flow_id are needed: %w", ErrArgument)
	}
	return h.key(client, flow)
}

type flowResultsArgs struct {
	Artifact string `vql:"artifact" doc:"The artifact, or Artifact/Source (the first with rows)."`
	Source   string `vql:"source" doc:"The source of the artifact."`
	FlowID   string `vql:"flow_id,required" doc:"The flow."`
	ClientID string `vql:"client_id,required" doc:"The client."`
}

var flowResultsPlugin = vql.NewPlugin(vql.Spec{
	Name: "flow_results", Permission: "READ_RESULTS", Doc: "Reads the rows of a flow's result, in their order, each once.",
}, func(ctx context.Context, scope *vql.Scope, args *flowResultsArgs, emit vql.Emit) error {
	h, key, err := flowOf(scope, args.ClientID, args.FlowID)
	if err != nil {
		return err
	}
	return h.results(ctx, scope, key, args.Artifact, args.Source, 0, 0, emit)
})

var flowLogsPlugin = vql.NewPlugin(vql.Spec{
	Name: "flow_logs", Permission: "READ_RESULTS", Doc: "Reads the query log of a flow.",
	Columns: []string{"client_time", "level", "message"},
}, func(ctx context.Context, scope *vql.Scope, args *flowArgs, emit vql.Emit) error {
	h, key, err := flowOf(scope, args.ClientID, args.FlowID)
	if err != nil {
		return err
	}
	r := &rowStream{scope: scope, name: "log of " + key.Flow.String(), emit: emit, read: func(p flows.Page) (*filestore.RowsPage, error) {
		return h.Flows.Logs(ctx, key, p)
	}}
	return r.run(ctx, 0, 0)
})

// results streams one result of a flow. count 0 is all.
func (h *Host) results(ctx context.Context, scope *vql.Scope, key flows.Key, artifact, source string, from, count int64, emit vql.Emit) error {
	f, err := h.Flows.Flow(key)
	if err != nil {
		return err
	}
	of := &results{of: "flow " + key.Flow.String(), names: f.Spec.Results(), total: func(name string) (int64, error) {
		page, err := h.Flows.Results(ctx, key, name, flows.Page{Limit: 1})
		if err != nil {
			return 0, err
		}
		return page.Total, nil
	}}
	name, err := of.choose(scope, artifact, source)
	if err != nil || name == "" {
		return err
	}
	r := &rowStream{scope: scope, name: name + " of " + key.Flow.String(), emit: emit, read: func(p flows.Page) (*filestore.RowsPage, error) {
		return h.Flows.Results(ctx, key, name, p)
	}}
	return r.run(ctx, from, count)
}

// results are what rows of a flow or hunt lie under.
type results struct {
	of    string // for texts
	names []string
	total func(name string) (int64, error) // rows of one
}

// choose picks the result that is meant; "" when there is none at all. Where several
// fit, it is the first with rows, and the log says so.
func (r *results) choose(scope *vql.Scope, artifact, source string) (string, error) {
	fit := fitting(r.names, artifact, source)
	if len(fit) == 0 && artifact+source != "" {
		return "", fmt.Errorf("%s has no result of artifact %.100q, source %.100q, only: %s: %w",
			r.of, artifact, source, strings.Join(r.names, ", "), flows.ErrNotFound)
	}
	if len(fit) < 2 {
		return strings.Join(fit, ""), nil
	}
	chosen := fit[0]
	for _, name := range fit {
		rows, err := r.total(name)
		if err != nil {
			return "", err
		}
		if rows > 0 {
			chosen = name
			break
		}
	}
	scope.Log(vql.LevelWarn, "%s has several results (%s): reading %s; artifact and source choose another", r.of, strings.Join(fit, ", "), chosen)
	return chosen, nil
}

// fitting lists the results that an artifact and a source, each maybe empty, may
// mean.
func fitting(results []string, artifact, source string) []string {
	if artifact != "" && source != "" && !strings.Contains(artifact, "/") {
		artifact, source = artifact+"/"+source, ""
	}
	if slices.Contains(results, artifact) {
		return []string{artifact}
	}
	var out []string
	for _, name := range results {
		owner, part, _ := strings.Cut(name, "/")
		if (artifact == "" || artifact == owner) && (source == "" || source == part) {
			out = append(out, name)
		}
	}
	return out
}

// rowStream hands on stored rows a page at a time, so that memory holds one page
// however many rows there are. Rows that are added meanwhile are not read.
type rowStream struct {
	scope *vql.Scope
	name  string // for the log
	read  func(flows.Page) (*filestore.RowsPage, error)
	emit  vql.Emit

	// wanted leaves rows out before they are decoded, dress completes the others; nil:
	// all rows are wanted as they are.
	wanted func(filestore.Row) bool
	dress  func(filestore.Row, *vql.Dict)

	holes int
}

// run emits count rows (0: all) behind the first from.
func (r *rowStream) run(ctx context.Context, from, count int64) error {
	left := count
	for page := (flows.Page{From: from}); ; {
		if err := r.scope.Charge(ctx); err != nil {
			return err
		}
		page.Limit = rowsPage
		if count > 0 && r.wanted == nil {
			page.Limit = int(min(rowsPage, left))
		}
		got, err := r.read(page)
		if err != nil {
			return err
		}
		r.report(got)
		emitted, err := r.rows(got.Rows, left)
		if err != nil {
			return err
		}
		left -= emitted
		if got.Next == "" || len(got.Rows) == 0 || count > 0 && left <= 0 {
			return nil
		}
		page = flows.Page{Cursor: got.Next}
	}
}

// rows emits the wanted of some rows, at most left of them (0: all), and counts them.
func (r *rowStream) rows(rows []filestore.Row, left int64) (emitted int64, err error) {
	for _, row := range rows {
		if r.wanted != nil && !r.wanted(row) {
			continue
		}
		d, err := decodeRow(row.Line)
		if err != nil {
			return emitted, fmt.Errorf("row %d of %s: %w", row.Number, r.name, err)
		}
		if r.dress != nil {
			r.dress(row, d)
		}
		if err := r.emit(d); err != nil {
			return emitted, err
		}
		if emitted++; emitted == left {
			return emitted, nil
		}
	}
	return emitted, nil
}

// report tells of what is missing or damaged: a reader must not take an
// incomplete answer for a whole one.
func (r *rowStream) report(page *filestore.RowsPage) {
	for _, hole := range page.Holes {
		if r.holes++; r.holes <= maxHoles {
			r.scope.Log(vql.LevelWarn, "%s: rows %d to %d are missing", r.nameOf(hole.Stream), hole.Rows.Start, hole.Rows.End-1)
		} else if r.holes == maxHoles+1 {
			r.scope.Log(vql.LevelWarn, "%s: more rows are missing", r.name)
		}
	}
	if n := len(page.Conflicts); n > 0 {
		r.scope.Log(vql.LevelWarn, "%s: %d batches came twice with different content; the first is shown", r.name, n)
	}
	if n := len(page.Damage); n > 0 {
		r.scope.Log(vql.LevelWarn, "%s: %d places of its files are damaged", r.name, n)
	}
}

// nameOf tells the client too where there are many.
func (r *rowStream) nameOf(s filestore.Stream) string {
	if r.wanted == nil {
		return r.name
	}
	return fmt.Sprintf("%s, client %s", r.name, s.Client)
}
