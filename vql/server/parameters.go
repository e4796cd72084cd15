package server

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"raptorpack/artifacts"
	"raptorpack/flows"
	"raptorpack/vql"
)

// parameterWriter turns values of a query into the texts that parameters travel
// as.
type parameterWriter struct {
	ctx        context.Context //nolint:containedctx // lives as long as one call
	scope      *vql.Scope
	repository *artifacts.Repository
}

// env gives each parameter to all artifacts that declare it.
func (w *parameterWriter) env(c *Collection, env *vql.Dict) error {
	if env == nil {
		return nil
	}
	for _, name := range env.Keys() {
		value, _ := env.Get(name)
		one, taken := vql.NewDict().Set(name, value), false
		for i := range c.Artifacts {
			if _, declared := w.parameter(c.Artifacts[i].Name, name); declared {
				w.write(&c.Artifacts[i], one)
				taken = true
			}
		}
		if !taken {
			return fmt.Errorf("env: none of the artifacts has a parameter %.60q: %w", name, ErrArgument)
		}
	}
	return nil
}

// specs lays the parameters of single artifacts over those of all.
func (w *parameterWriter) specs(c *Collection, spec *vql.Dict) error {
	if spec == nil {
		return nil
	}
	for _, name := range spec.Keys() {
		at := slices.IndexFunc(c.Artifacts, func(a flows.Artifact) bool { return a.Name == name })
		if at < 0 {
			return fmt.Errorf("spec names %.100q, which is not among the artifacts: %w", name, ErrArgument)
		}
		value, _ := spec.Get(name)
		parameters, ok := w.scope.Real(w.ctx, value).(*vql.Dict)
		if !ok {
			return fmt.Errorf("spec of %s: expected a dict of parameters: %w", name, ErrArgument)
		}
		w.write(&c.Artifacts[at], parameters)
	}
	return nil
}

// write sets parameters of one artifact; a name that is set already is replaced.
func (w *parameterWriter) write(a *flows.Artifact, parameters *vql.Dict) {
	for _, name := range parameters.Keys() {
		value, _ := parameters.Get(name)
		kind, _ := w.parameter(a.Name, name)
		text := w.text(w.scope.Real(w.ctx, value), kind)
		at := slices.IndexFunc(a.Parameters, func(p flows.Parameter) bool { return p.Name == name })
		if at < 0 {
			at = len(a.Parameters)
			a.Parameters = append(a.Parameters, flows.Parameter{Name: name})
		}
		a.Parameters[at].Value = text
	}
}

// parameter is the declared type of a parameter in lower case, and whether there
// is such a parameter. What an artifact lacks is Collect's to tell.
func (w *parameterWriter) parameter(artifact, parameter string) (kind string, declared bool) {
	name, _, _ := strings.Cut(artifact, "/")
	d, err := w.repository.Lookup(name)
	if err != nil {
		return "", false
	}
	p, ok := d.Parameter(parameter)
	if !ok {
		return "", false
	}
	return strings.ToLower(p.Type), true
}

// text is what the parameter's type reads back: Y for true, CSV for rows where
// the type is csv, JSON for lists and dicts.
func (w *parameterWriter) text(v vql.Value, kind string) string {
	switch v := v.(type) {
	case bool:
		if v {
			return "Y"
		}
		return "N"
	case string:
		return v
	}
	if vql.IsNull(v) {
		return ""
	}
	_, isDict := v.(*vql.Dict)
	if !isDict && !isList(v) {
		return w.scope.String(w.ctx, v)
	}
	if rows := w.scope.Rows(w.ctx, v); (kind == "csv" || kind == "artifactset") && len(rows) > 0 {
		return w.csv(rows)
	}
	return string(w.scope.AppendJSON(nil, v))
}

func isList(v vql.Value) bool {
	kind := reflect.TypeOf(v).Kind()
	_, text := v.([]byte)
	return kind == reflect.Slice && !text
}

// csv writes rows as a table; the first row names the columns.
func (w *parameterWriter) csv(rows []vql.Value) string {
	var out bytes.Buffer
	table := csv.NewWriter(&out)
	var columns []string
	for i, value := range rows {
		row := w.scope.Row(w.ctx, value)
		if i == 0 {
			columns = row.Keys()
			_ = table.Write(columns) // a buffer does not fail
		}
		cells := make([]string, len(columns))
		for j, name := range columns {
			if cell, ok := row.Get(name); ok && !vql.IsNull(cell) {
				cells[j] = w.scope.String(w.ctx, cell)
			}
		}
		_ = table.Write(cells)
	}
	table.Flush()
	return out.String()
}
