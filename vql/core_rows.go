package vql

import (
	"context"
	"errors"
	"regexp"
	"sync"
)

func rowPlugins() []*Plugin {
	return []*Plugin{
		NewPlugin(Spec{Name: "scope", Doc: "One row without columns of its own."}, scopePlugin),
		NewPlugin(Spec{Name: "range", Doc: "Counts from start to end, exclusive.", Columns: []string{"_value"}}, rangePlugin),
		NewPlugin(Spec{Name: "if", Doc: "Runs then when condition is true, else otherwise."}, ifPlugin),
		NewPlugin(Spec{Name: "foreach", Doc: "Runs query once for each row, with the row's columns as variables."}, foreachPlugin),
		NewPlugin(Spec{Name: "flatten", Doc: "Expands cells that hold several values, in all combinations."}, flattenPlugin),
		NewPlugin(Spec{Name: "items", Doc: "Lists a container's members.", Columns: []string{"_key", "_value"}}, itemsPlugin),
		NewPlugin(Spec{Name: "column_filter", Doc: "Keeps columns by regexes."}, columnFilterPlugin),
	}
}

type scopePluginArgs struct{ Rest Rest }

func scopePlugin(_ context.Context, _ *Scope, _ *scopePluginArgs, emit Emit) error {
	return emit(NewDict())
}

type rangeArgs struct {
	Start int64 `vql:"start" doc:"The first number (0)."`
	End   int64 `vql:"end,required" doc:"The number to stop before."`
	Step  int64 `vql:"step" doc:"The distance (1)."`
}

func rangePlugin(_ context.Context, _ *Scope, args *rangeArgs, emit Emit) error {
	step := args.Step
	if step == 0 {
		step = 1
	}
	if step < 0 {
		if args.Start >= args.End {
			return nil
		}
		return errors.New("a negative step never reaches the end")
	}
	for i := args.Start; i < args.End; i += step {
		if err := emit(NewDict().Set("_value", i)); err != nil {
			return err
		}
		if i > args.End-step { // the next addition could pass the largest number
			return nil
		}
	}
	return nil
}

type ifPluginArgs struct {
	Condition Value `vql:"condition,required" doc:"What decides."`
	Then      Query `vql:"then,required" doc:"The rows when it is true."`
	Else      Query `vql:"else" doc:"The rows otherwise."`
}

func ifPlugin(ctx context.Context, scope *Scope, args *ifPluginArgs, emit Emit) error {
	if scope.Truth(args.Condition) {
		return args.Then.records(ctx, scope, emit)
	}
	return args.Else.records(ctx, scope, emit)
}

type foreachArgs struct {
	Row     Lazy   `vql:"row,required" doc:"A query, list or value."`
	Query   Query  `vql:"query" doc:"Run for each row; without it the rows themselves come out."`
	Async   bool   `vql:"async" doc:"Use 100 workers."`
	Workers int64  `vql:"workers" doc:"How many queries run at the same time (1)."`
	Column  string `vql:"column" doc:"Use this column's value as the row."`
}

// maxWorkers bounds the queries that one foreach runs at the same time: from 1000
// copies of one scope on, the engine prints its stack.
const maxWorkers = 900

func foreachPlugin(ctx context.Context, scope *Scope, args *foreachArgs, emit Emit) error {
	source := args.Row.Value(ctx, scope)
	rows := func(each Emit) error {
		if args.Column == "" {
			return scope.iterate(ctx, source, scope.elements(each))
		}
		return scope.iterate(ctx, source, func(row Value) error {
			cell, ok := scope.Member(row, args.Column)
			if !ok {
				cell = NULL
			}
			return each(scope.force(ctx, cell))
		})
	}
	workers := args.Workers
	if args.Async && workers == 0 {
		workers = 100
	}
	if !args.Query.Given() {
		return rows(emit)
	}
	if workers <= 1 {
		return rows(func(row Value) error { return scope.perRow(ctx, row, args.Query, emit) })
	}
	workers = min(workers, maxWorkers)
	scope.Log(LevelDebug, "Creating %d workers for foreach plugin", workers)
	return scope.foreachWorkers(ctx, int(workers), rows, args.Query, emit)
}

