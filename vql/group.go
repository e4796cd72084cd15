package vql

import (
	"context"
	"slices"
	"sync"

	"www.velocidex.com/golang/vfilter/types"
)

// grouper is GROUP BY: groups come out in order of first appearance. Each group
// keeps its last row and the state of its aggregates; beyond Limits.SpillBytes
// both go to a temporary file and come back when the group's next row does. What
// stays in memory for each group is its key and an offset.
type grouper struct{ session *session }

// group is one group; row and state are nil while it is on disk.
type group struct {
	row    *record
	state  *aggregates
	bytes  int64
	offset int64
	spilt  bool
}

// groups are those of one GROUP BY.
type groups struct {
	scope  *Scope
	byKey  map[string]*group
	order  []*group
	memory []*group // those in memory
	bytes  int64
	file   *spillFile
}

// Group implements the engine's grouper, for queries that are left to the engine.
func (g grouper) Group(ctx context.Context, inner types.Scope, actor types.GroupbyActor) <-chan types.Row {
	return generate(ctx, inner, func(emit Emit) error {
		scope := scopeOf(inner)
		gs := &groups{scope: scope, byKey: map[string]*group{}}
		defer gs.close()
		if err := gs.collect(ctx, inner, actor); err != nil {
			if !quiet(err) {
				scope.Log(LevelError, "GROUP BY: %v", err)
			}
			return err
		}
		return gs.emit(ctx, dictRows(emit))
	})
}

func (gs *groups) close() {
	if gs.file != nil {
		gs.file.close()
	}
}

func (gs *groups) collect(ctx context.Context, inner types.Scope, actor types.GroupbyActor) error {
	base := inner.Copy()
	defer base.Close()
	for {
		row, _, key, scope, err := actor.GetNextRow(ctx, base)
		if err != nil { // the engine's way to say that there are no more rows
			return ctx.Err()
		}
		err = gs.take(key, func(state *aggregates) *record {
			scope.SetAggregatorCtx(state)
			return recordOf(actor.MaterializeRow(ctx, row, scope))
		})
		scope.Close()
		if err != nil {
			return err
		}
	}
}

// take evaluates a row in its group's context; it becomes the group's row.
func (gs *groups) take(key string, evaluate func(*aggregates) *record) error {
	g, ok := gs.byKey[key]
	if !ok {
		g = &group{state: &aggregates{}}
		gs.byKey[key] = g
		gs.order = append(gs.order, g)
		gs.memory = append(gs.memory, g)
	}
	if g.spilt {
		if err := gs.load(g); err != nil {
			return err
		}
	}
	g.row = evaluate(g.state)
	gs.bytes -= g.bytes
	g.bytes = sizeOf(g.row) + g.state.size() + 200
	gs.bytes += g.bytes
	if gs.bytes > gs.scope.session.options.Limits.SpillBytes {
		return gs.spill()
	}
	return nil
}

// spill writes all groups in memory to the file.
func (gs *groups) spill() error {
	if gs.file == nil {
		file, err := gs.scope.session.newSpill()
		if err != nil {
			return err
		}
		gs.file = file
	}
	e := encoder{scope: gs.scope}
	for _, g := range gs.memory {
		e.dst = e.dst[:0]
		e.dict(gs.scope.Row(gs.scope.session.context(), g.row), 0)
		e.dict(g.state.dict(), 0)
		offset, err := gs.file.append(e.dst)
		if err != nil {
			return err
		}
		g.offset, g.spilt, g.row, g.state, g.bytes = offset, true, nil, nil, 0
	}
	gs.memory, gs.bytes = gs.memory[:0], 0
	return gs.file.flush()
}

// load brings a group back.
func (gs *groups) load(g *group) error {
	row, state, err := gs.read(g)
	if err != nil {
		return err
	}
	g.row, g.state, g.spilt = row, state, false
	gs.memory = append(gs.memory, g)
	return nil
}

func (gs *groups) read(g *group) (*record, *aggregates, error) {
	record, err := gs.file.at(g.offset)
	if err != nil {
		return nil, nil, err
	}
	d := decoder{src: record}
	row, isRow := d.value(0).(*Dict)
	values, isState := d.value(0).(*Dict)
	if d.err != nil || !isRow || !isState {
		return nil, nil, errCodec
	}
	state := &aggregates{}
	for _, item := range values.Items() {
		state.set(item.Key, item.Value)
	}
	return recordOf(row), state, nil
}

// emit hands the groups out. A group that cannot be read back ends them, with a
// log line.
func (gs *groups) emit(ctx context.Context, emit Emit) error {
	for _, g := range gs.order {
		row := g.row
		if g.spilt {
			var err error
			if row, _, err = gs.read(g); err != nil {
				gs.scope.Log(LevelError, "GROUP BY: %v", err)
				return nil
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
}

// aggregates is the state of the aggregate call sites in one group: few, so they
// are looked through.
type aggregates struct {
	mu     sync.Mutex
	names  []string
	values []any
	bytes  int64
}

// Modify implements the engine's aggregate context.
func (a *aggregates) Modify(name string, modifier func(old types.Any, ok bool) types.Any) types.Any {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.names, name)
	if i < 0 {
		v := modifier(nil, false)
		a.add(name, v)
		return v
	}
	old := a.values[i]
	a.values[i] = modifier(old, true)
	a.bytes += growth(old, a.values[i])
	return a.values[i]
}

// growth is by how much a state has grown. What enumerate collected before is not
// measured anew for each row.
func growth(old, now any) int64 {
	before, isList := old.([]any)
	after, isStill := now.([]any)
	if !isList || !isStill || len(after) < len(before) {
		return sizeOf(now) - sizeOf(old)
	}
	total := int64(0)
	for _, item := range after[len(before):] {
		total += 2*16 + sizeOf(item) // lists grow by half and more
	}
	return total
}

func (a *aggregates) add(name string, v any) {
	a.names, a.values = append(a.names, name), append(a.values, v)
	a.bytes += int64(len(name)) + 64 + sizeOf(v)
}

// set puts a state back.
func (a *aggregates) set(name string, v any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(name, v)
}

func (a *aggregates) size() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes
}

func (a *aggregates) dict() *Dict {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := NewDict()
	for i, name := range a.names {
		out.Set(name, a.values[i])
	}
	return out
}
