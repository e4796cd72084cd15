package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"raptorpack/notebooks"
	"raptorpack/vql"
)

type timelineAddArgs struct {
	Timeline      string    `vql:"timeline,required" doc:"The super timeline."`
	Name          string    `vql:"name,required" doc:"The timeline; one of this name in the super timeline is replaced."`
	Query         vql.Query `vql:"query,required" doc:"Its rows, in any order."`
	Key           string    `vql:"key,required" doc:"The column with the time."`
	MessageColumn string    `vql:"message_column" doc:"The column with the message (Message)."`
	TSDescColumn  string    `vql:"ts_desc_column" doc:"The column that says what the time is (Description)."`
	NotebookID    string    `vql:"notebook_id" doc:"The notebook (the variable NotebookId); it comes to be with its first timeline."`
}

var timelineAddFunction = vql.NewFunction(vql.Spec{
	Name: "timeline_add", Permission: "READ_RESULTS",
	Doc: "Keeps a query's rows, sorted by a column with times, as a timeline of a super timeline, and gives the super timeline. Rows whose column is no time, or that are longer than a MiB, are left out and counted in the log.",
}, func(ctx context.Context, scope *vql.Scope, args *timelineAddArgs) (vql.Value, error) {
	h, key, err := notebookOf(scope, args.NotebookID)
	if err != nil {
		return nil, err
	}
	wish := notebooks.Wish{
		Key: key, Timeline: args.Timeline, Name: args.Name, Column: args.Key, MessageColumn: args.MessageColumn, DescriptionColumn: args.TSDescColumn,
	}
	if err := h.Notebooks.Check(wish); err != nil {
		return nil, err
	}
	in := &timelineRows{scope: scope, column: args.Key, sorter: scope.NewSorter()}
	defer in.sorter.Close()
	w := h.Timelines.Begin(wish, h.Notebooks.Begun())
	if err := args.Query.Run(ctx, scope, func(row vql.Value) error { return in.add(ctx, row) }); err != nil {
		return nil, err
	}
	in.tell(args.Name)
	if err := h.storeTimeline(ctx, wish, w, in); err != nil {
		return nil, err
	}
	t, err := h.Notebooks.Timeline(key, args.Timeline)
	if err != nil {
		return nil, err
	}
	return timelineRow(t), nil
})

// timelineRows gathers the rows of a query by their time, in memory and in a temporary
// file.
type timelineRows struct {
	scope    *vql.Scope
	column   string
	sorter   *vql.Sorter
	timeless int64 // rows left out
	long     int64
}

func (r *timelineRows) add(ctx context.Context, row vql.Value) error {
	d := r.scope.Row(ctx, row)
	value, _ := d.Get(r.column)
	at, ok := r.scope.Time(value)
	if !ok || !notebooks.Holds(at) {
		r.timeless++
		return nil
	}
	text := vql.AppendJSON(nil, d)
	if len(text) > notebooks.MaxRowBytes {
		r.long++
		return nil
	}
	return r.sorter.Add(vql.NewDict().Set("t", at).Set("row", string(text)), at)
}

// tell logs how many rows are left out.
func (r *timelineRows) tell(name string) {
	if r.timeless > 0 {
		r.scope.Log(vql.LevelWarn, "timeline_add: %.100s: %d rows are left out, as %.100s is no time in them", name, r.timeless, r.column)
	}
	if r.long > 0 {
		r.scope.Log(vql.LevelWarn, "timeline_add: %.100s: %d rows are left out, as they are longer than %d bytes", name, r.long, notebooks.MaxRowBytes)
	}
}

// storeTimeline makes rows durable, and then the entry that names them. Until it stands
// nobody sees them.
func (h *Host) storeTimeline(ctx context.Context, wish notebooks.Wish, w *notebooks.Writer, in *timelineRows) error {
	stored, err := in.store(ctx, w)
	if err != nil {
		w.Drop(ctx)
		return err
	}
	m, err := h.Notebooks.PlanAdd(wish, stored)
	if err == nil {
		err = h.change(ctx, m, "timeline.add", wish.Notebook.String(), map[string]string{
			"timeline": wish.Timeline, "name": wish.Name, "rows": strconv.FormatInt(stored.Rows, 10),
		})
	}
	if refused(err) {
		w.Drop(ctx) // of anything else nobody knows whether the entry will stand
	}
	return err
}

