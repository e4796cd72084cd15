package vql

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/araddon/dateparse"
	"www.velocidex.com/golang/vfilter/types"
)

// force evaluates lazy values and stored expressions; queries stay queries.
func (s *Scope) force(ctx context.Context, v any) Value {
	for range 32 {
		switch t := v.(type) {
		case nil:
			return NULL
		case types.LazyExpr:
			v = t.Reduce(ctx)
		case types.StoredExpression:
			v = t.Reduce(ctx, s.inner)
		case func() types.Any:
			v = t()
		default:
			return v
		}
	}
	return NULL
}

// maxDepth is how deep values are made real and written; deeper is NULL.
const maxDepth = 10

// Real evaluates everything lazy in a value: queries become arrays of rows, lazy
// members of dicts and elements of arrays become values. Host objects stay.
func (s *Scope) Real(ctx context.Context, v any) Value { return s.real(ctx, v, 0) }

func (s *Scope) real(ctx context.Context, v any, depth int) Value {
	if depth > maxDepth {
		return tooDeep(v)
	}
	v = s.force(ctx, v)
	switch t := v.(type) {
	case types.StoredQuery:
		return s.rowsOf(ctx, t)
	case *spilledObject:
		return t
	case types.LazyRow:
		return s.realRow(ctx, t, depth)
	case *Dict:
		return s.realDict(ctx, t, depth)
	case []any:
		return s.realList(ctx, t, depth)
	case []types.Any:
		return s.realArray(ctx, t, depth)
	}
	return v
}

// tooDeep keeps plain containers and drops what is still lazy.
func tooDeep(v any) Value {
	switch v.(type) {
	case *Dict, []any, []types.Any:
		return v
	}
	if mayBeLazy(v) {
		return NULL
	}
	return v
}

// realDict copies a dict only when something in it is lazy.
func (s *Scope) realDict(ctx context.Context, d *Dict, depth int) Value {
	if !holdsLazy(d, depth) {
		return d
	}
	out := NewDict()
	for _, item := range d.Items() {
		out.Set(item.Key, s.real(ctx, item.Value, depth+1))
	}
	return out
}

func (s *Scope) realList(ctx context.Context, list []any, depth int) Value {
	if !holdsLazy(list, depth) {
		return list
	}
	out := make([]any, len(list))
	for i, item := range list {
		out[i] = s.real(ctx, item, depth+1)
	}
	return out
}

// realArray makes an array of the engine, which is of a type of its own, one of
// ours. Its nil array stands for an absent one, which prints as NULL.
func (s *Scope) realArray(ctx context.Context, list []types.Any, depth int) Value {
	if list == nil {
		return list
	}
	out := make([]any, len(list))
	for i, item := range list {
		out[i] = s.real(ctx, item, depth+1)
	}
	return out
}

// holdsLazy reports whether real would change a value that stands that deep.
func holdsLazy(v any, depth int) bool {
	switch t := v.(type) {
	case *Dict:
		if depth > maxDepth {
			return false
		}
		for _, item := range t.Items() {
			if holdsLazy(item.Value, depth+1) {
				return true
			}
		}
		return false
	case []any:
		if depth > maxDepth {
			return false
		}
		for _, item := range t {
			if holdsLazy(item, depth+1) {
				return true
			}
		}
		return false
	}
	return mayBeLazy(v)
}

func mayBeLazy(v any) bool {
	switch v.(type) {
	case nil, string, bool, int64, int, uint64, float64, []byte, time.Time, types.Null, *types.Null:
		return v == nil
	case *spilledObject:
		return false
	case types.LazyExpr, types.StoredExpression, types.StoredQuery, types.LazyRow, func() types.Any, *Dict, []any, []types.Any:
		return true
	}
	return false
}

func (s *Scope) realRow(ctx context.Context, row any, depth int) *Dict {
	out := NewDict()
	for _, name := range s.inner.GetMembers(row) {
		v, ok := s.inner.Associative(row, name)
		if ok {
			out.Set(name, s.real(ctx, v, depth+1))
		}
	}
	return out
}

// Row makes a dict of a row: members evaluated, queries in cells materialised. A
// dict that holds nothing lazy is returned as it is.
func (s *Scope) Row(ctx context.Context, row Value) *Dict {
	if d, ok := row.(*Dict); ok {
		out, _ := s.realDict(ctx, d, 0).(*Dict)
		return out
	}
	if r, ok := row.(*record); ok {
		out := NewDict()
		for i, name := range r.names {
			out.Set(name, s.real(ctx, r.values[i], 1))
		}
		return out
	}
	if IsNull(row) {
		return NewDict()
	}
	return s.realRow(ctx, row, 0)
}

// rowsOf runs a query to its end and returns its rows as an array.
func (s *Scope) rowsOf(ctx context.Context, q types.StoredQuery) Value {
	if m, ok := q.(*materialised); ok {
		return m.list(ctx, s)
	}
	rows := []any{}
	err := s.runStored(ctx, q, func(row Value) error {
		rows = append(rows, row)
		return nil
	})
	if err != nil && !quiet(err) {
		s.Log(LevelError, "%v", err)
	}
	return rows
}

// Rows makes an array of a value: queries give their rows, arrays their
// elements, NULL nothing, anything else itself.
func (s *Scope) Rows(ctx context.Context, v Value) []Value {
	v = s.force(ctx, v)
	if q, ok := v.(types.StoredQuery); ok {
		v = s.rowsOf(ctx, q)
	}
	if IsNull(v) {
		return nil
	}
	return argList(v)
}

// IsQuery reports whether a value is a query.
func IsQuery(v Value) bool {
	_, ok := v.(types.StoredQuery)
	return ok
}

