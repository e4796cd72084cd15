package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"raptorpack/ids"
	"raptorpack/notebooks"
	"raptorpack/vql"
)

// notebookOf returns the host of a query and the notebook that it names, or that it
// runs in.
func notebookOf(scope *vql.Scope, text string) (*Host, notebooks.Key, error) {
	h, err := hostOf(scope)
	if err == nil && (h.Notebooks == nil || h.Timelines == nil) {
		err = fmt.Errorf("notebooks: %w", ErrUnsupported)
	}
	if err != nil {
		return nil, notebooks.Key{}, err
	}
	if text == "" {
		text = scope.LookupString("NotebookId")
	}
	if text == "" {
		return nil, notebooks.Key{}, fmt.Errorf("notebook_id is needed outside of notebooks (the variable NotebookId is not set): %w", ErrArgument)
	}
	id, err := ids.ParseNotebook(text)
	return h, notebooks.Key{Org: h.Org, Notebook: id}, err
}

// timelineRow is a super timeline as queries see it.
func timelineRow(t *notebooks.Timeline) *vql.Dict {
	children := make([]any, len(t.Children))
	for i := range t.Children {
		children[i] = childRow(&t.Children[i])
	}
	return vql.NewDict().Set("name", t.Name).Set("timelines", children)
}

func childRow(c *notebooks.Child) *vql.Dict {
	return vql.NewDict().
		Set("name", c.Name).
		Set("key", c.Key).
		Set("message_column", c.MessageColumn).
		Set("ts_desc_column", c.DescriptionColumn).
		Set("rows", c.Rows).
		Set("start_time", timeOrNull(c.First)).
		Set("end_time", timeOrNull(c.Last)).
		Set("added_by", c.By).
		Set("added", timeOrNull(c.At))
}

func timeOrNull(t time.Time) vql.Value {
	if t.IsZero() {
		return vql.NULL
	}
	return t
}

type timelinesArgs struct {
	NotebookID string `vql:"notebook_id" doc:"The notebook (the variable NotebookId)."`
}

var timelinesPlugin = vql.NewPlugin(vql.Spec{
	Name: "timelines", Permission: "READ_RESULTS", Doc: "Lists the super timelines of a notebook, each with the timelines that it is made of.",
	Columns: []string{"name", "timelines"},
}, func(_ context.Context, scope *vql.Scope, args *timelinesArgs, emit vql.Emit) error {
	h, key, err := notebookOf(scope, args.NotebookID)
	if err != nil {
		return err
	}
	for _, t := range h.Notebooks.Timelines(key) {
		if err := emit(timelineRow(t)); err != nil {
			return err
		}
	}
	return nil
})

type timelineArgs struct {
	Timeline   string    `vql:"timeline,required" doc:"The super timeline."`
	Components []string  `vql:"components" doc:"Only these of its timelines (all)."`
	Skip       []string  `vql:"skip" doc:"But none of these."`
	Start      vql.Value `vql:"start" doc:"Only rows of this time or later (all)."`
	NotebookID string    `vql:"notebook_id" doc:"The notebook (the variable NotebookId)."`
}

var timelinePlugin = vql.NewPlugin(vql.Spec{
	Name: "timeline", Permission: "READ_RESULTS", Columns: []string{"Timestamp", "Message", "Description", "_Source"},
	Doc: "Reads a super timeline by time: its timelines merged, each row with Timestamp, Message and Description in front of its own columns and its timeline's name in _Source. A column of the row's own that is called like one of these is called row_Message and so on. Rows that are missing are told in the log.",
}, func(ctx context.Context, scope *vql.Scope, args *timelineArgs, emit vql.Emit) error {
	h, key, err := notebookOf(scope, args.NotebookID)
	if err != nil {
		return err
	}
	t, err := h.Notebooks.Timeline(key, args.Timeline)
	if err != nil {
		return err
	}
	m := notebooks.Merge{Key: key, Timeline: t.Name, Children: args.chosen(scope, t), Charge: scope.Charge}
	if !vql.IsNull(args.Start) {
		var ok bool
		if m.Start, ok = scope.Time(args.Start); !ok {
			return fmt.Errorf("start %.60q is no time: %w", scope.String(ctx, args.Start), ErrArgument)
		}
	}
	missing, err := h.Timelines.Merge(ctx, m, func(r notebooks.Row) error {
		row, err := mergedRow(r)
		if err != nil {
			return fmt.Errorf("timeline %.100q: %w", r.Child.Name, err)
		}
		return emit(row)
	})
	for _, one := range missing {
		scope.Log(vql.LevelWarn, "timeline: %d rows of %s are missing", one.Rows, one.Child)
	}
	return err
})

// chosen are the children that are meant. Those that are named and not there are told.
func (a *timelineArgs) chosen(scope *vql.Scope, t *notebooks.Timeline) []notebooks.Child {
	var out []notebooks.Child
	known := map[string]bool{}
	for _, c := range t.Children {
		known[c.Name] = true
		if (len(a.Components) == 0 || slices.Contains(a.Components, c.Name)) && !slices.Contains(a.Skip, c.Name) {
			out = append(out, c)
		}
	}
	var strange []string
	for _, name := range a.Components {
		if !known[name] {
			strange = append(strange, name)
		}
	}
	if len(strange) > 0 {
		scope.Log(vql.LevelWarn, "timeline: %.100s has no %.300s", t.Name, strings.Join(strange, ", "))
	}
	return out
}

// ownColumns are those that timeline() adds to a row.
var ownColumns = []string{"Timestamp", "Message", "Description", "_Source"}

// mergedRow is a row as timeline() shows it. The columns that message and description
// come from are not repeated where they are called so anyway.
func mergedRow(r notebooks.Row) (*vql.Dict, error) {
	row, err := decodeRow(r.JSON)
	if err != nil {
		return nil, err
	}
	from := map[string]string{"Timestamp": r.Child.Key, "Message": columnOr(r.Child.MessageColumn, "Message"), "Description": columnOr(r.Child.DescriptionColumn, "Description")}
	out := vql.NewDict().Set("Timestamp", r.At).Set("Message", cell(row, from["Message"])).Set("Description", cell(row, from["Description"]))
	for _, item := range row.Items() {
		name := item.Key
		if slices.Contains(ownColumns, name) {
			if from[name] == name {
				continue
			}
			name = "row_" + name
		}
		out.Set(name, item.Value)
	}
	return out.Set("_Source", r.Child.Name), nil
}

func columnOr(name, usual string) string {
	if name == "" {
		return usual
	}
	return name
}

// cell is a row's column, "" if it has none.
func cell(row *vql.Dict, column string) vql.Value {
	if v, ok := row.Get(column); ok && !vql.IsNull(v) {
		return v
	}
	return ""
}
