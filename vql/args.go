package vql

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// argSet is the decoder of one argument struct.
type argSet struct {
	typ    reflect.Type
	fields []argField
	rest   int // index of the Rest field, -1
	byName map[string]int
	access int // position in fields of the string argument "accessor", -1

	required bool // of some field
}

// argField is one argument.
type argField struct {
	Arg
	index int
	kind  argKind
	ptr   bool
}

// Arg describes one argument of a primitive.
type Arg struct {
	Name string `json:"name"`
	// Type is str, int, float, bool, time, path, dict, any, query, lambda or lazy;
	// lists end in [].
	Type     string `json:"type"`
	Required bool   `json:"required,omitempty"`
	Doc      string `json:"doc,omitempty"`
}

type argKind int

const (
	kindString argKind = iota
	kindStrings
	kindInt
	kindUint
	kindFloat
	kindBool
	kindTime
	kindDict
	kindAny
	kindAnys
	kindQuery
	kindLambda
	kindLazy
	kindPath
	kindPaths
	kindRest
)

var argKinds = map[reflect.Type]struct {
	kind argKind
	name string
}{
	reflect.TypeFor[string]():    {kindString, "str"},
	reflect.TypeFor[[]string]():  {kindStrings, "str[]"},
	reflect.TypeFor[int64]():     {kindInt, "int"},
	reflect.TypeFor[uint64]():    {kindUint, "int"},
	reflect.TypeFor[float64]():   {kindFloat, "float"},
	reflect.TypeFor[bool]():      {kindBool, "bool"},
	reflect.TypeFor[time.Time](): {kindTime, "time"},
	reflect.TypeFor[*Dict]():     {kindDict, "dict"},
	reflect.TypeFor[Value]():     {kindAny, "any"},
	reflect.TypeFor[[]Value]():   {kindAnys, "any[]"},
	reflect.TypeFor[Query]():     {kindQuery, "query"},
	reflect.TypeFor[Lambda]():    {kindLambda, "lambda"},
	reflect.TypeFor[Lazy]():      {kindLazy, "lazy"},
	reflect.TypeFor[*Path]():     {kindPath, "path"},
	reflect.TypeFor[[]*Path]():   {kindPaths, "path[]"},
	reflect.TypeFor[Rest]():      {kindRest, "any further keyword"},
}

// mustArgSet builds the decoder and panics on a struct that cannot be one.
func mustArgSet(name string, t reflect.Type) *argSet {
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("vql: arguments of %s: %s is not a struct", name, t))
	}
	set := &argSet{typ: t, rest: -1, access: -1, byName: map[string]int{}}
	for i := range t.NumField() {
		field := t.Field(i)
		tag, ok := field.Tag.Lookup("vql")
		if !ok {
			if field.Type == reflect.TypeFor[Rest]() {
				tag = "**"
			} else {
				continue
			}
		}
		if !field.IsExported() {
			panic(fmt.Sprintf("vql: arguments of %s: field %s is not exported", name, field.Name))
		}
		set.add(name, field, tag, i)
	}
	return set
}

func (a *argSet) add(name string, field reflect.StructField, tag string, index int) {
	arg, required, _ := strings.Cut(tag, ",")
	if required != "" && required != "required" {
		panic(fmt.Sprintf("vql: arguments of %s: field %s: unknown option %q", name, field.Name, required))
	}
	t, ptr := field.Type, false
	k, ok := argKinds[t]
	if !ok && t.Kind() == reflect.Pointer {
		k, ok = argKinds[t.Elem()]
		ptr = true
		ok = ok && k.kind <= kindTime && k.kind != kindStrings
	}
	if !ok {
		panic(fmt.Sprintf("vql: arguments of %s: field %s has the unsupported type %s", name, field.Name, field.Type))
	}
	if k.kind == kindRest {
		a.rest = index
		return
	}
	if _, twice := a.byName[arg]; twice || arg == "" {
		panic(fmt.Sprintf("vql: arguments of %s: bad or repeated name %q", name, arg))
	}
	if arg == "accessor" && k.kind == kindString && !ptr {
		a.access = len(a.fields)
	}
	a.required = a.required || required != ""
	a.byName[arg] = len(a.fields)
	a.fields = append(a.fields, argField{
		Arg:   Arg{Name: arg, Type: k.name, Required: required != "", Doc: field.Tag.Get("doc")},
		index: index, kind: k.kind, ptr: ptr,
	})
}

// list returns the arguments for documentation.
func (a *argSet) list() []Arg {
	out := make([]Arg, 0, len(a.fields))
	for _, f := range a.fields {
		out = append(out, f.Arg)
	}
	return out
}

// Args lists the function's arguments in declaration order.
func (f *Function) Args() []Arg { return f.args.list() }

// FreeForm reports whether any further keyword is taken.
func (f *Function) FreeForm() bool { return f.args.rest >= 0 }

// Args lists the plugin's arguments in declaration order.
func (p *Plugin) Args() []Arg { return p.args.list() }

// FreeForm reports whether any further keyword is taken.
func (p *Plugin) FreeForm() bool { return p.args.rest >= 0 }
