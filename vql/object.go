package vql

import (
	"context"
	"encoding/json"
	"slices"

	"www.velocidex.com/golang/vfilter/types"
)

// Object is a host value whose members are worked out when a query reads them.
type Object interface {
	// Members lists the names that the value shows in rows, in order.
	Members() []string

	// Member returns one member; a value may answer to names that it does not list.
	Member(name string) (Value, bool)
}

// Settable is an Object whose members set() may change.
type Settable interface {
	SetMember(name string, v Value)
}

// HostObject makes the engine read o through its members.
func HostObject(o Object) Value { return &hostObject{o} }

// ObjectOf gives back what HostObject wrapped.
func ObjectOf(v Value) (Object, bool) {
	h, ok := v.(*hostObject)
	if !ok {
		return nil, false
	}
	return h.Object, true
}

// hostObject is an Object as the engine wants to see it.
type hostObject struct{ Object }

var _ types.LazyRow = (*hostObject)(nil)

// AddColumn implements types.LazyRow; a host value takes no further columns.
func (h *hostObject) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return h
}

// Has implements types.LazyRow.
func (h *hostObject) Has(name string) bool {
	_, ok := h.Member(name)
	return ok
}

// Get implements types.LazyRow.
func (h *hostObject) Get(name string) (types.Any, bool) { return h.Member(name) }

// MarshalJSON lets an object say how it is written; otherwise it is an object of
// its members.
func (h *hostObject) MarshalJSON() ([]byte, error) {
	if m, ok := h.Object.(json.Marshaler); ok {
		return m.MarshalJSON()
	}
	d := NewDict()
	for _, name := range h.Members() {
		value, _ := h.Member(name)
		d.Set(name, value)
	}
	return AppendJSON(nil, d), nil
}

// Columns implements types.LazyRow.
func (h *hostObject) Columns() []string { return slices.Clone(h.Members()) }
