package endpoint

import (
	"context"
	"runtime"
	"slices"
	"strings"

	"raptorpack/vql"
)

// maxGoroutines bounds the stacks of one look at the process.
const maxGoroutines = 100_000

type goroutinesArgs struct {
	Verbose bool `vql:"verbose" doc:"Show the runtime's own frames, too."`
}

var profileGoroutinesPlugin = vql.NewPlugin(vql.Spec{
	Name: "profile_goroutines", Permission: "MACHINE_STATE", Columns: []string{"Count", "CallStack"},
	Doc: "Lists what the goroutines of this process stand in, those that stand alike as one, the most first. CallStack holds {Name, File, Line}, the innermost first.",
}, func(ctx context.Context, scope *vql.Scope, args *goroutinesArgs, emit vql.Emit) error {
	if err := scope.Charge(ctx); err != nil {
		return err
	}
	records := make([]runtime.StackRecord, runtime.NumGoroutine()+64)
	n, complete := runtime.GoroutineProfile(records)
	for ; !complete && n <= maxGoroutines; n, complete = runtime.GoroutineProfile(records) {
		records = make([]runtime.StackRecord, n+n/8+64)
	}
	if !complete {
		scope.Log(vql.LevelWarn, "profile_goroutines: there are %d goroutines, at most %d are looked at", n, maxGoroutines)
		return nil
	}
	type group struct {
		stack []uintptr
		count int64
	}
	byStack := map[[32]uintptr]*group{}
	var groups []*group
	for i := range records[:n] {
		r := &records[i]
		if byStack[r.Stack0] == nil {
			byStack[r.Stack0] = &group{stack: r.Stack()}
			groups = append(groups, byStack[r.Stack0])
		}
		byStack[r.Stack0].count++
	}
	slices.SortStableFunc(groups, func(a, b *group) int { return int(b.count - a.count) })
	for _, g := range groups {
		if err := emit(vql.NewDict().Set("Count", g.count).Set("CallStack", callStack(g.stack, args.Verbose))); err != nil {
			return err
		}
	}
	return nil
})

// callStack names the frames of a stack.
func callStack(stack []uintptr, verbose bool) []any {
	out := []any{}
	if len(stack) == 0 {
		return out
	}
	for frames, more := runtime.CallersFrames(stack), true; more; {
		var f runtime.Frame
		if f, more = frames.Next(); !verbose && strings.HasPrefix(f.Function, "runtime.") {
			continue
		}
		out = append(out, vql.NewDict().Set("Name", f.Function).Set("File", f.File).Set("Line", int64(f.Line)))
	}
	return out
}

var profileMemoryPlugin = vql.NewPlugin(vql.Spec{
	Name: "profile_memory", Permission: "MACHINE_STATE", Columns: []string{"InUseBytes", "InUseObjects", "CallStack"},
	Doc: "Lists what memory of this process is in use by who asked for it, the most first, as sampled by the runtime at its last collection.",
}, func(ctx context.Context, scope *vql.Scope, _ *struct{}, emit vql.Emit) error {
	if err := scope.Charge(ctx); err != nil {
		return err
	}
	n, complete := runtime.MemProfile(nil, false)
	var records []runtime.MemProfileRecord
	for range 10 { // it grows while it is asked for
		if records = make([]runtime.MemProfileRecord, n+n/8+64); complete {
			break
		}
		if n, complete = runtime.MemProfile(records, false); complete {
			records = records[:n]
			break
		}
	}
	slices.SortStableFunc(records, func(a, b runtime.MemProfileRecord) int { return int(b.InUseBytes() - a.InUseBytes()) })
	for i := range records {
		r := &records[i]
		row := vql.NewDict().Set("InUseBytes", r.InUseBytes()).Set("InUseObjects", r.InUseObjects()).Set("CallStack", callStack(r.Stack(), true))
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
})
