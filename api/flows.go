package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/users"
)

// Flow is one collection as operators see it.
type Flow struct {
	ID        string        `json:"flow_id"`
	Client    string        `json:"client_id"`
	State     string        `json:"state" doc:"pending, running, waiting, completed, incomplete, errored or cancelled"`
	Error     string        `json:"error,omitempty"`
	Creator   string        `json:"creator"`
	Artifacts []CollectSpec `json:"artifacts"`
	Results   []FlowResult  `json:"results" nullable:"false"`
	Created   time.Time     `json:"created"`
	Started   *time.Time    `json:"started,omitempty"`
	Ended     *time.Time    `json:"ended,omitempty"`
	Seconds   float64       `json:"duration_seconds,omitempty"`
	CPU       *int64        `json:"cpu_ns,omitempty" doc:"processor time of its queries on the client in nanoseconds; left out: the agent told none"`
	Rows      int64         `json:"rows" doc:"rows on the filestore"`
	Uploads   int64         `json:"uploads" doc:"finished uploads"`
	Bytes     int64         `json:"upload_bytes"`
	Expected  flows.Totals  `json:"client_totals" doc:"what the client says it produced, once it has ended"`
	Conflicts int64         `json:"conflicts,omitempty" doc:"batches that came twice with different content"`
	Cancelled string        `json:"cancelled_by,omitempty"`
	Progress  *FlowProgress `json:"progress,omitempty" doc:"while it runs, if this node heard of it"`
	Folder    string        `json:"folder" doc:"where the files lie below the filestore"`
}

// FlowResult is one named result of a flow.
type FlowResult struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

// FlowProgress is what a running flow last said of itself.
type FlowProgress struct {
	At      time.Time    `json:"at"`
	Totals  flows.Totals `json:"totals"`
	CPU     *int64       `json:"cpu_ns,omitempty" doc:"processor time of its queries so far in nanoseconds; left out: the agent tells none"`
	Queries int          `json:"queries"`
	Running int          `json:"running"`
}

func (s *Server) flow(f *flows.Flow) Flow {
	out := Flow{
		ID: f.Flow.String(), Client: f.Client.String(), State: string(f.State), Error: f.Error, Creator: f.Spec.Creator,
		Artifacts: showSpecs(f.Spec.Artifacts), Results: []FlowResult{}, Created: f.Created, Started: timeOrNil(f.Taken), Ended: timeOrNil(f.Ended),
		Seconds: f.Duration.Seconds(), CPU: f.CPU.Nanoseconds(), Rows: f.Rows(), Uploads: f.Uploads.Len(), Bytes: f.UploadBytes(), Expected: f.Totals,
		Conflicts: f.Conflicts(), Cancelled: f.CancelledBy, Folder: filestore.FlowDir(f.Org, f.Client, f.Flow),
	}
	counts := map[string]int64{}
	for _, c := range f.Names {
		counts[c.Name] = c.Rows.Len()
	}
	for _, name := range f.Spec.Results() {
		out.Results = append(out.Results, FlowResult{name, counts[name]})
	}
	if p, ok := s.o.Flows.Progress(f.Key); ok && !f.State.Final() {
		out.Progress = &FlowProgress{At: p.At, Totals: p.Totals, CPU: p.CPU.Nanoseconds(), Queries: p.Queries, Running: p.Running}
	}
	return out
}

func showSpecs(all []flows.Artifact) []CollectSpec {
	out := make([]CollectSpec, len(all))
	for i, a := range all {
		out[i].Name = a.Name
		for _, p := range a.Parameters {
			if out[i].Parameters == nil {
				out[i].Parameters = map[string]string{}
			}
			out[i].Parameters[p.Name] = p.Value
		}
	}
	return out
}

// FlowPath names a flow of a client in a path.
type FlowPath struct {
	ClientPath
	Flow string `path:"flow" doc:"flow id"`
}

func (p FlowPath) key() (flows.Key, error) {
	client, err := ids.ParseClient(p.Client)
	if err != nil {
		return flows.Key{}, err
	}
	flow, err := ids.ParseFlow(p.Flow)
	return flows.Key{Org: ids.RootOrg, Client: client, Flow: flow}, err
}

