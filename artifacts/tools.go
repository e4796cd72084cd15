package artifacts

import (
	"cmp"
	"slices"
	"strings"

	"raptorpack/proto/wirepb"
)

// DeclaredTool is a tool as an artifact defines it.
type DeclaredTool struct {
	Tool     Tool
	Artifact string
}

// Tools lists what all definitions say of tools: those of parents first, then in
// the order in which they became known.
func (r *Repository) Tools() []DeclaredTool {
	var out []DeclaredTool
	for _, one := range r.chain() {
		for _, e := range one.bySerial() {
			for _, t := range e.Tools {
				out = append(out, DeclaredTool{t, e.Name})
			}
		}
	}
	return out
}

// chain lists a repository and its parents, the oldest first.
func (r *Repository) chain() []*Repository {
	var out []*Repository
	for ; r != nil; r = r.parent {
		out = append(out, r)
	}
	slices.Reverse(out)
	return out
}

// bySerial lists the definitions that have tools, each once.
func (r *Repository) bySerial() []*entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*entry
	for name, e := range r.definitions {
		if name == e.Name && len(e.Tools) > 0 { // not under an alias
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *entry) int { return cmp.Compare(a.serial, b.serial) })
	return out
}

// ToolVariables answers what artifacts are told of a tool that one of them declares.
type ToolVariables func(Tool) ([]Value, error)

// toolValues asks for the variables of all tools that the given definitions declare;
// of two of one name the first counts.
func toolValues(ask ToolVariables, entries []*entry) ([]Value, error) {
	if ask == nil {
		return nil, nil
	}
	var out []Value
	known := map[string]bool{}
	for _, e := range entries {
		for _, t := range e.Tools {
			if known[t.Name] {
				continue
			}
			known[t.Name] = true
			values, err := ask(t)
			if err != nil {
				return nil, err
			}
			out = append(out, values...)
		}
	}
	return out, nil
}

// withTools adds the tools' variables to a request's, and to the parameters of each
// bundled artifact: a called one sees nothing else.
func withTools(env []*wirepb.VQLEnv, bundle []*wirepb.Artifact, values []Value) []*wirepb.VQLEnv {
	for _, v := range values {
		env = slices.DeleteFunc(env, func(e *wirepb.VQLEnv) bool { return e.Key == v.Name })
		env = append(env, &wirepb.VQLEnv{Key: v.Name, Value: v.Value})
		for _, a := range bundle {
			a.Parameters = slices.DeleteFunc(a.Parameters, func(p *wirepb.ArtifactParameter) bool { return strings.EqualFold(p.Name, v.Name) })
			a.Parameters = append(a.Parameters, &wirepb.ArtifactParameter{Name: v.Name, Default: v.Value})
		}
	}
	return env
}
