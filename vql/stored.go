package vql

import (
	"context"
	"slices"

	"github.com/Velocidex/ordereddict"
	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/types"
)

// storedQuery is LET name = SELECT, and LET name(parameters) = SELECT. It stands in
// for the engine's own, which runs a goroutine more for each use.
type storedQuery struct {
	engine     types.StoredQuery // the engine's own: it knows the defaults
	query      *vfilter.VQL      // holds the SELECT
	name       string
	parameters []string
}

// define runs a LET statement.
func (s *Scope) define(ctx context.Context, stmt *Statement) {
	if stmt.Kind != KindLet || stmt.parsed.StoredQuery == nil {
		drain(stmt.parsed.Eval(ctx, s.inner))
		return
	}
	scratch := s.inner.Copy()
	defer scratch.Close()
	drain(stmt.parsed.Eval(ctx, scratch))
	made, _ := scratch.Resolve(stmt.Name)
	engine, ok := made.(types.StoredQuery)
	if !ok { // the scope is too deep to define anything
		return
	}
	q := &storedQuery{engine: engine, query: &vfilter.VQL{Query: stmt.parsed.StoredQuery}, name: stmt.Name}
	for _, p := range stmt.Parameters {
		q.parameters = append(q.parameters, p.Name)
	}
	s.inner.AppendVars(NewDict().Set(stmt.Name, q))
}

// Eval implements the engine's stored query.
func (q *storedQuery) Eval(ctx context.Context, inner types.Scope) <-chan types.Row {
	return generate(ctx, inner, func(emit Emit) error {
		return scopeOf(inner).runRecords(ctx, q, dictRows(emit))
	})
}

// ApplyDefaults implements the engine's hook on the arguments of a call.
func (q *storedQuery) ApplyDefaults(ctx context.Context, inner types.Scope, args *ordereddict.Dict) {
	types.MaybeApplyDefaultArgs(q.engine, ctx, inner, args)
}

// Info implements the engine's plugin.
func (q *storedQuery) Info(types.Scope, *types.TypeMap) *types.PluginInfo {
	return &types.PluginInfo{Name: q.name, FreeFormArgs: true}
}

// Call implements the engine's plugin.
func (q *storedQuery) Call(ctx context.Context, inner types.Scope, args *ordereddict.Dict) <-chan types.Row {
	return generate(ctx, inner, func(emit Emit) error {
		return q.call(ctx, scopeOf(inner), args, dictRows(emit))
	})
}

// call runs the query with arguments: aggregates start afresh, and queries among
// the arguments are materialised first.
func (q *storedQuery) call(ctx context.Context, s *Scope, args *Dict, emit Emit) error {
	q.check(s, args)
	child := s.with(s.inner.Copy())
	defer child.inner.Close()
	child.inner.SetAggregatorCtx(nil)
	vars := NewDict()
	for _, item := range args.Items() {
		vars.Set(item.Key, child.bound(ctx, item.Value))
	}
	child.inner.AppendVars(vars)
	return child.runSelect(ctx, q.query, emit)
}

func (s *Scope) bound(ctx context.Context, v any) Value {
	switch t := v.(type) {
	case types.LazyExpr:
		return t.Reduce(ctx)
	case types.Materializer:
		return t.Materialize(ctx, s.inner)
	case types.StoredQuery:
		return s.rowsOf(ctx, t)
	}
	return v
}

// check logs arguments that the query does not know and those it lacks.
func (q *storedQuery) check(s *Scope, args *Dict) {
	if q.parameters == nil {
		return
	}
	given := args.Keys()
	for _, name := range given {
		if !slices.Contains(q.parameters, name) {
			s.Log(LevelError, "Extra unrecognized arg %v when calling %v", name, q.name)
		}
	}
	for _, name := range q.parameters {
		if !slices.Contains(given, name) && len(given) < len(q.parameters) {
			s.Log(LevelError, "Missing arg %v when calling %v", name, q.name)
		}
	}
}
