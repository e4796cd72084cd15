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

// group is one group. What is worked on is live; else it is on disk.
type group struct {
	live   *liveGroup
	offset int64
}

// liveGroup is a group in memory.
type liveGroup struct {
	row   record
	state aggregates
	bytes int64
	large bool // stays in memory: writing it for each of its rows would fill the disk
}

// groups are those of one GROUP BY.
type groups struct {
	scope  *Scope
	byKey  map[string]*group
	order  [][]group // in pieces, so that they stay where they are
	memory []*group  // those in memory
	bytes  int64
	file   *spillFile
	sites  sites
	names  []string // of the row read last: mostly those of the next one
}

// groupBytes is about what a group in memory takes beside its values: itself, its
// place in the map and in the two lists, its key's header.
const groupBytes = 190

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
		err = gs.take(key, func(state *aggregates) record {
			scope.SetAggregatorCtx(state)
			return *recordOf(actor.MaterializeRow(ctx, row, scope))
		})
		scope.Close()
		if err != nil {
			return err
		}
	}
}

// take evaluates a row in its group's context; it becomes the group's row.
func (gs *groups) take(key string, evaluate func(*aggregates) record) error {
	g, ok := gs.byKey[key]
	if !ok {
		g = gs.add()
		gs.byKey[key] = g
		gs.enliven(g)
	}
	if g.live == nil {
		if err := gs.load(g); err != nil {
			return err
		}
	}
	live := g.live
	live.row = evaluate(&live.state)
	if live.large {
		return nil
	}
	gs.bytes -= live.bytes
	live.bytes = groupBytes + int64(len(key)) + sizeOf(&live.row) + live.state.size()
	limit := gs.scope.session.options.Limits.SpillBytes
	if live.state.size() > max(limit/2, leastLarge) {
		live.large = true
		return nil
	}
	if gs.bytes += live.bytes; gs.bytes > limit {
		return gs.spill()
	}
	return nil
}

// leastLarge is what the state of a group that stays in memory has at the least.
const leastLarge = 64 << 10

// groupPiece is how many groups are made at once.
const groupPiece = 128

func (gs *groups) add() *group {
	last := len(gs.order) - 1
	if last < 0 || len(gs.order[last]) == cap(gs.order[last]) {
		size := groupPiece
		if last < 0 {
			size = 4 // most queries have few groups
		}
		gs.order = append(gs.order, make([]group, 0, size))
		last++
	}
	gs.order[last] = append(gs.order[last], group{})
	return &gs.order[last][len(gs.order[last])-1]
}

func (gs *groups) enliven(g *group) {
	g.live = &liveGroup{state: aggregates{sites: &gs.sites}}
	gs.memory = append(gs.memory, g)
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
		if g.live.large {
			continue
		}
		e.dst = e.dst[:0]
		e.record(&g.live.row, 0)
		g.live.state.encode(&e)
		offset, err := gs.file.append(e.dst)
		if err != nil {
			return err
		}
		g.offset, g.live = offset, nil
	}
	clear(gs.memory)
	gs.memory, gs.bytes = gs.memory[:0], 0
	return gs.file.flush()
}

// load brings a group back.
func (gs *groups) load(g *group) error {
	gs.enliven(g)
	return gs.read(g, &g.live.row, &g.live.state)
}

// read decodes a group's row and, unless it is nil, its state.
func (gs *groups) read(g *group, row *record, state *aggregates) error {
	data, err := gs.file.at(g.offset)
	if err != nil {
		return err
	}
	d := decoder{src: data}
	*row = d.record(gs.names)
	gs.names = row.names
	if state != nil {
		state.decode(&d)
	}
	return d.err
}

// emit hands the groups out. A group that cannot be read back ends them, with a
// log line.
func (gs *groups) emit(ctx context.Context, emit Emit) error {
	for _, piece := range gs.order {
		for i := range piece {
			row, err := gs.rowOf(&piece[i])
			if err != nil {
				gs.scope.Log(LevelError, "GROUP BY: %v", err)
				return nil
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := emit(row); err != nil {
				return err
			}
		}
	}
	return nil
}

func (gs *groups) rowOf(g *group) (*record, error) {
	if g.live != nil {
		return &g.live.row, nil
	}
	row := &record{}
	return row, gs.read(g, row, nil)
}

// sites are the aggregate call sites that the groups of one GROUP BY have states
// for. They are few, so they are looked through.
type sites struct {
	mu    sync.Mutex
	names []string
}

func (s *sites) index(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.names, name); i >= 0 {
		return i
	}
	s.names = append(s.names, name)
	return len(s.names) - 1
}

func (s *sites) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

// aggregates is the state of the aggregate call sites in one group.
type aggregates struct {
	sites *sites

	mu     sync.Mutex
	values []any // by site; nil where there is none yet
	bytes  int64
}

// Modify implements the engine's aggregate context.
func (a *aggregates) Modify(name string, modifier func(old types.Any, ok bool) types.Any) types.Any {
	i := a.sites.index(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.values) <= i {
		a.values = append(make([]any, 0, a.sites.count()), a.values...)[:i+1]
	}
	old := a.values[i]
	now := modifier(old, old != nil)
	a.values[i] = now
	a.bytes += growth(old, now)
	return now
}

// growth is by how much a state has grown. What enumerate collected before is not
// measured anew for each row.
func growth(old, now any) int64 {
	before, isList := old.([]any)
	after, isStill := now.([]any)
	if !isList || !isStill || len(after) < len(before) {
		return sizeOfState(now) - sizeOfState(old)
	}
	total := int64(0)
	for _, item := range after[len(before):] {
		total += 2*16 + sizeOf(item) // lists grow by a quarter and more
	}
	return total
}

// sizeOfState is 0 for what is not there. A number is the row's too, which counts it.
func sizeOfState(v any) int64 {
	switch v.(type) {
	case nil:
		return 0
	case int64, uint64, float64:
		return 16
	}
	return 16 + payload(v)
}

func (a *aggregates) size() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes
}

// encode writes the state of each site.
func (a *aggregates) encode(e *encoder) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.uvarint(uint64(len(a.values)))
	for _, v := range a.values {
		if v == nil {
			e.dst = append(e.dst, 0)
			continue
		}
		e.dst = append(e.dst, 1)
		e.value(v, 0)
	}
}

func (a *aggregates) decode(d *decoder) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.values = make([]any, d.count())
	a.bytes = 0
	for i := range a.values {
		if d.uvarint() == 0 || d.err != nil {
			continue
		}
		a.values[i] = d.value(0)
		a.bytes += growth(nil, a.values[i])
	}
}
