package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"raptorpack/artifacts"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/vql"
)

// Watcher gives watch_monitoring its rows where each has to be worked off and none
// twice: a service of the sessions of server event artifacts.
type Watcher interface {
	// Watch hands over rows of an event artifact and returns when there are enough
	// for now. false: the call is not one of its own.
	Watch(ctx context.Context, artifact string, emit func(filestore.Row) error) (bool, error)
}

type watchArgs struct {
	Artifact string `vql:"artifact,required" doc:"The event artifact, or Artifact/Source."`
}

var watchMonitoringPlugin = vql.NewPlugin(vql.Spec{
	Name: "watch_monitoring", Permission: "READ_RESULTS",
	Doc: "Event source: the rows of an event artifact as any node stores them, from now on; in a server event artifact from where its query stood. _Source names the artifact.",
}, func(ctx context.Context, scope *vql.Scope, args *watchArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	if _, err := h.Artifacts.Repository(h.Org).Lookup(artifactOf(args.Artifact)); err != nil {
		scope.Log(vql.LevelWarn, "watch_monitoring: no artifact %.100q is defined: nothing comes until something stores rows under that name", args.Artifact)
	}
	give := func(row filestore.Row) error {
		d, err := decodeRow(row.Line)
		if err != nil {
			return fmt.Errorf("row of %s: %w", args.Artifact, err)
		}
		return emit(d.Set("_Source", args.Artifact))
	}
	if w, ok := vql.Service[Watcher](scope); ok {
		if mine, err := w.Watch(ctx, args.Artifact, give); mine || err != nil {
			return err
		}
	}
	return h.follow(ctx, scope, args.Artifact, give)
})

// follow gives the rows that are stored from now on until ctx ends.
func (h *Host) follow(ctx context.Context, scope *vql.Scope, name string, give func(filestore.Row) error) error {
	f, err := h.Flows.FollowEvents(flows.FollowOptions{Org: h.Org, Name: name})
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		page, err := f.Look(ctx, rowsPage)
		if err != nil {
			return err
		}
		if n := len(page.Damage); n > 0 {
			scope.Log(vql.LevelWarn, "%s: %d places of its files are damaged", name, n)
		}
		for _, row := range page.Rows {
			if err := give(row); err != nil {
				return err
			}
		}
		if !f.Wait(ctx, nil) {
			return ctx.Err()
		}
	}
}

func artifactOf(name string) string {
	artifact, _, _ := strings.Cut(name, "/")
	return artifact
}

type monitoringArgs struct {
	ClientID  string    `vql:"client_id,required" doc:"The client, or server."`
	Artifact  string    `vql:"artifact,required" doc:"The event artifact, or Artifact/Source."`
	Source    string    `vql:"source" doc:"The source of the artifact."`
	StartTime vql.Value `vql:"start_time" doc:"Rows that the server took at this time or later."`
	EndTime   vql.Value `vql:"end_time" doc:"Rows that the server took before this time."`
	StartRow  int64     `vql:"start_row" doc:"Rows to skip (0)."`
}

var monitoringPlugin = vql.NewPlugin(vql.Spec{
	Name: "monitoring", Permission: "READ_RESULTS", Doc: "Reads the rows of an event artifact of one client between two times, those of all nodes.",
}, func(ctx context.Context, scope *vql.Scope, args *monitoringArgs, emit vql.Emit) error {
	return args.span().read(ctx, scope, max(0, args.StartRow), 0, emit)
})

type monitoringLogsArgs struct {
	ClientID  string    `vql:"client_id,required" doc:"The client, or server."`
	Artifact  string    `vql:"artifact,required" doc:"The event artifact, or Artifact/Source."`
	Source    string    `vql:"source" doc:"The source of the artifact."`
	StartTime vql.Value `vql:"start_time" doc:"Lines that the server took at this time or later."`
	EndTime   vql.Value `vql:"end_time" doc:"Lines that the server took before this time."`
}

var monitoringLogsPlugin = vql.NewPlugin(vql.Spec{
	Name: "monitoring_logs", Permission: "READ_RESULTS", Doc: "Reads the log of an event artifact's query of one client between two times.",
	Columns: []string{"client_time", "level", "message", "_ts"},
}, func(ctx context.Context, scope *vql.Scope, args *monitoringLogsArgs, emit vql.Emit) error {
	span := &eventSpan{client: args.ClientID, artifact: args.Artifact, source: args.Source, start: args.StartTime, end: args.EndTime, log: true}
	return span.read(ctx, scope, 0, 0, emit)
})

func (a *monitoringArgs) span() *eventSpan {
	return &eventSpan{client: a.ClientID, artifact: a.Artifact, source: a.Source, start: a.StartTime, end: a.EndTime}
}

// eventSpan names event rows as arguments do.
type eventSpan struct {
	client           string // "": of all
	artifact, source string
	start, end       vql.Value
	log              bool
}