func (s *Server) flowRoutes() {
	s.collectRoutes()
	const one = "/clients/{client}/flows/{flow}"
	get(s, "/clients/{client}/flows", "listFlows", "List the collections of a client, newest first", s.listFlows)
	get(s, one, "showFlow", "Show one collection", s.showFlow)
	register(s, http.MethodPost, one+"/cancel", "cancelFlow", "Cancel a collection", s.cancelFlow)
	register(s, http.MethodDelete, one, "deleteFlow", "Delete a collection with its results", s.deleteFlow)
	get(s, one+"/results", "flowResults", "Page through the rows of one result", s.flowResults)
	get(s, one+"/logs", "flowLogs", "Page through the query log", s.flowLogs)
	get(s, one+"/uploads", "flowUploads", "List the finished uploads", s.flowUploads)
	get(s, one+"/uploads/{number}/content", "downloadUpload", "Download one upload", s.downloadUpload)
	get(s, one+"/zip", "zipFlow", "Download a collection as one zip with a manifest of hashes", s.zipFlow)
	s.collectionImportRoute()
	s.mux.HandleFunc("GET "+prefix+one+"/events", s.flowEvents)
	s.describeStream(prefix+one+"/events", "flowEvents", "Follow one collection until it has ended",
		"Server-sent events named flow; the data of each is a Flow.", "client", "flow")
}

// describeStream puts an event stream, which huma does not serve, into the document.
func (s *Server) describeStream(path, id, summary, events string, parameters ...string) {
	text := &huma.Schema{Type: huma.TypeString}
	var all []*huma.Param
	for _, name := range parameters {
		all = append(all, &huma.Param{Name: name, In: "path", Required: true, Schema: text})
	}
	s.api.OpenAPI().AddOperation(&huma.Operation{
		Method: http.MethodGet, Path: path, OperationID: id, Summary: summary, Parameters: all,
		Responses: map[string]*huma.Response{"200": {
			Description: events,
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: text}},
		}},
	})
}

// beginEvents answers with a stream of events.
func beginEvents(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
}

func (s *Server) listFlows(ctx context.Context, in *struct {
	ClientPath
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor"`
},
) (*body[List[Flow]], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(in.Client)
	if err != nil {
		return nil, err
	}
	var before ids.Flow
	if in.Cursor != "" {
		if before, err = ids.ParseFlow(in.Cursor); err != nil {
			return nil, err
		}
	}
	out := List[Flow]{Items: []Flow{}, AsOf: s.asOf()}
	found := s.o.Flows.List(ids.RootOrg, client, before, in.Limit+1)
	if len(found) > in.Limit {
		found = found[:in.Limit]
		out.Next = found[in.Limit-1].Flow.String()
	}
	for _, f := range found {
		out.Items = append(out.Items, s.flow(f))
	}
	out.Total = int64(s.o.Flows.Count(ids.RootOrg, client))
	return &body[List[Flow]]{out}, nil
}

// FlowIn is a request about one flow.
type FlowIn struct {
	FlowPath
}

// readFlow checks that the caller may read, and finds the flow.
func (s *Server) readFlow(ctx context.Context, p FlowPath) (*flows.Flow, error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	key, err := p.key()
	if err != nil {
		return nil, err
	}
	return s.o.Flows.Flow(key)
}

func (s *Server) showFlow(ctx context.Context, in *FlowIn) (*body[Flow], error) {
	f, err := s.readFlow(ctx, in.FlowPath)
	if err != nil {
		return nil, err
	}
	return &body[Flow]{s.flow(f)}, nil
}

func (s *Server) cancelFlow(ctx context.Context, in *struct {
	Writing
	FlowPath
},
) (*body[Done], error) {
	key, err := in.key()
	if err != nil {
		return nil, err
	}
	who, err := s.may(ctx, launchPermission(key.Client))
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		m, err := s.o.Flows.PlanCancel(key, who.Name)
		return &change{m, "flow.cancel", in.Client, map[string]string{"flow": in.Flow}}, err
	})
}

