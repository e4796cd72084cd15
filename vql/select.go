package vql

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/types"
)

// selection is one run of a SELECT. The engine runs a goroutine for each stage and
// hands rows over one by one, which costs more than evaluating them; here a row
// goes through all stages on the goroutine of its source. Expressions stay the
// engine's. EXPLAIN, whose trace the engine writes, and sources that only the
// engine knows are left to it.
type selection struct {
	scope  *Scope
	inner  types.Scope
	query  *vfilter.VQL    // holds the SELECT, whose type has no name here
	ctx    context.Context //nolint:containedctx // for the time of the run: cells need it
	ops    opCharger
	layout *layout

	keyName string // of GROUP BY, when it is nothing but a name
	full    bool   // the memory is
}

// selectOf tells whether a query is the engine's SELECT. The result holds it: its
// type has no name outside of the engine.
func selectOf(q types.StoredQuery) (*vfilter.VQL, bool) {
	out := &vfilter.VQL{}
	found, ok := sameType(out.Query, q)
	out.Query = found
	return out, ok
}

func sameType[T any](_ T, v any) (T, bool) {
	t, ok := v.(T)
	return t, ok
}

// opCharger charges one op for a row and returns an error when the query has to
// stop.
type opCharger interface {
	chargeRow(ctx context.Context) error
}

// chargerKey finds the charger of a query that has limits of its own.
type chargerKey struct{}

func (s *session) chargeRow(ctx context.Context) error {
	err := s.charge(ctx)
	if err != nil && ctx.Err() == nil {
		s.stop(ctx, err)
	}
	return err
}

// runSelect runs a SELECT in s and hands its rows, records or the engine's dicts,
// to emit. It returns what emit returned, or why the query had to stop.
func (s *Scope) runSelect(ctx context.Context, query *vfilter.VQL, emit Emit) error {
	if _, tracing := s.inner.Explainer().(explainer); tracing || query.Query.Explain != nil {
		return s.runEngine(ctx, query.Query, emit)
	}
	x := &selection{scope: s, inner: s.inner, query: query, ctx: ctx, ops: s.session}
	if own, ok := ctx.Value(chargerKey{}).(opCharger); ok {
		x.ops = own
	}
	if query.Query.Limit == nil {
		return x.ordered(emit)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // for what sources do beside their rows
	x.ctx = ctx
	return x.limited(*query.Query.Limit, emit)
}

// runEngine leaves a query to the engine.
func (s *Scope) runEngine(ctx context.Context, q types.StoredQuery, emit Emit) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := forward(ctx, cancel, q.Eval(ctx, s.inner), emit); err != nil {
		return err
	}
	return s.session.alive(ctx)
}

