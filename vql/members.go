package vql

import (
	"context"

	"github.com/Velocidex/ordereddict"
	"www.velocidex.com/golang/vfilter/types"
)

// pathMembers are the members, indices and slices of paths.
type pathMembers struct{}

func (pathMembers) Applicable(a, _ types.Any) bool {
	_, ok := a.(*Path)
	return ok
}

func (pathMembers) GetMembers(types.Scope, types.Any) []string {
	return []string{
		"Components", "Basename", "Dirname", "Path", "PathSpec",
		"Delegate", "DelegatePath", "DelegateAccessor", "String",
	}
}

func (m pathMembers) Associative(_ types.Scope, a, b types.Any) (types.Any, bool) {
	p := a.(*Path)
	switch t := b.(type) {
	case string:
		return m.member(p, t)
	case []*int64:
		from, to := bounds(t, len(p.parts))
		return p.With(p.parts[from:to]), true
	}
	i, ok := toInt(b)
	if !ok {
		return NULL, false
	}
	if i < 0 {
		i += int64(len(p.parts))
	}
	if i < 0 || i >= int64(len(p.parts)) {
		return NULL, false
	}
	return p.parts[i], true
}

func (pathMembers) member(p *Path, name string) (types.Any, bool) {
	switch name {
	case "Components":
		return p.Components(), true
	case "Basename":
		return p.Basename(), true
	case "Dirname":
		return p.Dirname(), true
	case "Path":
		return p.Path(), true
	case "PathSpec":
		return p.PathSpec(), true
	case "DelegatePath":
		return p.DelegatePath(), true
	case "DelegateAccessor":
		return p.DelegateAccessor(), true
	case "String":
		return p.String(), true
	case "Delegate":
		switch {
		case p.inner != nil:
			return p.inner, true
		case p.text != "": // the accessor that will read it is not known here
			return ParsePath(PathGeneric, p.text), true
		}
		return NULL, true
	}
	return NULL, false
}

// bounds clamps the two ends of a slice expression.
func bounds(ends []*int64, length int) (from, to int) {
	clamp := func(end *int64, fallback int) int {
		if end == nil {
			return fallback
		}
		n := *end
		if n < 0 {
			n += int64(length)
		}
		return int(min(max(n, 0), int64(length)))
	}
	if len(ends) != 2 {
		return 0, 0
	}
	from, to = clamp(ends[0], 0), clamp(ends[1], length)
	return from, max(from, to)
}

// materialisedMembers are the indices and slices of materialised queries; the
// engine gives their columns itself.
type materialisedMembers struct{}

func (materialisedMembers) Applicable(a, _ types.Any) bool {
	_, ok := a.(*materialised)
	return ok
}

func (materialisedMembers) GetMembers(types.Scope, types.Any) []string { return nil }

func (materialisedMembers) Associative(_ types.Scope, a, b types.Any) (types.Any, bool) {
	m := a.(*materialised)
	if ends, ok := b.([]*int64); ok {
		from, to := bounds(ends, m.Len())
		return m.slice(from, to), true
	}
	i, ok := toInt(b)
	if !ok {
		return NULL, false
	}
	if i < 0 {
		i += int64(m.Len())
	}
	if i < 0 || i >= int64(m.Len()) {
		return NULL, false
	}
	return m.at(int(i)), true
}

// scopeValue is what the function scope() gives: its members are the variables.
type scopeValue struct{ scope *Scope }

// AddColumn implements the engine's lazy row; a scope takes no columns.
func (v *scopeValue) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return v
}

// Has reports whether the variable exists.
func (v *scopeValue) Has(name string) bool {
	_, ok := v.scope.inner.Resolve(name)
	return ok
}

// Columns lists nothing: a scope prints as {}.
func (v *scopeValue) Columns() []string { return nil }

// Get returns a variable, evaluated.
func (v *scopeValue) Get(name string) (types.Any, bool) { return v.scope.Lookup(name) }

