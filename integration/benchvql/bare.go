package main

import (
	"context"
	"encoding/json"
	"io"
	"log"

	"github.com/Velocidex/ordereddict"
	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/aggregators"
	"www.velocidex.com/golang/vfilter/arg_parser"
	"www.velocidex.com/golang/vfilter/plugins"
	"www.velocidex.com/golang/vfilter/types"
)

// bareScope is the engine with its own scope, plugins and functions. What it lacks,
// parse_json, eval and numbers, is written as its documentation shows it.
func bareScope(n int) types.Scope {
	scope := vfilter.NewScope()
	scope.SetLogger(log.New(io.Discard, "", 0))
	scope.SetGrouper(mapGrouper{})
	scope.AppendFunctions(&parseJSON{}, &evalLambda{})
	scope.AppendPlugins(plugins.GenericListPlugin{PluginName: "unused"}, numbersSource{})
	return scope.AppendVars(ordereddict.NewDict().Set("N", int64(n)))
}

// runBare runs a program on the bare engine; rows go to out as JSON lines.
func runBare(ctx context.Context, text string, n int, out io.Writer) (rows int, err error) {
	scope := bareScope(n)
	defer scope.Close()
	statements, err := vfilter.MultiParse(text)
	if err != nil {
		return 0, err
	}
	for _, statement := range statements {
		for row := range statement.Eval(ctx, scope) {
			rows++
			if out == nil {
				continue
			}
			line, err := json.Marshal(vfilter.RowToDict(ctx, scope, row))
			if err != nil {
				return rows, err
			}
			if _, err := out.Write(append(line, '\n')); err != nil {
				return rows, err
			}
		}
	}
	return rows, nil
}

// mapGrouper groups in a map. The engine's own grouper never closes a row's scope,
// so that its time goes by the square of the rows.
type mapGrouper struct{}

type bareGroup struct {
	row   *ordereddict.Dict
	state types.AggregatorCtx
}

// Group implements the engine's grouper.
func (mapGrouper) Group(ctx context.Context, scope types.Scope, actor types.GroupbyActor) <-chan types.Row {
	out := make(chan types.Row) // hand-over: waits until the row is wanted
	go func() {
		defer close(out)
		base := scope.Copy()
		defer base.Close()
		groups, order := map[string]*bareGroup{}, []*bareGroup{}
		for {
			row, _, key, rowScope, err := actor.GetNextRow(ctx, base)
			if err != nil { // the engine's way to say that there are no more rows
				break
			}
			g, known := groups[key]
			if !known {
				g = &bareGroup{state: aggregators.NewAggregatorCtx()}
				groups[key] = g
				order = append(order, g)
			}
			rowScope.SetAggregatorCtx(g.state)
			g.row = actor.MaterializeRow(ctx, row, rowScope)
			rowScope.Close()
		}
		for _, g := range order {
			select {
			case out <- g.row:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// numbersSource is numbersPlugin for the engine.
type numbersSource struct{}

// Info implements the engine's plugin.
func (numbersSource) Info(types.Scope, *types.TypeMap) *types.PluginInfo {
	return &types.PluginInfo{Name: "numbers"}
}

type numbersSourceArgs struct {
	End int64 `vfilter:"required,field=end"`
}

// Call implements the engine's plugin.
func (numbersSource) Call(ctx context.Context, scope types.Scope, args *ordereddict.Dict) <-chan types.Row {
	out := make(chan types.Row) // hand-over: waits until the row is wanted
	go func() {
		defer close(out)
		arg := numbersSourceArgs{}
		if err := arg_parser.ExtractArgsWithContext(ctx, scope, args, &arg); err != nil {
			scope.Log("numbers: %v", err)
			return
		}
		for i := range arg.End {
			select {
			case out <- numbersRow(i):
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// parseJSON is parse_json for the engine.
type parseJSON struct{}

type parseJSONArgs struct {
	Data string `vfilter:"required,field=data"`
}

// Info implements the engine's function.
func (*parseJSON) Info(types.Scope, *types.TypeMap) *types.FunctionInfo {
	return &types.FunctionInfo{Name: "parse_json"}
}

// Call implements the engine's function.
func (*parseJSON) Call(ctx context.Context, scope types.Scope, args *ordereddict.Dict) types.Any {
	arg := parseJSONArgs{}
	if err := arg_parser.ExtractArgsWithContext(ctx, scope, args, &arg); err != nil {
		scope.Log("parse_json: %v", err)
		return vfilter.Null{}
	}
	out := ordereddict.NewDict()
	if err := json.Unmarshal([]byte(arg.Data), out); err != nil {
		scope.Log("parse_json: %v", err)
		return vfilter.Null{}
	}
	return out
}

// evalLambda is eval for the engine; it keeps the last lambda it parsed.
type evalLambda struct {
	text   string
	parsed *vfilter.Lambda
}

type evalLambdaArgs struct {
	Func string        `vfilter:"required,field=func"`
	Args types.LazyAny `vfilter:"optional,field=args"`
}

// Info implements the engine's function.
func (*evalLambda) Info(types.Scope, *types.TypeMap) *types.FunctionInfo {
	return &types.FunctionInfo{Name: "eval"}
}

// Call implements the engine's function.
func (e *evalLambda) Call(ctx context.Context, scope types.Scope, args *ordereddict.Dict) types.Any {
	arg := evalLambdaArgs{}
	if err := arg_parser.ExtractArgsWithContext(ctx, scope, args, &arg); err != nil {
		scope.Log("eval: %v", err)
		return vfilter.Null{}
	}
	if e.parsed == nil || e.text != arg.Func {
		parsed, err := vfilter.ParseLambda(arg.Func)
		if err != nil {
			scope.Log("eval: %v", err)
			return vfilter.Null{}
		}
		e.text, e.parsed = arg.Func, parsed
	}
	value := arg.Args
	if lazy, ok := value.(types.LazyExpr); ok {
		value = lazy.Reduce(ctx)
	}
	return e.parsed.Reduce(ctx, scope, []types.Any{value})
}
