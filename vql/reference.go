package vql

import (
	"context"
	"slices"
	"strings"
)

// Entry describes one primitive, for documentation and completion.
type Entry struct {
	Name        string   `json:"name"`
	Kind        string   `json:"kind"` // function or plugin
	Description string   `json:"description"`
	Args        []Arg    `json:"args"`
	FreeForm    bool     `json:"free_form_args,omitempty"`
	Columns     []string `json:"columns,omitempty"`
	Permission  string   `json:"permission,omitempty"`
	Platforms   []string `json:"platforms,omitempty"` // none listed is all
	Aggregate   bool     `json:"aggregate,omitempty"`
	Version     int      `json:"version"`
}

// Reference lists all primitives by name, functions before plugins of the same
// name.
func (e *Engine) Reference() []Entry {
	out := make([]Entry, 0, len(e.functions)+len(e.plugins))
	for _, f := range e.functions {
		out = append(out, entry("function", &f.Spec, f.args))
	}
	for _, p := range e.plugins {
		out = append(out, entry("plugin", &p.Spec, p.args))
	}
	slices.SortFunc(out, func(a, b Entry) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Kind, b.Kind)
	})
	return out
}

func entry(kind string, s *Spec, args *argSet) Entry {
	return Entry{
		Name: s.Name, Kind: kind, Description: s.Doc, Args: args.list(), FreeForm: args.rest >= 0,
		Columns: s.Columns, Permission: s.Permission, Platforms: s.Platforms,
		Aggregate: s.Aggregate, Version: version(s),
	}
}

func helpPlugins() []*Plugin {
	return []*Plugin{NewPlugin(Spec{
		Name: "help", Doc: "The reference of all primitives as rows.",
		Columns: []string{"name", "description", "type", "version", "args", "category", "metadata", "platforms", "free_form_args"},
	}, helpPlugin)}
}

func helpPlugin(_ context.Context, scope *Scope, _ *none, emit Emit) error {
	for _, e := range scope.Engine().Reference() {
		metadata := NewDict()
		if e.Permission != "" {
			metadata.Set("permissions", e.Permission)
		}
		row := NewDict().Set("name", e.Name).Set("description", e.Description).
			Set("type", strings.ToUpper(e.Kind[:1])+e.Kind[1:]).Set("version", int64(e.Version)).
			Set("args", argRows(e.Args)).Set("category", "").Set("metadata", metadata).
			Set("platforms", e.Platforms).Set("free_form_args", e.FreeForm)
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
}

func argRows(args []Arg) []any {
	out := make([]any, 0, len(args))
	for _, a := range args {
		out = append(out, NewDict().Set("name", a.Name).Set("type", strings.TrimSuffix(a.Type, "[]")).
			Set("description", a.Doc).Set("repeated", strings.HasSuffix(a.Type, "[]")).Set("required", a.Required))
	}
	return out
}
