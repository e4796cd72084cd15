package vql

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/types"
)

// Engine knows the primitives of one program: the core ones and those it was
// given. It is immutable and safe for concurrent use.
type Engine struct {
	functions map[string]*Function
	plugins   map[string]*Plugin
	template  types.Scope
	goos      string
	metrics   *Metrics // may be nil
}

// NewEngine makes an engine of the core functions and plugins and the given
// ones, which may replace core ones. Two of one name are an error.
func NewEngine(functions []*Function, plugins []*Plugin) (*Engine, error) {
	e := &Engine{functions: map[string]*Function{}, plugins: map[string]*Plugin{}, goos: runtime.GOOS}
	for _, f := range CoreFunctions() {
		e.functions[f.Spec.Name] = f
	}
	for _, p := range CorePlugins() {
		e.plugins[p.Spec.Name] = p
	}
	given := map[string]bool{}
	for _, f := range functions {
		if err := checkName("function", f.Spec.Name, given); err != nil {
			return nil, err
		}
		e.functions[f.Spec.Name] = f
	}
	for _, p := range plugins {
		if err := checkName("plugin", p.Spec.Name, given); err != nil {
			return nil, err
		}
		e.plugins[p.Spec.Name] = p
	}
	e.template = e.newTemplate()
	return e, nil
}

func checkName(kind, name string, given map[string]bool) error {
	if name == "" || strings.ContainsAny(name, "`. ") {
		return fmt.Errorf("%s name %q is not an identifier", kind, name)
	}
	if given[kind+name] {
		return fmt.Errorf("%s %s is declared twice", kind, name)
	}
	given[kind+name] = true
	return nil
}

// newTemplate makes the engine scope that sessions' scopes are copied from.
func (e *Engine) newTemplate() types.Scope {
	template := vfilter.NewScope()
	template.AddProtocolImpl(protocols()...)
	for _, f := range e.functions {
		template.AppendFunctions(&functionAdapter{function: f, engine: e})
	}
	for _, f := range hiddenFunctions() {
		template.AppendFunctions(f)
	}
	for _, p := range e.plugins {
		template.AppendPlugins(&pluginAdapter{plugin: p, engine: e})
	}
	return template
}

// Counted returns the engine with what its sessions do counted in m, which several
// engines may share.
func (e *Engine) Counted(m *Metrics) *Engine {
	counted := *e
	counted.metrics = m
	return &counted
}

// NewScope makes a session and returns its root scope. The caller closes it.
func (e *Engine) NewScope(o SessionOptions) *Scope {
	s := newSession(e, o)
	s.root = e.newInner(s, o.variables())
	e.metrics.opened(s)
	return &Scope{session: s, inner: s.root}
}

// variables are those of the root scope: Env, and what the services add to it.
func (o *SessionOptions) variables() *Dict {
	out, copied := o.Env, false
	for _, service := range o.Services {
		more, ok := service.(Variables)
		if !ok {
			continue
		}
		if !copied { // Env is its owner's
			out, copied = NewDict(), true
			if o.Env != nil {
				out.MergeFrom(o.Env)
			}
		}
		added := more.Variables()
		for _, name := range added.Keys() {
			if _, given := out.Get(name); !given {
				v, _ := added.Get(name)
				out.Set(name, v)
			}
		}
	}
	return out
}

// newInner makes an engine scope that holds nothing but env.
func (e *Engine) newInner(s *session, env *Dict) types.Scope {
	inner := e.template.NewScope()
	inner.SetContext(homeKey, &home{session: s})
	inner.SetLogger(s.logger())
	inner.SetThrottler(engineThrottler{session: s})
	s.boundDepth(inner)
	inner.SetSorter(sorter{session: s})
	inner.SetGrouper(grouper{session: s})
	inner.SetMaterializer(materializer{session: s})
	inner.SetExplainer(explainer{session: s})
	if s.options.Artifacts != nil {
		inner.AppendVars(NewDict().Set("Artifact", &artifactName{session: s}))
	}
	if env != nil {
		inner.AppendVars(env)
	}
	return inner
}

// Function returns the function of a name.
func (e *Engine) Function(name string) (*Function, bool) {
	f, ok := e.functions[name]
	return f, ok
}

// Plugin returns the plugin of a name.
func (e *Engine) Plugin(name string) (*Plugin, bool) {
	p, ok := e.plugins[name]
	return p, ok
}

func (e *Engine) available(spec *Spec) error {
	if len(spec.Platforms) > 0 && !slices.Contains(spec.Platforms, e.goos) {
		return fmt.Errorf("not available on %s", e.goos)
	}
	if spec.Available != nil {
		return spec.Available()
	}
	return nil
}
