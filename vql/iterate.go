package vql

import (
	"context"
	"encoding"
	"fmt"
	"reflect"
	"slices"

	"www.velocidex.com/golang/vfilter/types"
)

// Iterate hands the rows of a value to emit, as foreach does: a query's rows, an
// array's elements, NULL nothing, anything else itself. NULLs among the elements
// are skipped; what has no fields comes as {"_value": v}.
func (s *Scope) Iterate(ctx context.Context, v Value, emit Emit) error {
	return s.iterate(ctx, v, dictRows(emit))
}

// iterate is Iterate, but the rows of a SELECT come as records.
func (s *Scope) iterate(ctx context.Context, v Value, emit Emit) error {
	v = s.force(ctx, v)
	if q, ok := v.(types.StoredQuery); ok {
		return s.runRecords(ctx, q, emit)
	}
	return s.eachElement(ctx, v, func(element Value) error { return emitRow(element, emit) })
}

// elements makes an emit whose rows answer to _value, too, unless they are dicts: the
// language has an array's elements under that name.
func (s *Scope) elements(emit Emit) Emit {
	return func(row Value) error {
		switch row.(type) {
		case *Dict, *record:
			return emit(row)
		}
		return emit(&element{s.inner, row})
	}
}

// element is a value with fields as a row.
type element struct {
	inner types.Scope
	value Value
}

var _ types.LazyRow = (*element)(nil)

// AddColumn implements types.LazyRow; a value takes no further columns.
func (e *element) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return e
}

// Columns implements types.LazyRow.
func (e *element) Columns() []string { return e.inner.GetMembers(e.value) }

// Has implements types.LazyRow.
func (e *element) Has(name string) bool {
	_, ok := e.Get(name)
	return ok
}

// Get implements types.LazyRow.
func (e *element) Get(name string) (types.Any, bool) {
	if v, ok := e.inner.Associative(e.value, name); ok {
		return v, true
	}
	if name == "_value" {
		return e.value, true
	}
	return NULL, false
}

// eachElement hands out an array's elements, of any other value itself.
func (s *Scope) eachElement(ctx context.Context, v Value, f func(Value) error) error {
	list, ok := asSlice(v)
	if !ok {
		return f(v)
	}
	for i := range list.Len() {
		if err := f(s.force(ctx, list.Index(i).Interface())); err != nil {
			return err
		}
	}
	return nil
}

// valueQuery is any value but a query acting as a query.
type valueQuery struct{ value any }

// Eval implements the engine's stored query.
func (q *valueQuery) Eval(ctx context.Context, inner types.Scope) <-chan types.Row {
	return generate(ctx, inner, func(emit Emit) error {
		return q.each(ctx, scopeOf(inner), emit)
	})
}

// each hands out the rows. The language has a query's empty dict as a value, where
// that of foreach is a row without columns.
func (q *valueQuery) each(ctx context.Context, s *Scope, emit Emit) error {
	return s.eachElement(ctx, q.value, func(v Value) error {
		if d, ok := v.(*Dict); ok && d.Len() == 0 {
			return emit(NewDict().Set("_value", v))
		}
		return emitRow(v, emit)
	})
}

// emitRow hands a value on as a row; NULL is none.
func emitRow(v Value, emit Emit) error {
	switch {
	case IsNull(v):
		return nil
	case hasFields(v):
		return emit(v)
	}
	return emit(NewDict().Set("_value", v))
}

// hasFields reports whether a value is a row by itself: dicts and rows, objects
// that list members, maps and structs of the host. Values that only have methods
// or that are written as a text, as times, paths and pathspecs, are single values.
func hasFields(v Value) bool {
	switch t := v.(type) {
	case *Dict, *record:
		return true
	case string, bool, int64, int, uint64, float64, *Path, *scopeValue:
		return false
	case types.LazyRow:
		return len(t.Columns()) > 0
	case types.Memberer:
		return len(t.Members()) > 0
	case encoding.TextMarshaler, fmt.Stringer:
		return false
	}
	typ := reflect.TypeOf(v)
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	return typ.Kind() == reflect.Struct && publicFields(typ) || isTextMap(typ)
}

// publicFields reports whether a struct has fields that queries see.
func publicFields(typ reflect.Type) bool {
	for i := range typ.NumField() {
		if typ.Field(i).IsExported() {
			return true
		}
	}
	return false
}

func isTextMap(typ reflect.Type) bool {
	return typ.Kind() == reflect.Map && typ.Key().Kind() == reflect.String
}

// mapMembers are the members of the host's maps, by the order of their names.
type mapMembers struct{}

func (mapMembers) Applicable(a, _ types.Any) bool {
	typ := reflect.TypeOf(a)
	return typ != nil && isTextMap(typ)
}

func (mapMembers) GetMembers(_ types.Scope, a types.Any) []string {
	names := []string{}
	for _, key := range reflect.ValueOf(a).MapKeys() {
		names = append(names, key.String())
	}
	slices.Sort(names)
	return names
}

func (mapMembers) Associative(_ types.Scope, a, b types.Any) (types.Any, bool) {
	name, ok := textOf(b)
	if !ok {
		return NULL, false
	}
	m := reflect.ValueOf(a)
	v := m.MapIndex(reflect.ValueOf(name).Convert(m.Type().Key()))
	if !v.IsValid() {
		return NULL, false
	}
	return v.Interface(), true
}
