package vql

import (
	"context"
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
	seq    int
	row    *Dict
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

// Group implements the engine's grouper.
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
		return gs.emit(ctx, emit)
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
		err = gs.take(ctx, actor, row, key, scope)
		scope.Close()
		if err != nil {
			return err
		}
	}
}

// take evaluates a row in its group's context; it becomes the group's row.
func (gs *groups) take(ctx context.Context, actor types.GroupbyActor, row types.Row, key string, scope types.Scope) error {
	g, ok := gs.byKey[key]
	if !ok {
		g = &group{seq: len(gs.order), state: &aggregates{values: map[string]any{}}}
		gs.byKey[key] = g
		gs.order = append(gs.order, g)
		gs.memory = append(gs.memory, g)
	}
	if g.spilt {
		if err := gs.load(g); err != nil {
			return err
		}
	}
	scope.SetAggregatorCtx(g.state)
	g.row = actor.MaterializeRow(ctx, row, scope)
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

func (gs *groups) read(g *group) (*Dict, *aggregates, error) {
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
	state := &aggregates{values: map[string]any{}}
	for _, item := range values.Items() {
		state.values[item.Key] = item.Value
	}
	return row, state, nil
}

func (gs *groups) emit(ctx context.Context, emit Emit) error {
	for _, g := range gs.order {
		row := g.row
		if g.spilt {
			var err error
			if row, _, err = gs.read(g); err != nil {
				gs.scope.Log(LevelError, "GROUP BY: %v", err)
				return err
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

// aggregates is the state of the aggregate call sites in one group.
type aggregates struct {
	mu     sync.Mutex
	values map[string]any
}

// Modify implements the engine's aggregate context.
func (a *aggregates) Modify(name string, modifier func(old types.Any, ok bool) types.Any) types.Any {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, ok := a.values[name]
	v := modifier(old, ok)
	a.values[name] = v
	return v
}

func (a *aggregates) size() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	total := int64(0)
	for name, v := range a.values {
		total += int64(len(name)) + 64
		if list, ok := v.([]any); ok { // enumerate: not counted anew for each row
			total += int64(len(list)) * 32
			continue
		}
		total += sizeOf(v)
	}
	return total
}

func (a *aggregates) dict() *Dict {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := NewDict()
	for name, v := range a.values {
		out.Set(name, v)
	}
	return out
}
