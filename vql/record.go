package vql

import (
	"context"
	"io/fs"
	"slices"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

// record is an evaluated row between the stages of a query: cheaper than a dict,
// and for the engine a row like any other. What leaves the stages is made a dict.
// Names are distinct; records of one query share them.
type record struct {
	names  []string
	values []Value
	behind Object // what * took the columns of, for names that it does not list; or nil
}

func (r *record) index(name string) int { return slices.Index(r.names, name) }

// AddColumn implements the engine's lazy row; a record takes no columns.
func (r *record) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return r
}

// Has implements the engine's lazy row.
func (r *record) Has(name string) bool {
	_, ok := r.Get(name)
	return ok
}

// Columns implements the engine's lazy row.
func (r *record) Columns() []string { return r.names }

// Get implements the engine's lazy row.
func (r *record) Get(name string) (types.Any, bool) {
	if i := r.index(name); i >= 0 {
		return r.values[i], true
	}
	if r.behind != nil {
		return r.behind.Member(name)
	}
	return nil, false
}

func (r *record) dict() *Dict {
	out := NewDict()
	for i, name := range r.names {
		out.Set(name, r.values[i])
	}
	return out
}

// recordOf takes a dict apart.
func recordOf(d *Dict) *record {
	items := d.Items()
	r := &record{names: make([]string, len(items)), values: make([]Value, len(items))}
	for i, item := range items {
		r.names[i], r.values[i] = item.Key, item.Value
	}
	return r
}

// dictRow makes a dict of a record; other rows stay.
func dictRow(row Value) Value {
	if r, ok := row.(*record); ok {
		return r.dict()
	}
	return row
}

// dictRows is an emit that is given dicts where records come.
func dictRows(emit Emit) Emit { return func(row Value) error { return emit(dictRow(row)) } }

// layout says where the columns of a SELECT come from. Rows share it while their
// sources have the same columns.
type layout struct {
	source   []string // the source's columns, where * takes them
	names    []string // in order; a name may repeat, then its last cell counts
	cells    []int    // the column that is evaluated, or for those of * -1 - the place in source
	bare     []string // of each column that is nothing but a name: that name
	calls    []*directCall
	repeated bool
}

func (l *layout) add(name string, cell int) {
	l.repeated = l.repeated || slices.Contains(l.names, name)
	l.names, l.cells = append(l.names, name), append(l.cells, cell)
}

// lazyRecord is a row of a SELECT whose cells are evaluated when they are first
// read: by WHERE and the key of GROUP BY, which see the aliases, or at the end.
type lazyRecord struct {
	*layout
	sel    *selection
	scope  types.Scope // where cells are evaluated
	source Value
	fixed  []Value     // of the source, for *
	values []Value     // unread at first
	where  types.Scope // a child of scope, made when it is needed
}

// unread stands for a cell that nobody has read yet.
var unread Value = new(int)

// aliased is the scope where WHERE and the key of GROUP BY are evaluated: they see
// the source's columns and before them the aliases.
func (l *lazyRecord) aliased() types.Scope {
	if l.where == nil {
		l.where = l.scope.Copy() // closed with scope
		l.where.AppendVars(l)
	}
	return l.where
}

// index finds the last column of a name.
func (l *lazyRecord) index(name string) int {
	for i := len(l.names) - 1; i >= 0; i-- {
		if l.names[i] == name {
			return i
		}
	}
	return -1
}

func (l *lazyRecord) evaluate(i int) Value {
	cell := l.cells[i]
	if cell < 0 {
		return l.fixed[-1-cell]
	}
	if name := l.bare[cell]; name != "" {
		if v, ok := plainMember(l.source, name); ok {
			return v
		}
	}
	return l.sel.cell(l, cell, l.names[i])
}

// AddColumn implements the engine's lazy row; it takes no columns.
func (l *lazyRecord) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return l
}

// Has implements the engine's lazy row.
func (l *lazyRecord) Has(name string) bool { return l.index(name) >= 0 }

// Columns implements the engine's lazy row.
func (l *lazyRecord) Columns() []string { return l.names }

// Get implements the engine's lazy row.
func (l *lazyRecord) Get(name string) (types.Any, bool) {
	i := l.index(name)
	if i < 0 {
		return types.Null{}, false
	}
	if l.values[i] == unread {
		l.values[i] = l.evaluate(i)
	}
	return l.values[i], true
}

// finish evaluates the cells that nobody has read yet, in order.
func (l *lazyRecord) finish() record {
	if l.repeated {
		return l.finishRepeated()
	}
	for i := range l.values {
		if l.values[i] == unread {
			l.values[i] = l.evaluate(i)
		}
	}
	return record{names: l.names, values: l.values, behind: l.behind()}
}

// behind is the object that * took columns of, if one did.
func (l *lazyRecord) behind() Object {
	if l.layout.source == nil {
		return nil
	}
	switch t := l.source.(type) {
	case *hostObject:
		return t.Object
	case *record:
		return t.behind
	}
	return nil
}

// finishRepeated evaluates a repeated name's last cell once for each time that the
// name stands there, as the engine does: aggregates count it.
func (l *lazyRecord) finishRepeated() record {
	out := NewDict()
	for _, name := range l.names {
		i := l.index(name)
		value := l.values[i]
		if value == unread {
			value = l.evaluate(i)
		}
		out.Set(name, value)
	}
	return *recordOf(out)
}

// read is the value of a name where WHERE and the key of GROUP BY are evaluated,
// when nothing but a look at the row is needed for it.
func (l *lazyRecord) read(name string) (Value, bool) {
	if i := l.index(name); i >= 0 {
		v, _ := l.Get(name)
		return v, isPlain(v)
	}
	return plainMember(l.source, name)
}

// plainMember reads a column of a source's row that is there and needs no
// evaluation; all else is left to the engine.
func plainMember(row Value, name string) (v Value, ok bool) {
	switch t := row.(type) {
	case *Dict:
		v, ok = t.Get(name)
	case *record:
		v, ok = t.Get(name)
	case *hostObject:
		v, ok = t.Member(name)
	}
	return v, ok && isPlain(v)
}

// isPlain knows the values that the engine hands on as they are.
func isPlain(v Value) bool {
	switch t := v.(type) {
	case string, int64, float64, bool, uint64, int, time.Time, types.Null, fs.FileMode:
		return true
	case *Path:
		return t != nil
	case *Dict:
		return t != nil
	case []any:
		return t != nil
	case []string:
		return t != nil
	}
	return false
}