// MarshalJSON gives {}.
func (v *scopeValue) MarshalJSON() ([]byte, error) { return []byte("{}"), nil }

// String gives {}.
func (v *scopeValue) String() string { return "{}" }

// artifactName is the variable Artifact and what its members lead to.
type artifactName struct {
	session *session
	name    string
}

// AddColumn implements the engine's lazy row, which it asks for members before it
// would run the artifact; it takes no columns.
func (n *artifactName) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return n
}

// Columns lists nothing.
func (n *artifactName) Columns() []string { return nil }

// Has reports whether a longer name is an artifact or leads to one.
func (n *artifactName) Has(part string) bool {
	exact, prefix := n.session.options.Artifacts.Known(n.join(part))
	return exact || prefix
}

func (n *artifactName) join(part string) string {
	if n.name == "" {
		return part
	}
	return n.name + "." + part
}

// Get returns the longer name.
func (n *artifactName) Get(part string) (types.Any, bool) {
	if !n.Has(part) {
		n.session.log.add(LevelError, "Unknown artifact "+n.join(part))
		return NULL, false
	}
	return &artifactName{session: n.session, name: n.join(part)}, true
}

// Info implements the engine's plugin.
func (n *artifactName) Info(types.Scope, *types.TypeMap) *types.PluginInfo {
	return &types.PluginInfo{Name: "Artifact." + n.name, FreeFormArgs: true}
}

// Eval runs the artifact without arguments, or as an expression with the
// arguments that the call bound in the scope.
func (n *artifactName) Eval(ctx context.Context, inner types.Scope) <-chan types.Row {
	v, _ := inner.Resolve(argsVariable)
	if bound, ok := v.(*boundArgs); ok && bound.name == n.name {
		return n.Call(ctx, inner, bound.args)
	}
	return n.Call(ctx, inner, NewDict())
}

// argsVariable carries the arguments of an artifact called in an expression: the
// engine binds them in a scope and forgets which they were.
const argsVariable = "$artifact_args"

type boundArgs struct {
	name string
	args *Dict
}

// ApplyDefaults implements the engine's hook on the arguments of a call.
func (n *artifactName) ApplyDefaults(_ context.Context, _ types.Scope, args *ordereddict.Dict) {
	bound := NewDict()
	bound.MergeFrom(args)
	args.Set(argsVariable, &boundArgs{name: n.name, args: bound})
}

// maxArtifactDepth is how deep artifacts may call each other.
const maxArtifactDepth = 10

// Call implements the engine's plugin.
func (n *artifactName) Call(ctx context.Context, inner types.Scope, args *ordereddict.Dict) <-chan types.Row {
	scope := scopeOf(inner)
	name := "Artifact." + n.name
	return generate(ctx, inner, func(emit Emit) error {
		if scope.depth >= maxArtifactDepth {
			scope.Log(LevelError, "%s: artifacts call each other more than %d deep", name, maxArtifactDepth)
			return nil
		}
		if exact, _ := n.session.options.Artifacts.Known(n.name); !exact {
			scope.Log(LevelError, "Artifact %s not found", n.name)
			return nil
		}
		defer scope.session.recovered(name)
		ctx, leave := scope.session.join(ctx)
		defer leave()
		ctx = InArtifact(ctx, n.name)
		call := ArtifactCall{Name: n.name, Args: scope.artifactArgs(ctx, args), Depth: scope.depth}
		if err := n.session.options.Artifacts.CallArtifact(ctx, scope, call, emit); err != nil {
			scope.fail(ctx, name, err)
		}
		return nil
	})
}

func (s *Scope) artifactArgs(ctx context.Context, args *Dict) *Dict {
	out := NewDict()
	for _, item := range replaced(ctx, s, args, &argSet{rest: -1}).Items() {
		if item.Key != argsVariable {
			out.Set(item.Key, s.force(ctx, item.Value))
		}
	}
	return out
}
