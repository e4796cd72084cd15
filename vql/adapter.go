package vql

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"sync/atomic"

	"github.com/Velocidex/ordereddict"
	"www.velocidex.com/golang/vfilter/types"
)

// functionAdapter shows a Function to the engine. The engine copies it once per
// call site, which gives aggregates their identity.
type functionAdapter struct {
	function *Function
	engine   *Engine
	key      *stateKey
}

// stateKey names a call site's state.
type stateKey struct{ id string }

var lastKey atomic.Uint64

// Copy implements the engine's copying per call site.
func (f *functionAdapter) Copy() types.FunctionInterface {
	c := *f
	c.key = &stateKey{id: "site" + strconv.FormatUint(lastKey.Add(1), 10)}
	return &c
}

// Info implements the engine's introspection.
func (f *functionAdapter) Info(types.Scope, *types.TypeMap) *types.FunctionInfo {
	return &types.FunctionInfo{
		Name: f.function.Spec.Name, Doc: f.function.Spec.Doc,
		IsAggregate: f.function.Spec.Aggregate, Version: version(&f.function.Spec),
		FreeFormArgs: f.function.FreeForm(),
	}
}

func version(s *Spec) int { return max(1, s.Version) }

// Call implements the engine's function call.
func (f *functionAdapter) Call(ctx context.Context, inner types.Scope, args *ordereddict.Dict) types.Any {
	return f.call(ctx, inner, args)
}

func (f *functionAdapter) call(ctx context.Context, inner types.Scope, args argSource) Value {
	spec := &f.function.Spec
	scope := scopeOf(inner)
	scope.name, scope.state = spec.Name, f.key
	if err := scope.session.alive(ctx); err != nil {
		return NULL
	}
	out, err := f.run(ctx, scope, args)
	if err != nil {
		scope.fail(ctx, spec.Name, err)
		return failed(spec.Name)
	}
	if out == nil || IsNull(out) && !isEmptyList(out) {
		return NULL
	}
	return out
}

// failed is what a function gives when its call failed.
func failed(name string) Value {
	if name == "format" {
		return false
	}
	return NULL
}

// isEmptyList keeps typed nil slices as empty arrays.
func isEmptyList(v Value) bool {
	r, ok := asSlice(v)
	return ok && r.Kind() == reflect.Slice
}

func (f *functionAdapter) run(ctx context.Context, scope *Scope, args argSource) (out Value, err error) {
	defer scope.session.recovered(f.function.Spec.Name)
	decoded, err := scope.prepare(ctx, &f.function.Spec, f.function.args, args)
	if err != nil {
		return nil, err
	}
	return f.function.call(ctx, scope, decoded)
}

// prepare checks platform and permission and converts the arguments.
func (s *Scope) prepare(ctx context.Context, spec *Spec, set *argSet, args argSource) (reflect.Value, error) {
	var none reflect.Value
	if err := s.session.engine.available(spec); err != nil {
		return none, err
	}
	if err := s.Allowed(spec.Permission); err != nil {
		return none, err
	}
	decoded, err := set.decode(ctx, s, args)
	if trace, on := s.inner.Explainer().(explainer); on {
		trace.parsed(args, decoded, err)
	}
	return decoded, err
}

// fail logs a primitive's error.
func (s *Scope) fail(ctx context.Context, name string, err error) {
	switch {
	case quiet(err):
	case isLimit(err):
		s.session.stop(ctx, err)
	default:
		var denied *PermissionError
		if errors.As(err, &denied) {
			s.Log(LevelError, "%s: %v", name, err)
			return
		}
		s.Log(LevelDefault, "%s: %v", name, err)
	}
}

func isLimit(err error) bool {
	return errors.Is(err, ErrMemory) || errors.Is(err, ErrRowLimit) ||
		errors.Is(err, ErrTimeout) || errors.Is(err, ErrNoProgress)
}

// alive returns the reason when evaluation under ctx has to stop.
func (s *session) alive(ctx context.Context) error {
	if s.ended.Load() { // of the statement that ctx belongs to, or of a later one
		if life := s.lifeOf(ctx); life.Err() != nil {
			return context.Cause(life)
		}
	}
	return ctx.Err()
}

// pluginAdapter shows a Plugin to the engine.
type pluginAdapter struct {
	plugin *Plugin
	engine *Engine
}

// Info implements the engine's introspection.
func (p *pluginAdapter) Info(types.Scope, *types.TypeMap) *types.PluginInfo {
	return &types.PluginInfo{
		Name: p.plugin.Spec.Name, Doc: p.plugin.Spec.Doc,
		Version: version(&p.plugin.Spec), FreeFormArgs: p.plugin.FreeForm(),
	}
}

// Call implements the engine's plugin call.
func (p *pluginAdapter) Call(ctx context.Context, inner types.Scope, args *ordereddict.Dict) <-chan types.Row {
	spec := &p.plugin.Spec
	scope := scopeOf(inner)
	scope.name = spec.Name
	return generate(ctx, inner, func(emit Emit) error {
		decoded, err := scope.prepare(ctx, spec, p.plugin.args, args)
		if err == nil {
			err = p.run(ctx, scope, decoded, emit)
		}
		if err != nil {
			scope.fail(ctx, spec.Name, err)
		}
		return nil
	})
}

// rows runs the plugin on the caller's goroutine. It returns what emit returned, or
// why the query has to stop; the plugin's own error is a log line.
func (p *pluginAdapter) rows(ctx context.Context, s *Scope, args *Dict, emit Emit) error {
	spec := &p.plugin.Spec
	scope := &Scope{session: s.session, inner: s.inner, name: spec.Name, depth: s.depth}
	if err := s.session.alive(ctx); err != nil {
		return err
	}
	var refused error
	decoded, err := scope.prepare(ctx, spec, p.plugin.args, args)
	if err == nil {
		err = p.run(ctx, scope, decoded, func(row Value) error {
			if refused == nil {
				refused = emit(row)
			}
			return refused
		})
	}
	if refused != nil {
		return refused
	}
	if err != nil {
		scope.fail(ctx, spec.Name, err)
	}
	return s.session.alive(ctx)
}

// run calls the plugin; its panic ends its rows with a log line.
func (p *pluginAdapter) run(ctx context.Context, scope *Scope, args reflect.Value, emit Emit) error {
	defer scope.session.recovered(p.plugin.Spec.Name)
	return p.plugin.call(ctx, scope, args, func(row Value) error {
		if row == nil {
			row = NULL
		}
		return emit(row)
	})
}