// logFirst puts the columns of a log line where monitoring_logs() has them: behind
// them comes whose it is.
func logFirst(_ filestore.Row, d *vql.Dict) {
	for _, name := range []string{"_ts", "ClientId"} {
		if v, ok := d.Get(name); ok {
			d.Delete(name)
			d.Set(name, v)
		}
	}
}

// read emits count rows (0: all) behind the first from.
func (e *eventSpan) read(ctx context.Context, scope *vql.Scope, from, count int64, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	q, err := e.query(scope, h)
	if err != nil {
		return err
	}
	if q.Name, err = h.eventName(ctx, scope, *q, e.artifact, e.source); err != nil {
		return err
	}
	return h.events(ctx, scope, *q, from, count, emit)
}

func (e *eventSpan) query(scope *vql.Scope, h *Host) (*flows.EventRowsQuery, error) {
	q := &flows.EventRowsQuery{Org: h.Org, Log: e.log}
	var err error
	if e.client != "" {
		if q.Client, err = ids.ParseClient(e.client); err != nil {
			return nil, err
		}
	}
	if q.From, err = timeArgument(scope, "start_time", e.start); err != nil {
		return nil, err
	}
	q.To, err = timeArgument(scope, "end_time", e.end)
	return q, err
}

func timeArgument(scope *vql.Scope, name string, v vql.Value) (time.Time, error) {
	if vql.IsNull(v) {
		return time.Time{}, nil
	}
	at, ok := scope.Time(v)
	if !ok {
		return at, fmt.Errorf("%s: not a time: %w", name, ErrArgument)
	}
	return at, nil
}

// eventName picks the result that an artifact and a source, maybe empty, mean. Of
// several it is the first with rows, and the log says so.
func (h *Host) eventName(ctx context.Context, scope *vql.Scope, q flows.EventRowsQuery, artifact, source string) (string, error) {
	if source != "" {
		return artifact + "/" + source, nil
	}
	d, err := h.Artifacts.Repository(h.Org).Lookup(artifact)
	if err != nil || len(d.Sources) < 2 {
		if err == nil && len(d.Sources) == 1 {
			return d.ResultName(&d.Sources[0]), nil
		}
		return artifact, nil // of an artifact that is gone rows may lie there still
	}
	var names []string
	for i := range d.Sources {
		names = append(names, d.ResultName(&d.Sources[i]))
	}
	chosen := names[0]
	for _, name := range names {
		q.Name, q.Limit = name, 1
		page, err := h.Flows.EventRows(ctx, q)
		if err != nil {
			return "", err
		}
		if len(page.Rows) > 0 || page.Next != "" {
			chosen = name
			break
		}
	}
	scope.Log(vql.LevelWarn, "%s has several sources (%s): reading %s; source chooses another", artifact, strings.Join(names, ", "), chosen)
	return chosen, nil
}

// events emits count rows (0: all) behind the first from, a page in memory at a time.
func (h *Host) events(ctx context.Context, scope *vql.Scope, q flows.EventRowsQuery, from, count int64, emit vql.Emit) error {
	r := &rowStream{scope: scope, name: "events of " + q.Name, emit: emit}
	if q.Log {
		r.dress = logFirst
	}
	q.Limit = rowsPage
	for left := count; ; {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		page, err := h.Flows.EventRows(ctx, q)
		if err != nil {
			return err
		}
		r.report(&filestore.RowsPage{Holes: page.Holes, Damage: page.Damage})
		rows := page.Rows[min(from, int64(len(page.Rows))):]
		from -= int64(len(page.Rows) - len(rows))
		emitted, err := r.rows(rows, left)
		if err != nil {
			return err
		}
		left -= emitted
		if q.Cursor = page.Next; q.Cursor == "" || count > 0 && left <= 0 {
			return nil
		}
	}
}

// events reports whether source() is asked for an event artifact's rows, and names
// them.
func (a *sourceArgs) events(scope *vql.Scope, h *Host) (*eventSpan, bool) {
	e := &eventSpan{client: a.ClientID, artifact: a.Artifact, source: a.Source, start: a.StartTime, end: a.EndTime}
	if e.artifact == "" {
		e.artifact = scope.LookupString("ArtifactName")
	}
	if e.artifact == "" || a.FlowID != "" || a.HuntID != "" {
		return nil, false
	}
	if artifact, source, cut := strings.Cut(e.artifact, "/"); cut && e.source == "" {
		e.artifact, e.source = artifact, source
	}
	if e.client == "" {
		e.client = scope.LookupString("ClientId")
	}
	for name, v := range map[string]*vql.Value{"StartTime": &e.start, "EndTime": &e.end} {
		if vql.IsNull(*v) {
			*v, _ = scope.Lookup(name)
		}
	}
	d, err := h.Artifacts.Repository(h.Org).Lookup(e.artifact)
	if err != nil { // rows of an artifact that is gone may lie there still
		return e, !vql.IsNull(a.StartTime) || !vql.IsNull(a.EndTime)
	}
	return e, d.Event() || d.Type == artifacts.Internal
}

var errNoTables = errors.New("this query cannot change event tables")
