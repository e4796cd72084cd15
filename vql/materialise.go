package vql

import (
	"context"
	"fmt"
	"sync"

	"www.velocidex.com/golang/vfilter/types"
)

// materializer is LET x <= SELECT, and queries in cells.
type materializer struct{ session *session }

// Materialize implements the engine's materialiser. A query that reads a window of
// fifo stays a query: the window has begun, and each use reads it.
func (m materializer) Materialize(ctx context.Context, inner types.Scope, name string, query types.StoredQuery) types.StoredQuery {
	if done, ok := query.(*materialised); ok {
		return done
	}
	scope := scopeOf(inner)
	out := &materialised{session: m.session}
	live := &liveQuery{depth: scope.depth}
	ctx = context.WithValue(ctx, liveKey{}, live)
	err := scope.runStored(ctx, query, func(row Value) error { return out.add(scope, scope.Row(ctx, row)) })
	if err == nil {
		err = out.finish()
	}
	if err != nil && !quiet(err) {
		scope.Log(LevelError, "LET %s <=: %v", name, err)
	}
	if live.reads.Load() {
		return &windowQuery{query}
	}
	return out
}

// materialised is a query that has run: its rows in memory, or beyond
// Limits.SpillBytes in a temporary file with an index.
type materialised struct {
	session *session
	rows    []any
	bytes   int64

	file    *spillFile
	offsets []int64

	once sync.Once // logs a damaged file once
}

func (m *materialised) add(scope *Scope, row *Dict) error {
	if m.file != nil {
		return m.write(scope, row)
	}
	m.rows = append(m.rows, row)
	m.bytes += sizeOf(row)
	if m.bytes < m.session.options.Limits.SpillBytes {
		return nil
	}
	file, err := m.session.newSpill()
	if err != nil {
		return err
	}
	m.file = file
	rows := m.rows
	m.rows = nil
	for _, r := range rows {
		if err := m.write(scope, r); err != nil {
			return err
		}
	}
	return nil
}

func (m *materialised) write(scope *Scope, row any) error {
	e := encoder{scope: scope}
	e.value(row, 0)
	offset, err := m.file.append(e.dst)
	if err != nil {
		return err
	}
	m.offsets = append(m.offsets, offset)
	return nil
}

func (m *materialised) finish() error {
	if m.file == nil {
		return nil
	}
	return m.file.flush()
}

// Len returns the number of rows.
func (m *materialised) Len() int {
	if m.file != nil {
		return len(m.offsets)
	}
	return len(m.rows)
}

// at returns a row that exists.
func (m *materialised) at(i int) Value {
	if m.file == nil {
		return m.rows[i]
	}
	record, err := m.file.at(m.offsets[i])
	if err != nil {
		return m.damaged(err)
	}
	d := decoder{src: record}
	row := d.value(0)
	if d.err != nil {
		return m.damaged(d.err)
	}
	return row
}

func (m *materialised) damaged(err error) Value {
	m.once.Do(func() { m.session.log.add(LevelError, fmt.Sprintf("read materialised query: %v", err)) })
	return NULL
}

func (m *materialised) slice(from, to int) []any {
	out := make([]any, 0, to-from)
	for i := from; i < to; i++ {
		out = append(out, m.at(i))
	}
	return out
}

func (m *materialised) list(context.Context, *Scope) Value {
	if m.file == nil {
		if m.rows == nil {
			return []any{}
		}
		return m.rows
	}
	return m.slice(0, m.Len())
}

func (m *materialised) each(ctx context.Context, emit Emit) error {
	for i := range m.Len() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := emit(m.at(i)); err != nil {
			return err
		}
	}
	return nil
}

// Eval implements the engine's stored query.
func (m *materialised) Eval(ctx context.Context, inner types.Scope) <-chan types.Row {
	return generate(ctx, inner, func(emit Emit) error { return m.each(ctx, emit) })
}

// MarshalJSON gives the rows.
func (m *materialised) MarshalJSON() ([]byte, error) {
	return AppendJSON(nil, m.slice(0, m.Len())), nil
}

// String gives the rows as JSON.
func (m *materialised) String() string { return string(AppendJSON(nil, m.slice(0, m.Len()))) }