// limited ends the query after the row that reaches the limit: LIMIT 0 gives one.
func (x *selection) limited(limit int64, emit Emit) error {
	count, full := int64(0), false
	err := x.ordered(func(row Value) error {
		if err := emit(row); err != nil {
			return err
		}
		if count++; count >= limit {
			full = true
			return ErrStop
		}
		return nil
	})
	if full && errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

func (x *selection) ordered(emit Emit) error {
	sel := x.query.Query
	if sel.OrderBy == nil {
		return x.grouped(emit)
	}
	m := &merger{scope: x.scope, desc: sel.OrderByDesc != nil && *sel.OrderByDesc}
	defer m.close()
	key := unquoteIdent(*sel.OrderBy)
	var broken error // of the temporary file: a log line, and no rows
	err := x.grouped(func(row Value) error {
		broken = m.add(row, x.scope.keyOf(x.ctx, row, key))
		return broken
	})
	return x.sorted("ORDER BY", broken, err, func() error { return m.emit(x.ctx, emit) })
}

func (x *selection) grouped(emit Emit) error {
	if x.query.Query.GroupBy == nil {
		return x.rows(func(row *lazyRecord) error {
			out := row.finish()
			return emit(&out)
		})
	}
	if by := x.query.Query.GroupBy; len(by.Right) == 0 {
		x.keyName = bareName(vfilter.Lambda{Expression: by.Left})
	}
	gs := &groups{scope: x.scope, byKey: map[string]*group{}}
	defer gs.close()
	var broken error
	err := x.rows(func(row *lazyRecord) error {
		broken = gs.take(x.groupKey(row), func(state *aggregates) record {
			row.scope.SetAggregatorCtx(state)
			return row.finish()
		})
		return broken
	})
	return x.sorted("GROUP BY", broken, err, func() error { return gs.emit(x.ctx, emit) })
}

// sorted goes on to emit when all rows were taken in.
func (x *selection) sorted(clause string, broken, err error, emit func() error) error {
	switch {
	case broken != nil:
		x.scope.Log(LevelError, "%s: %v", clause, broken)
		return nil
	case err != nil:
		return err
	}
	return emit()
}

// groupKey is the text of the key.
func (x *selection) groupKey(row *lazyRecord) string {
	var key Value
	found := false
	if x.keyName != "" {
		key, found = row.read(x.keyName)
	}
	if !found {
		key = x.query.Query.GroupBy.Reduce(x.ctx, row.aliased())
	}
	switch key := key.(type) {
	case string:
		return key
	case int64:
		return strconv.FormatInt(key, 10)
	default:
		return types.ToString(x.ctx, row.aliased(), key)
	}
}

// rows hands the rows that WHERE lets through to each.
func (x *selection) rows(each func(row *lazyRecord) error) error {
	sel := x.query.Query
	stats := x.inner.GetStats()
	return x.source(func(source Value) error {
		stats.IncRowsScanned()
		if err := x.ops.chargeRow(x.ctx); err != nil {
			return err
		}
		inner := x.inner.Copy()
		defer inner.Close()
		inner.AppendVars(source)
		row := x.lazy(inner, source)
		if sel.Where != nil {
			if !x.inner.Bool(sel.Where.Reduce(x.ctx, row.aliased())) {
				return nil
			}
		}
		return each(row)
	})
}

// lazy makes the row of a SELECT, nothing of it evaluated.
func (x *selection) lazy(inner types.Scope, source Value) *lazyRecord {
	row := &lazyRecord{sel: x, scope: inner, source: source}
	if x.stars() {
		row.fixed = x.arrange(source)
	} else if x.layout == nil {
		x.layout = x.plan(nil)
	}
	row.layout = x.layout
	row.values = make([]Value, len(x.layout.names))
	for i := range row.values {
		row.values[i] = unread
	}
	return row
}

// stars reports whether there is a * among the columns.
func (x *selection) stars() bool {
	if x.layout != nil {
		return x.layout.source != nil
	}
	columns := x.query.Query.SelectExpression
	for _, column := range columns.Expressions {
		if column.Star != nil {
			return true
		}
	}
	return columns.All
}

// arrange lists the source's values and makes the layout that fits its columns.
func (x *selection) arrange(source Value) []Value {
	names, values := x.members(source)
	if x.layout == nil || !slices.Equal(x.layout.source, names) {
		x.layout = x.plan(names)
	}
	return values
}

// members lists the columns of a source's row.
func (x *selection) members(source Value) ([]string, []Value) {
	if r, ok := source.(*record); ok {
		return r.names, r.values
	}
	if d, ok := source.(*Dict); ok {
		r := recordOf(d)
		for i, v := range r.values {
			if IsNull(v) {
				r.values[i] = NULL
			}
		}
		return r.names, r.values
	}
	names, values := []string{}, []Value{}
	for _, name := range x.inner.GetMembers(source) {
		if v, ok := x.inner.Associative(source, name); ok {
			names, values = append(names, name), append(values, v)
		}
	}
	return names, values
}

// plan lays out the columns: those of a * in front are replaced by later ones of
// the same name, those of a * further right only fill in what is not named yet.
func (x *selection) plan(source []string) *layout {
	columns := x.query.Query.SelectExpression
	out := &layout{source: source}
	if columns.All {
		for i, name := range source {
			out.add(name, -1-i)
		}
	}
	out.bare = make([]string, len(columns.Expressions))
	out.calls = make([]*directCall, len(columns.Expressions))
	for cell, column := range columns.Expressions {
		if out.bare[cell] = bareName(vfilter.Lambda{Expression: column.Expression}); out.bare[cell] == "" {
			out.calls[cell] = x.directOf(cell)
		}
		name := column.GetName(x.inner)
		if name != "*" {
			out.add(name, cell)
			continue
		}
		for i, name := range source {
			if !slices.Contains(out.names, name) {
				out.add(name, -1-i)
			}
		}
	}
	return out
}

// cell evaluates a column; queries in cells are materialised. Once there is no
// memory for more, nothing is.
func (x *selection) cell(row *lazyRecord, i int, name string) Value {
	if x.full {
		return NULL
	}
	v := x.evaluate(row, i, name)
	if err := x.scope.session.weigh(v); err != nil {
		x.full = true
		x.scope.session.stop(x.ctx, err)
	}
	return v
}

func (x *selection) evaluate(row *lazyRecord, i int, name string) Value {
	column := x.query.Query.SelectExpression.Expressions[i]
	if column.SubSelect != nil {
		return x.scope.with(row.scope).subSelect(x.ctx, &vfilter.VQL{Query: column.SubSelect})
	}
	var v Value
	if call := row.calls[i]; call != nil {
		v = call.call(x.ctx, row)
	} else {
		v = column.Reduce(x.ctx, row.scope)
	}
	switch v := v.(type) {
	case types.Materializer:
		return v.Materialize(x.ctx, row.scope)
	case types.StoredQuery:
		return row.scope.Materialize(x.ctx, name, v)
	case nil:
		return NULL
	default:
		return v
	}
}

// subSelect is the value of a { SELECT } column: of its rows, each reduced to its
// cell where it has one column, the only one or all of them.
func (s *Scope) subSelect(ctx context.Context, query *vfilter.VQL) Value {
	var rows []any
	err := s.runSelect(ctx, query, func(row Value) error {
		if names := s.inner.GetMembers(row); len(names) == 1 {
			if cell, ok := s.inner.Associative(row, names[0]); ok {
				rows = append(rows, cell)
			}
			return nil
		}
		rows = append(rows, dictRow(row))
		return nil
	})
	if err != nil && !quiet(err) {
		s.Log(LevelError, "%v", err)
	}
	if len(rows) == 1 {
		return rows[0]
	}
	return rows
}