func (s *Server) deleteFlow(ctx context.Context, in *struct {
	Writing
	FlowPath
},
) (*body[Done], error) {
	who, err := s.may(ctx, users.DeleteResults)
	if err != nil {
		return nil, err
	}
	key, err := in.key()
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		m, err := s.o.Flows.PlanDelete(key, who.Name)
		return &change{m, "flow.delete", in.Client, map[string]string{"flow": in.Flow}}, err
	})
}

// Rows is a page of stored rows; they pass through as the bytes that are stored.
type Rows struct {
	Items  []json.RawMessage `json:"items" nullable:"false"`
	From   int64             `json:"from" doc:"place of the first row among all"`
	Next   string            `json:"next,omitempty"`
	Total  int64             `json:"total"`
	Holes  []RowHole         `json:"holes,omitempty" doc:"row numbers that are missing before or between these rows"`
	Damage []RowDamage       `json:"damage,omitempty" doc:"parts of files that cannot be used; while the flow runs, a torn end may be a write under way"`
	State  string            `json:"state" doc:"the flow's state: more rows may come while it is not final"`
	AsOf   AsOf              `json:"asOf"`
}

// RowHole is a range of missing rows, end excluded.
type RowHole struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
}

// RowDamage is a part of a stored file that cannot be used: rows that lay there
// are missing.
type RowDamage struct {
	Path   string `json:"path" doc:"below the filestore's folder"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
	Kind   string `json:"kind" enum:"torn,checksum,beyond_seal,lost,member"`
}

type rowsIn struct {
	FlowIn
	Name   string `query:"name" doc:"the result, as Artifact or Artifact/Source; may be left out when there is only one"`
	From   int64  `query:"from" minimum:"0" doc:"rows to skip"`
	Limit  int    `query:"limit" minimum:"1" maximum:"10000" default:"200"`
	Cursor string `query:"cursor"`
}

func (s *Server) flowResults(ctx context.Context, in *rowsIn) (*body[Rows], error) {
	f, err := s.readFlow(ctx, in.FlowPath)
	if err != nil {
		return nil, err
	}
	name := in.Name
	if results := f.Spec.Results(); name == "" {
		if len(results) != 1 {
			return nil, fmt.Errorf("say which result: %s: %w", strings.Join(results, ", "), flows.ErrInvalid)
		}
		name = results[0]
	}
	page, err := s.o.Flows.Results(ctx, f.Key, name, flows.Page{From: in.From, Limit: in.Limit, Cursor: in.Cursor})
	if err != nil {
		return nil, err
	}
	return s.rowsPage(f, page), nil
}

func (s *Server) flowLogs(ctx context.Context, in *rowsIn) (*body[Rows], error) {
	f, err := s.readFlow(ctx, in.FlowPath)
	if err != nil {
		return nil, err
	}
	page, err := s.o.Flows.Logs(ctx, f.Key, flows.Page{From: in.From, Limit: in.Limit, Cursor: in.Cursor})
	if err != nil {
		return nil, err
	}
	return s.rowsPage(f, page), nil
}

func (s *Server) rowsPage(f *flows.Flow, page *filestore.RowsPage) *body[Rows] {
	out := Rows{Items: make([]json.RawMessage, len(page.Rows)), From: page.From, Next: page.Next, Total: page.Total, State: string(f.State), AsOf: s.asOf()}
	for i, row := range page.Rows {
		out.Items[i] = row.Line
	}
	for _, hole := range page.Holes {
		out.Holes = append(out.Holes, RowHole{hole.Rows.Start, hole.Rows.End})
	}
	for _, d := range page.Damage {
		out.Damage = append(out.Damage, RowDamage{Path: d.Path, Offset: d.Offset, Bytes: d.Bytes, Kind: string(d.Kind)})
	}
	return &body[Rows]{out}
}

func (s *Server) flowUploads(ctx context.Context, in *FlowIn) (*body[List[flows.Upload]], error) {
	f, err := s.readFlow(ctx, in.FlowPath)
	if err != nil {
		return nil, err
	}
	all, err := s.o.Flows.Uploads(ctx, f.Key)
	if err != nil {
		return nil, err
	}
	if all == nil {
		all = []flows.Upload{}
	}
	return &body[List[flows.Upload]]{List[flows.Upload]{Items: all, Total: int64(len(all)), AsOf: s.asOf()}}, nil
}

// downloadUpload streams what a client uploaded: hostile bytes, so never shown in
// place.
func (s *Server) downloadUpload(ctx context.Context, in *struct {
	FlowIn
	Number int64 `path:"number"`
	Expand bool  `query:"expand" doc:"give a sparse file its holes back, as zeros"`
},
) (*huma.StreamResponse, error) {
	f, err := s.readFlow(ctx, in.FlowPath)
	if err != nil {
		return nil, err
	}
	file, upload, err := s.o.Flows.OpenUpload(ctx, f.Key, in.Number)
	if err != nil {
		return nil, err
	}
	content, size := file.Stored(ctx), file.StoredSize()
	if in.Expand {
		content, size = file.Expanded(ctx), file.Size()
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer func() {
			if err := file.Close(context.WithoutCancel(ctx)); err != nil {
				s.log.Warn("upload was not closed", "err", err)
			}
		}()
		hc.SetHeader("Content-Type", "application/octet-stream")
		hc.SetHeader("Content-Length", strconv.FormatInt(size, 10))
		hc.SetHeader("X-Content-Type-Options", "nosniff")
		hc.SetHeader("Content-Security-Policy", "sandbox")
		hc.SetHeader("Content-Disposition", attachment(upload.BaseName()))
		if _, err := io.Copy(hc.BodyWriter(), content); err != nil {
			s.log.Warn("download broke off", "client", in.Client, "flow", in.Flow, "err", err)
		}
	}}, nil
}

// flowEvents streams one flow's record as server-sent events until it has ended:
// at most four a second, a comment each 15 s.
func (s *Server) flowEvents(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	at := FlowPath{ClientPath{r.PathValue("client")}, r.PathValue("flow")}
	f, err := s.readFlow(ctx, at)
	if err != nil {
		writeProblem(w, s.fail(err))
		return
	}
	watch := s.o.Flows.Watch(f.Key)
	defer watch.Close()
	beginEvents(w)
	flush := http.NewResponseController(w)
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	pace := time.NewTicker(250 * time.Millisecond)
	defer pace.Stop()
	for {
		f, err := s.readFlow(ctx, at)
		if err != nil {
			return // deleted, or the caller may not read any more
		}
		text, err := json.Marshal(s.flow(f))
		if err != nil {
			s.log.Error("flow cannot be shown", "flow", f.Flow, "err", err)
			return
		}
		if _, err := fmt.Fprintf(w, "event: flow\nid: %d\ndata: %s\n\n", s.asOf().Index, text); err != nil || flush.Flush() != nil {
			return
		}
		if f.State.Final() {
			return
		}
		if !waitEvent(ctx, s, w, watch.C(), beat.C) {
			return
		}
		select {
		case <-pace.C:
		case <-s.leaving:
			return
		case <-ctx.Done():
			return
		}
	}
}

// waitEvent waits for a change, keeping the connection alive meanwhile.
func waitEvent[T any](ctx context.Context, s *Server, w http.ResponseWriter, changed <-chan T, beat <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.leaving:
			return false
		case <-changed:
			return true
		case <-beat:
			if _, err := io.WriteString(w, ": still here\n\n"); err != nil || http.NewResponseController(w).Flush() != nil {
				return false
			}
		}
	}
}

func writeProblem(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var problem huma.StatusError
	if errors.As(err, &problem) {
		status = problem.GetStatus()
	}
	var more huma.HeadersError
	if errors.As(err, &more) {
		maps.Copy(w.Header(), more.GetHeaders())
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	// The connection is all there is to tell about a failed write.
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "detail": err.Error()})
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func artifactNames(named []flows.Artifact) string {
	names := make([]string, len(named))
	for i, a := range named {
		names[i] = a.Name
	}
	return strings.Join(names, ",")
}