// refused tells an answer after which the rows are surely not named.
func refused(err error) bool {
	surely := []error{notebooks.ErrDeleted, notebooks.ErrFull, notebooks.ErrInvalid}
	return slices.ContainsFunc(surely, func(one error) bool { return errors.Is(err, one) })
}

func (r *timelineRows) store(ctx context.Context, w *notebooks.Writer) (notebooks.Stored, error) {
	err := r.sorter.Emit(ctx, func(row vql.Value) error {
		d, _ := row.(*vql.Dict)
		stamp, _ := d.Get("t")
		text, _ := d.Get("row")
		at, isTime := stamp.(time.Time)
		line, isText := text.(string)
		if !isTime || !isText {
			return fmt.Errorf("a sorted row came back as %T", row)
		}
		return w.Append(ctx, at, []byte(line))
	})
	if err != nil {
		return notebooks.Stored{}, err
	}
	return w.Close(ctx)
}

type timelineDeleteArgs struct {
	Timeline   string `vql:"timeline,required" doc:"The super timeline."`
	NotebookID string `vql:"notebook_id" doc:"The notebook (the variable NotebookId)."`
	Name       string `vql:"name" doc:"The timeline (the whole super timeline)."`
}

var timelineDeleteFunction = vql.NewFunction(vql.Spec{
	Name: "timeline_delete", Permission: "NOTEBOOK_EDITOR", Doc: "Deletes a timeline of a super timeline, or the super timeline with all of them. Gives TRUE.",
}, func(ctx context.Context, scope *vql.Scope, args *timelineDeleteArgs) (vql.Value, error) {
	h, key, err := notebookOf(scope, args.NotebookID)
	if err != nil {
		return nil, err
	}
	m, err := h.Notebooks.PlanRemove(key, args.Timeline, args.Name)
	if err != nil {
		return nil, err
	}
	err = h.change(ctx, m, "timeline.delete", key.Notebook.String(), map[string]string{"timeline": args.Timeline, "name": args.Name})
	if err != nil {
		return nil, err
	}
	return true, nil
})

type notebookDeleteArgs struct {
	NotebookID string `vql:"notebook_id,required" doc:"The notebook."`
	ReallyDoIt bool   `vql:"really_do_it" doc:"Delete; otherwise only list what would go."`
}

var notebookDeletePlugin = vql.NewPlugin(vql.Spec{
	Name: "notebook_delete", Permission: "SERVER_ADMIN", Columns: []string{"type", "data", "error"},
	Doc: "Deletes a notebook and lists what goes: its timelines, and its files, which the master removes. Without really_do_it it only lists them.",
}, func(ctx context.Context, scope *vql.Scope, args *notebookDeleteArgs, emit vql.Emit) error {
	h, key, err := notebookOf(scope, args.NotebookID)
	if err != nil {
		return err
	}
	rows, err := h.notebookRows(ctx, key)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("notebook %s: %w", key.Notebook, notebooks.ErrNotFound)
	}
	failure := ""
	if args.ReallyDoIt {
		if err := h.deleteNotebook(ctx, key); err != nil {
			scope.Log(vql.LevelError, "notebook_delete: %v", err)
			failure = err.Error()
		}
	}
	for _, row := range rows {
		if err := emit(row.Set("error", failure)); err != nil {
			return err
		}
	}
	return nil
})

func (h *Host) deleteNotebook(ctx context.Context, key notebooks.Key) error {
	m, err := h.Notebooks.PlanDelete(key)
	if err != nil {
		return err
	}
	return h.change(ctx, m, "notebook.delete", key.Notebook.String(), nil)
}

// notebookRows lists what a notebook has, in the ledger and on the filestore. Files that
// no timeline names are left of something that broke off, or is being written.
func (h *Host) notebookRows(ctx context.Context, key notebooks.Key) ([]*vql.Dict, error) {
	var out []*vql.Dict
	named := map[string]bool{}
	for _, t := range h.Notebooks.Timelines(key) {
		out = append(out, vql.NewDict().Set("type", "SuperTimeline").Set("data", timelineRow(t)))
		for _, c := range t.Children {
			named[c.Folder] = true
		}
	}
	files, err := h.Timelines.List(ctx, key)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		kind := "Unnamed"
		if named[file.Folder] {
			kind = "Timeline"
		}
		out = append(out, flowFile{kind, file.Path}.row())
	}
	return out, nil
}