// Query makes a query of any value, as a Query argument does.
func (s *Scope) Query(ctx context.Context, v any) Query {
	v = s.force(ctx, v)
	if q, ok := v.(types.StoredQuery); ok {
		return Query{stored: q}
	}
	return Query{stored: &valueQuery{value: v}}
}

// Member returns the member of a value as v.name does; false when it has none.
func (s *Scope) Member(v Value, name string) (Value, bool) {
	out, ok := s.inner.Associative(v, name)
	if out == nil {
		out = NULL
	}
	return out, ok
}

// Index returns v[i] as queries see it; false when there is no such element.
func (s *Scope) Index(v Value, i int64) (Value, bool) {
	out, ok := s.inner.Associative(v, i)
	if !ok || out == nil {
		return NULL, false
	}
	return out, true
}

// Members lists a value's member names.
func (s *Scope) Members(v Value) []string {
	if IsNull(v) {
		return nil
	}
	return s.inner.GetMembers(v)
}

// Truth reports whether a value counts as true.
func (s *Scope) Truth(v Value) bool { return s.inner.Bool(v) }

// Equal compares as = does.
func (s *Scope) Equal(a, b Value) bool { return s.inner.Eq(a, b) }

// Less compares as < does.
func (s *Scope) Less(a, b Value) bool { return s.inner.Lt(a, b) }

// Match reports whether v =~ pattern; a bad pattern is logged once.
func (s *Scope) Match(pattern string, v Value) bool { return s.inner.Match(pattern, v) }

// String prints a value: strings and bytes as they are, NULL as NULL, dicts and
// arrays of dicts as JSON, times as RFC 3339, anything else as Go prints it.
func (s *Scope) String(ctx context.Context, v Value) string {
	v = s.Real(ctx, v)
	switch t := v.(type) {
	case string:
		return t
	case []byte:
		return string(t)
	case time.Time:
		return t.In(s.Location()).Format(time.RFC3339Nano)
	case *time.Time:
		return t.In(s.Location()).Format(time.RFC3339Nano)
	case *Dict:
		return string(AppendJSON(nil, t))
	case float64:
		return printFloat(t)
	case fs.FileMode:
		return t.String()
	case fmt.Stringer:
		return t.String()
	case []any:
		return s.printList(ctx, t)
	}
	return fmt.Sprintf("%v", v)
}

// printList prints an array Go-style, [a b].
func (s *Scope) printList(ctx context.Context, list []any) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, item := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s.String(ctx, item))
	}
	b.WriteByte(']')
	return b.String()
}

func printFloat(f float64) string { return fmt.Sprintf("%v", f) }

// Time reads a value as a time: times, numbers (seconds, or by their size
// milli-, micro- or nanoseconds) and strings in any common form, read in the zone
// of PARSE_TZ or TZ. False when it is none; "" and 0 are the zero time.
func (s *Scope) Time(v Value) (time.Time, bool) {
	switch t := v.(type) {
	case time.Time:
		return t, true
	case *time.Time:
		if t == nil {
			return time.Time{}, false
		}
		return *t, true
	case string:
		return s.parseTime(t)
	case []byte:
		return s.parseTime(string(t))
	case float64:
		return floatTime(t), true
	case bool:
		return time.Time{}, false
	}
	if IsNull(v) {
		return time.Time{}, false
	}
	if n, ok := toInt(v); ok {
		return numberTime(n), true
	}
	return time.Time{}, false
}

// numberTime guesses the unit from the size.
func numberTime(n int64) time.Time {
	switch abs := max(n, -n); {
	case n == 0:
		return time.Time{}
	case abs > 20e16 || abs < 0:
		return time.Unix(0, n).UTC()
	case abs > 20e13:
		return time.UnixMicro(n).UTC()
	case abs > 20e10:
		return time.UnixMilli(n).UTC()
	}
	return time.Unix(n, 0).UTC()
}

func floatTime(f float64) time.Time {
	if f > 20e10 || f < -20e10 || f == 0 || f != f {
		return numberTime(cutFloat(f))
	}
	whole := cutFloat(f)
	return time.Unix(whole, int64((f-float64(whole))*1e9)).UTC()
}

func (s *Scope) parseTime(text string) (time.Time, bool) {
	if text == "" {
		return time.Time{}, true
	}
	if f, ok := parseFloat(text); ok {
		if i, whole := parseInt(text); whole {
			return numberTime(i), true
		}
		return floatTime(f), true
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t.UTC(), true
	}
	return guessTime(text, s.parseLocation())
}

// guessTime parses free-form text; the library may panic on odd input.
func guessTime(text string, loc *time.Location) (t time.Time, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	t, err := dateparse.ParseIn(text, loc)
	return t.UTC(), err == nil
}

func (s *Scope) parseLocation() *time.Location {
	if name := s.LookupString("PARSE_TZ"); name != "" {
		if strings.EqualFold(name, "local") {
			return time.Local
		}
		if loc, ok := s.session.zone(name); ok {
			return loc
		}
	}
	return s.Location()
}

func parseFloat(text string) (float64, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return f, err == nil
}

// lazyCell is a value that is computed once, when it is first read.
type lazyCell struct {
	once  sync.Once
	f     func() Value
	value Value
}

// Reduce implements the engine's lazy expression.
func (c *lazyCell) Reduce(context.Context) types.Any {
	c.once.Do(func() {
		c.value = NULL // stays when f panics
		c.value = c.f()
		if c.value == nil {
			c.value = NULL
		}
	})
	return c.value
}

// ReduceWithScope implements the engine's lazy expression.
func (c *lazyCell) ReduceWithScope(ctx context.Context, _ types.Scope) types.Any {
	return c.Reduce(ctx)
}
