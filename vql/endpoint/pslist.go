package endpoint

import (
	"context"
	"os"
	"strconv"
	"time"

	"raptorpack/vql"
)

type pslistArgs struct {
	Pid *int64 `vql:"pid" doc:"Show this process only."`
}

var pslistPlugin = vql.NewPlugin(vql.Spec{
	Name: "pslist", Permission: "MACHINE_STATE",
	Doc:     "Lists processes. With pid one that the listing hides is shown with Hidden.",
	Columns: []string{"Pid", "Name", "Ppid", "CommandLine", "CreateTime", "Times", "Exe", "Cwd", "Username", "MemoryInfo"},
}, runPslist)

var getpidFunction = vql.NewFunction(vql.Spec{
	Name: "getpid", Permission: "MACHINE_STATE", Doc: "Gives our own process id.",
}, func(context.Context, *vql.Scope, *struct{}) (vql.Value, error) {
	return int64(os.Getpid()), nil
})

type pskillArgs struct {
	Pid int64 `vql:"pid,required" doc:"The process to end."`
}

var pskillFunction = vql.NewFunction(vql.Spec{
	Name: "pskill", Permission: "EXECVE", Doc: "Ends a process at once; NULL, or the text of what went wrong.",
}, func(_ context.Context, scope *vql.Scope, args *pskillArgs) (vql.Value, error) {
	if args.Pid <= 0 { // would address whole groups of processes
		return "invalid process id", nil
	}
	p, err := os.FindProcess(int(args.Pid))
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		return err.Error(), nil
	}
	scope.Log(vql.LevelInfo, "pskill: killed process %d", args.Pid)
	return nil, nil
})

// The process_tracker primitives stand on the living processes as long as no
// tracker is installed that also remembers the dead.

type trackerArgs struct {
	ID       string `vql:"id,required" doc:"The process id."`
	MaxItems int64  `vql:"max_items" doc:"At most so many entries."`
}

