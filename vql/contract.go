package vql

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/Velocidex/ordereddict"
	"www.velocidex.com/golang/vfilter/types"
)

// ErrStop may be returned by a primitive's or a caller's row callback to end a
// query early. It is not an error of the query: nothing is logged.
var ErrStop = errors.New("stop")

// Value is anything a query handles: nil or NULL, bool, any Go integer width,
// float64, string, []byte, time.Time, slices, *Dict, or a host object whose
// exported fields and parameterless methods are its members.
type Value = any

// Dict is the language's dict: keys in order, setting a key again moves it to
// the end. Rows are dicts.
type Dict = ordereddict.Dict

// NULL is the language's NULL. Primitives may return nil for it.
var NULL Value = types.Null{}

// NewDict returns an empty dict.
func NewDict() *Dict { return ordereddict.NewDict() }

// IsNull reports whether v is NULL, nil or a nil pointer, map or slice.
func IsNull(v Value) bool { return types.IsNil(v) }

// Emit takes one row of a plugin: a *Dict or any object with members. It blocks
// until the row is wanted. An error means that nobody wants further rows: return
// it at once.
type Emit func(row Value) error

// Spec declares a primitive apart from its arguments.
type Spec struct {
	// Name is the name in queries, as parse_csv.
	Name string
	// Doc says in a sentence or two what the primitive does.
	Doc string
	// Permission is the permission a caller needs, empty for none. It is checked
	// against SessionOptions.Permissions.
	Permission string
	// Platforms lists the GOOS values on which the primitive works; nil is all.
	// Elsewhere the name exists and answers "NAME: not available on GOOS".
	Platforms []string
	// Available tells whether this machine can do it, nil when it can; without it
	// every one of Platforms can. Its error is what a call answers, as for Platforms,
	// and version() is NULL. It is asked often and must be cheap.
	Available func() error
	// Columns names the columns of a plugin's rows, for documentation.
	Columns []string
	// Version is what version(function=...) answers; 0 counts as 1.
	Version int
	// Aggregate marks functions that keep a state per group; see Scope.State.
	Aggregate bool
}

// Function is a declared function; make it with NewFunction.
type Function struct {
	Spec Spec
	args *argSet
	call func(ctx context.Context, scope *Scope, args reflect.Value) (Value, error)
}

// Plugin is a declared plugin, a source of rows; make it with NewPlugin.
type Plugin struct {
	Spec Spec
	args *argSet
	call func(ctx context.Context, scope *Scope, args reflect.Value, emit Emit) error
}

// NewFunction declares a function over the argument struct A, whose exported
// fields carry tags:
//
//	Path   *Path  `vql:"filename,required" doc:"The file to read."`
//	Length int64  `vql:"length" doc:"Bytes to read (all)."`
//
// Field types: string, []string, int64, uint64, float64, bool, time.Time, *Dict,
// Value, []Value, Query, Lambda, Lazy, *Path, []*Path and Rest (at most one; it
// takes all further keywords). *string, *int64, *uint64, *float64 and *bool are
// nil when the argument was not given; so is a Value.
//
// An error that call returns becomes the log line "NAME: ERROR" and NULL; it
// never ends the query. A panic becomes an ERROR line and NULL. NewFunction
// itself panics when A is not such a struct: a programmer's mistake.
func NewFunction[A any](spec Spec, call func(ctx context.Context, scope *Scope, args *A) (Value, error)) *Function {
	return &Function{
		Spec: spec,
		args: mustArgSet(spec.Name, reflect.TypeFor[A]()),
		call: func(ctx context.Context, scope *Scope, args reflect.Value) (Value, error) {
			return call(ctx, scope, args.Interface().(*A))
		},
	}
}

// NewPlugin declares a plugin over the argument struct A (see NewFunction). The
// plugin hands its rows to emit and stops as soon as emit returns an error or
// ctx is done. It charges one op (Scope.Charge) for each file, buffer or record
// it reads beyond the rows it emits, which the engine charges itself.
func NewPlugin[A any](spec Spec, call func(ctx context.Context, scope *Scope, args *A, emit Emit) error) *Plugin {
	return &Plugin{
		Spec: spec,
		args: mustArgSet(spec.Name, reflect.TypeFor[A]()),
		call: func(ctx context.Context, scope *Scope, args reflect.Value, emit Emit) error {
			return call(ctx, scope, args.Interface().(*A), emit)
		},
	}
}

// Query is an argument that yields rows: a subquery, a stored query, or any
// value acting as one (an array gives its elements, NULLs skipped; values
// without members become {"_value": v}). The zero Query was not given.
type Query struct {
	stored types.StoredQuery
}