func (s *Scope) perRow(ctx context.Context, row Value, query Query, emit Emit) error {
	child := s.ChildRow(row)
	defer child.Close()
	return query.records(ctx, child, emit)
}

// foreachWorkers runs the query for several rows at the same time; rows are
// handed out one by one, in free order.
func (s *Scope) foreachWorkers(ctx context.Context, workers int, rows func(Emit) error, query Query, emit Emit) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan Value) // hand-over: a row is read when a worker is free
	shared := serial(emit)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			defer s.session.recovered("foreach")
			for row := range queue {
				if err := s.perRow(ctx, row, query, shared); err != nil {
					cancel(err)
				}
			}
		})
	}
	err := rows(func(row Value) error {
		select {
		case queue <- row:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(queue)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// serial lets several goroutines use one emit. After its first error it fails
// without calling it again.
func serial(emit Emit) Emit {
	turn := make(chan error, 1) // holds the last error; taking it is taking the turn
	turn <- nil
	return func(row Value) error {
		err := <-turn
		if err == nil {
			err = emit(row)
		}
		turn <- err
		return err
	}
}

type queryArgs struct {
	Query Query `vql:"query,required" doc:"The rows."`
}

func flattenPlugin(ctx context.Context, scope *Scope, args *queryArgs, emit Emit) error {
	return args.Query.Run(ctx, scope, func(row Value) error {
		d := scope.Row(ctx, row)
		return scope.flatten(ctx, d, len(d.Keys())-1, emit)
	})
}

// flatten expands the columns up to index, the first one fastest.
func (s *Scope) flatten(ctx context.Context, row *Dict, index int, emit Emit) error {
	if index < 0 {
		return emit(row)
	}
	column := row.Keys()[index]
	cell, _ := row.Get(column)
	some := false
	err := s.Iterate(ctx, cell, func(member Value) error {
		some = true
		if d, ok := member.(*Dict); ok {
			if v, has := d.Get("_value"); has {
				member = v
			}
		}
		fresh := NewDict()
		fresh.MergeFrom(row)
		fresh.Update(column, member)
		return s.flatten(ctx, fresh, index-1, emit)
	})
	if err != nil || some {
		return err
	}
	return s.flatten(ctx, row, index-1, emit)
}

func itemsPlugin(ctx context.Context, scope *Scope, args *itemArgs, emit Emit) error {
	return scope.eachItem(ctx, args.Item, func(key, value Value) error {
		return emit(NewDict().Set("_key", key).Set("_value", value))
	})
}

type columnFilterArgs struct {
	Query   Query    `vql:"query,required" doc:"The rows."`
	Exclude []string `vql:"exclude" doc:"Regexes of columns to drop."`
	Include []string `vql:"include" doc:"Regexes of columns to keep; all unless given."`
}

func columnFilterPlugin(ctx context.Context, scope *Scope, args *columnFilterArgs, emit Emit) error {
	include, err := compileAll(args.Include)
	if err != nil {
		return err
	}
	exclude, err := compileAll(args.Exclude)
	if err != nil {
		return err
	}
	return args.Query.Run(ctx, scope, func(row Value) error {
		out := NewDict()
		for _, item := range scope.Row(ctx, row).Items() {
			if (len(include) == 0 || matchesAny(include, item.Key)) && !matchesAny(exclude, item.Key) {
				out.Set(item.Key, item.Value)
			}
		}
		return emit(out)
	})
}

func compileAll(patterns []string) ([]*regexp.Regexp, error) {
	out := make([]*regexp.Regexp, 0, len(patterns))
	for _, p := range patterns {
		re, err := regexp.Compile("(?i)" + p)
		if err != nil {
			return nil, err
		}
		out = append(out, re)
	}
	return out, nil
}

func matchesAny(patterns []*regexp.Regexp, text string) bool {
	for _, re := range patterns {
		if re.MatchString(text) {
			return true
		}
	}
	return false
}