// trackerID is a process id of a pslist row as the tracker writes it.
func trackerID(row *vql.Dict, key string) string {
	v, _ := row.Get(key)
	n, ok := v.(int64)
	if !ok {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// trackerEntry makes an entry of a pslist row. children lists the ids of the
// processes that it has started; it is called when somebody reads them.
func trackerEntry(row *vql.Dict, children func(id string) []string) *vql.Dict {
	id := trackerID(row, "Pid")
	created, _ := row.Get("CreateTime")
	d := vql.NewDict()
	d.Set("Id", id)
	d.Set("ParentId", trackerID(row, "Ppid"))
	d.Set("StartTime", created)
	d.Set("EndTime", time.Time{})
	d.Set("Data", row)
	d.Set("Children", vql.LazyCell(func() vql.Value { return nonNilStrings(children(id)) }))
	return d
}

func nonNilStrings(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// trackerEntries makes entries of all processes of one moment.
func trackerEntries(rows []*vql.Dict) []*vql.Dict {
	below := map[string][]string{}
	for _, row := range rows {
		parent := trackerID(row, "Ppid")
		below[parent] = append(below[parent], trackerID(row, "Pid"))
	}
	out := make([]*vql.Dict, len(rows))
	for i, row := range rows {
		out[i] = trackerEntry(row, func(id string) []string { return below[id] })
	}
	return out
}

// childrenNow asks the system for the children of a process: one listing for each
// entry whose Children are read.
func childrenNow(ctx context.Context, scope *vql.Scope) func(id string) []string {
	return func(id string) []string {
		rows, err := allProcesses(ctx)
		if err != nil {
			scope.Log(vql.LevelWarn, "process_tracker: the children of %s: %v", id, err)
			return nil
		}
		var out []string
		for _, row := range rows {
			if trackerID(row, "Ppid") == id {
				out = append(out, trackerID(row, "Pid"))
			}
		}
		return out
	}
}

func trackedProcess(ctx context.Context, scope *vql.Scope, id string) *vql.Dict {
	pid, err := strconv.ParseInt(id, 10, 64)
	if err != nil || pid <= 0 {
		return nil
	}
	row := readOne(ctx, pid)
	if row == nil {
		return nil
	}
	return trackerEntry(row, childrenNow(ctx, scope))
}

var trackerGetFunction = vql.NewFunction(vql.Spec{
	Name: "process_tracker_get", Doc: "Gives the tracked process of an id, or NULL.",
}, func(ctx context.Context, scope *vql.Scope, args *trackerArgs) (vql.Value, error) {
	entry := trackedProcess(ctx, scope, args.ID)
	if entry == nil {
		return nil, nil
	}
	return entry, nil
})

var trackerCallchainFunction = vql.NewFunction(vql.Spec{
	Name: "process_tracker_callchain", Doc: "Lists a process and its ancestors, the root last.",
}, func(ctx context.Context, scope *vql.Scope, args *trackerArgs) (vql.Value, error) {
	limit := args.MaxItems
	if limit <= 0 {
		limit = 10
	}
	out := []vql.Value{}
	seen := map[string]bool{}
	for id := args.ID; int64(len(out)) < limit && !seen[id]; {
		seen[id] = true
		if err := scope.Charge(ctx); err != nil {
			return nil, err
		}
		entry := trackedProcess(ctx, scope, id)
		if entry == nil {
			break
		}
		out = append(out, entry)
		parent, _ := entry.Get("ParentId")
		id, _ = parent.(string)
	}
	return out, nil
})

var trackerChildrenFunction = vql.NewFunction(vql.Spec{
	Name: "process_tracker_children", Doc: "Lists the children of a process.",
}, func(ctx context.Context, _ *vql.Scope, args *trackerArgs) (vql.Value, error) {
	limit := args.MaxItems
	if limit <= 0 {
		limit = 100
	}
	rows, err := allProcesses(ctx)
	if err != nil {
		return nil, err
	}
	out := []vql.Value{}
	for _, entry := range trackerEntries(rows) {
		if parent, _ := entry.Get("ParentId"); parent == args.ID && int64(len(out)) < limit {
			out = append(out, entry)
		}
	}
	return out, nil
})

var trackerAllFunction = vql.NewFunction(vql.Spec{
	Name: "process_tracker_all", Doc: "Lists all tracked processes.",
}, func(ctx context.Context, _ *vql.Scope, _ *struct{}) (vql.Value, error) {
	rows, err := allProcesses(ctx)
	if err != nil {
		return nil, err
	}
	out := []vql.Value{}
	for _, entry := range trackerEntries(rows) {
		out = append(out, entry)
	}
	return out, nil
})

type trackerTreeArgs struct {
	ID           string     `vql:"id" doc:"The process at the top (every process without a parent)."`
	DataCallback vql.Lambda `vql:"data_callback" doc:"A lambda on an entry that makes its data."`
	MaxItems     int64      `vql:"max_items" doc:"At most so many processes (1000)."`
}

var trackerTreeFunction = vql.NewFunction(vql.Spec{
	Name: "process_tracker_tree", Doc: "Gives the tree of processes below one.",
}, func(ctx context.Context, scope *vql.Scope, args *trackerTreeArgs) (vql.Value, error) {
	rows, err := allProcesses(ctx)
	if err != nil {
		return nil, err
	}
	t := newProcessTree(ctx, scope, args, rows)
	if args.ID != "" {
		entry, ok := t.entries[args.ID]
		if !ok {
			return nil, nil
		}
		return t.node(args.ID, entry), nil
	}
	top := vql.NewDict()
	top.Set("name", "System")
	top.Set("id", "0")
	top.Set("children", t.children("0"))
	return top, nil
})

// processTree builds the tree of one moment's processes.
type processTree struct {
	ctx     context.Context
	scope   *vql.Scope
	args    *trackerTreeArgs
	entries map[string]*vql.Dict
	below   map[string][]string // children, in order of their ids
	left    int64
	seen    map[string]bool
}

func newProcessTree(ctx context.Context, scope *vql.Scope, args *trackerTreeArgs, rows []*vql.Dict) *processTree {
	t := &processTree{
		ctx: ctx, scope: scope, args: args, left: args.MaxItems,
		entries: map[string]*vql.Dict{}, below: map[string][]string{}, seen: map[string]bool{},
	}
	if t.left <= 0 {
		t.left = 1000
	}
	var ids []string
	for _, entry := range trackerEntries(rows) {
		id, _ := entry.Get("Id")
		text, _ := id.(string)
		t.entries[text] = entry
		ids = append(ids, text)
	}
	for _, id := range ids {
		parent, _ := t.entries[id].Get("ParentId")
		up, _ := parent.(string)
		if _, alive := t.entries[up]; !alive || up == id {
			up = "0" // orphans belong to the top
		}
		t.below[up] = append(t.below[up], id)
	}
	return t
}

func (t *processTree) node(id string, entry *vql.Dict) *vql.Dict {
	t.seen[id] = true
	t.left--
	data, _ := entry.Get("Data")
	row, _ := data.(*vql.Dict)
	if t.args.DataCallback.Given() {
		data = t.args.DataCallback.Call(t.ctx, t.scope, entry)
	}
	name, _ := row.Get("Name")
	start, _ := entry.Get("StartTime")
	end, _ := entry.Get("EndTime")
	d := vql.NewDict()
	d.Set("name", name)
	d.Set("id", id)
	d.Set("data", data)
	d.Set("start_time", start)
	d.Set("end_time", end)
	d.Set("children", t.children(id))
	return d
}

func (t *processTree) children(id string) []vql.Value {
	out := []vql.Value{}
	for _, child := range t.below[id] {
		if t.left <= 0 || t.seen[child] || t.ctx.Err() != nil {
			continue
		}
		out = append(out, t.node(child, t.entries[child]))
	}
	return out
}

var trackerPslistPlugin = vql.NewPlugin(vql.Spec{
	Name:    "process_tracker_pslist",
	Doc:     "Lists tracked processes with ids as text.",
	Columns: []string{"Pid", "Ppid", "Name", "StartTime", "EndTime", "Username", "Exe", "CommandLine"},
}, func(ctx context.Context, _ *vql.Scope, _ *struct{}, emit vql.Emit) error {
	rows, err := allProcesses(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		created, _ := row.Get("CreateTime")
		out := vql.NewDict()
		out.Set("Pid", trackerID(row, "Pid"))
		out.Set("Ppid", trackerID(row, "Ppid"))
		for _, key := range row.Keys() {
			if key == "Pid" || key == "Ppid" {
				continue
			}
			v, _ := row.Get(key)
			out.Set(key, v)
		}
		out.Set("StartTime", created)
		out.Set("EndTime", time.Time{})
		if err := emit(out); err != nil {
			return err
		}
	}
	return nil
})