// Given reports whether the argument was given.
func (q Query) Given() bool { return q.stored != nil }

// Run runs the query in scope and hands each row to emit. It returns what emit
// returned, ctx's error, or nil at the end. Each Run evaluates the query afresh.
func (q Query) Run(ctx context.Context, scope *Scope, emit Emit) error {
	if q.stored == nil {
		return nil
	}
	return scope.runStored(ctx, q.stored, emit)
}

// records is Run, but the rows of a SELECT come as records, which are cheaper.
func (q Query) records(ctx context.Context, scope *Scope, emit Emit) error {
	if q.stored == nil {
		return nil
	}
	return scope.runRecords(ctx, q.stored, emit)
}

// Lambda is an argument like "x=>x.Size > 5". The zero Lambda was not given.
type Lambda struct {
	text   string
	parsed *lambda
}

// Given reports whether the argument was given.
func (l Lambda) Given() bool { return l.parsed != nil }

// String returns the lambda's text.
func (l Lambda) String() string { return l.text }

// Call evaluates the lambda with its parameters bound to values; every other
// name comes from scope. A wrong number of values is logged and gives NULL.
func (l Lambda) Call(ctx context.Context, scope *Scope, values ...Value) Value {
	if l.parsed == nil {
		return NULL
	}
	return l.parsed.call(ctx, scope, values)
}

// Lazy is an argument that is not evaluated before it is asked for. The zero
// Lazy was not given.
type Lazy struct {
	raw types.Any
	set bool
}

// Given reports whether the argument was given.
func (l Lazy) Given() bool { return l.set }

// Value evaluates the argument in the caller's scope; the first result is kept.
// Queries stay queries: see Scope.Query.
func (l Lazy) Value(ctx context.Context, scope *Scope) Value {
	if !l.set {
		return NULL
	}
	return scope.force(ctx, l.raw)
}

// Rest holds the keywords that no other field took, in the order written.
type Rest []Keyword

// Keyword is one argument of a primitive that takes any names.
type Keyword struct {
	Name string
	lazy Lazy
}

// Value evaluates the argument; queries stay queries.
func (k Keyword) Value(ctx context.Context, scope *Scope) Value { return k.lazy.Value(ctx, scope) }

// Query returns the argument as a query.
func (k Keyword) Query(ctx context.Context, scope *Scope) Query { return scope.Query(ctx, k.lazy.raw) }

// Dict evaluates all keywords into a dict; queries are materialised and lazy
// values made real.
func (r Rest) Dict(ctx context.Context, scope *Scope) *Dict {
	d := NewDict()
	for _, k := range r {
		v := scope.Real(ctx, k.lazy.raw)
		if err := scope.session.weigh(v); err != nil {
			scope.session.stop(ctx, err)
			break
		}
		d.Set(k.Name, v)
	}
	return d
}

// Service returns the session's service of type T, usually an interface: the
// first of SessionOptions.Services that is one.
func Service[T any](s *Scope) (T, bool) {
	for _, service := range s.session.options.Services {
		if found, ok := service.(T); ok {
			return found, true
		}
	}
	var none T
	return none, false
}

// Variables is a service that adds to the variables of a session, as config where the
// host has one: names that Env has stay as they are there.
type Variables interface {
	// Variables makes values for one session, whose queries may change them.
	Variables() *Dict
}

// Artifacts answers calls of artifacts in queries, Artifact.Linux.Sys.Pslist().
type Artifacts interface {
	// Known reports whether name, as Linux.Sys.Pslist, is a whole artifact name
	// (exact), or a proper prefix of one (prefix). Both may be true.
	Known(name string) (exact, prefix bool)

	// CallArtifact runs an artifact and emits its rows. scope is the caller's;
	// use Scope.Clean for the artifact's own. Depth counts the calls above.
	CallArtifact(ctx context.Context, scope *Scope, call ArtifactCall, emit Emit) error
}

// ArtifactCall is one call of an artifact.
type ArtifactCall struct {
	Name string
	// Args are the parameters as given, evaluated; queries stay queries.
	Args *Dict
	// Depth is 0 for a call from the session's own query.
	Depth int
}

// Permissions decides whether the session's user may use a primitive.
type Permissions interface {
	// Allowed reports whether permission, as FILESYSTEM_READ, is granted.
	Allowed(permission string) bool
}

// PermissionError is what a primitive answers to a user without permission.
type PermissionError struct{ Permission string }

func (e *PermissionError) Error() string {
	return fmt.Sprintf("permission denied: %s is needed", e.Permission)
}
