//go:build ignore

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// metric is one exported number. Metrics are found in the source and not by a
// running node, since a counter with labels shows nothing before it was used.
type metric struct{ name, kind, labels, help string }

func metrics() (string, error) {
	var found []metric
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "scripts" || d.Name() == "lab"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		more, err := metricsOf(file)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		found = append(found, more...)
		return nil
	})
	if err != nil {
		return "", err
	}
	slices.SortFunc(found, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	found = slices.Compact(found)
	var out strings.Builder
	out.WriteString("| metric | kind | labels | meaning |\n|---|---|---|---|\n")
	for i, m := range found {
		if i > 0 && found[i-1].name == m.name {
			return "", fmt.Errorf("%s is made in two ways", m.name)
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.name, m.kind, m.labels, cell(m.help))
	}
	return out.String(), nil
}

// helper is a closure of a file that makes metrics: its parameters, and the
// options that it fills from them.
type helper struct {
	params  []string
	options *ast.CompositeLit
	call    *ast.CallExpr // the constructor around the options
}

// metricsOf finds every composite literal of Prometheus options, written out or
// inside of a helper, and evaluates its texts. What it cannot evaluate is an
// error, so that no metric is missing.
func metricsOf(file *ast.File) ([]metric, error) {
	var found []metric
	var failure error
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok || function.Body == nil {
			continue
		}
		helpers := helpersOf(function.Body)
		inside := map[*ast.CompositeLit]bool{}
		for _, h := range helpers {
			inside[h.options] = true
		}
		take := func(m metric, err error) {
			if err != nil && failure == nil {
				failure = err
			}
			found = append(found, m)
		}
		ast.Inspect(function.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if options := optionsOf(call); options != nil && !inside[options] {
				take(evaluate(call, options, nil))
			}
			name, ok := call.Fun.(*ast.Ident)
			if h, known := helpers[nameOf(name, ok)]; known {
				env := map[string]ast.Expr{}
				for i, param := range h.params {
					if i < len(call.Args) {
						env[param] = call.Args[i]
					}
				}
				if last := h.params[len(h.params)-1]; len(call.Args) > len(h.params) {
					env[last] = &ast.CompositeLit{Elts: call.Args[len(h.params)-1:]}
				}
				take(evaluate(h.call, h.options, env))
			}
			return true
		})
	}
	return found, failure
}

func nameOf(ident *ast.Ident, ok bool) string {
	if !ok {
		return ""
	}
	return ident.Name
}

// helpersOf finds `name := func(...) ... { ... prometheus.XOpts{...} ... }`.
func helpersOf(body *ast.BlockStmt) map[string]helper {
	helpers := map[string]helper{}
	ast.Inspect(body, func(n ast.Node) bool {
		assign, ok := n.(*ast.AssignStmt)
		if !ok || len(assign.Lhs) != 1 {
			return true
		}
		closure, ok := assign.Rhs[0].(*ast.FuncLit)
		if !ok {
			return true
		}
		ast.Inspect(closure.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			options := optionsOf(call)
			if options == nil {
				return true
			}
			h := helper{options: options, call: call}
			for _, field := range closure.Type.Params.List {
				for _, name := range field.Names {
					h.params = append(h.params, name.Name)
				}
			}
			helpers[assign.Lhs[0].(*ast.Ident).Name] = h
			return false
		})
		return true
	})
	return helpers
}

// optionsOf returns the first argument of a call if it is prometheus.XOpts{...}.
func optionsOf(call *ast.CallExpr) *ast.CompositeLit {
	if len(call.Args) == 0 {
		return nil
	}
	literal, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return nil
	}
	selector, ok := literal.Type.(*ast.SelectorExpr)
	if !ok || nameOf(asIdent(selector.X)) != "prometheus" || !strings.HasSuffix(selector.Sel.Name, "Opts") {
		return nil
	}
	return literal
}

func asIdent(e ast.Expr) (*ast.Ident, bool) {
	ident, ok := e.(*ast.Ident)
	return ident, ok
}

func evaluate(call *ast.CallExpr, options *ast.CompositeLit, env map[string]ast.Expr) (metric, error) {
	kind := strings.ToLower(strings.TrimSuffix(options.Type.(*ast.SelectorExpr).Sel.Name, "Opts"))
	m := metric{kind: kind}
	parts := map[string]string{}
	for _, element := range options.Elts {
		pair := element.(*ast.KeyValueExpr)
		switch key := pair.Key.(*ast.Ident).Name; key {
		case "Namespace", "Subsystem", "Name", "Help":
			text, err := textOf(pair.Value, env)
			if err != nil {
				return m, fmt.Errorf("%s of a %s: %w", key, kind, err)
			}
			parts[key] = text
		}
	}
	var name []string
	for _, key := range []string{"Namespace", "Subsystem", "Name"} {
		if parts[key] != "" {
			name = append(name, parts[key])
		}
	}
	m.name, m.help = strings.Join(name, "_"), parts["Help"]
	if constructor, ok := call.Fun.(*ast.SelectorExpr); ok && strings.HasSuffix(constructor.Sel.Name, "Vec") && len(call.Args) > 1 {
		labels, err := listOf(call.Args[1], env)
		if err != nil {
			return m, fmt.Errorf("labels of %s: %w", m.name, err)
		}
		m.labels = strings.Join(labels, ", ")
	}
	return m, nil
}

func textOf(e ast.Expr, env map[string]ast.Expr) (string, error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return strconv.Unquote(e.Value)
	case *ast.Ident:
		if bound, ok := env[e.Name]; ok {
			return textOf(bound, nil)
		}
	case *ast.BinaryExpr:
		left, err := textOf(e.X, env)
		if err != nil {
			return "", err
		}
		right, err := textOf(e.Y, env)
		return left + right, err
	}
	return "", fmt.Errorf("%T cannot be evaluated here", e)
}

func listOf(e ast.Expr, env map[string]ast.Expr) ([]string, error) {
	if ident, ok := e.(*ast.Ident); ok {
		bound, ok := env[ident.Name]
		if !ok {
			return nil, fmt.Errorf("%s cannot be evaluated here", ident.Name)
		}
		e = bound
	}
	literal, ok := e.(*ast.CompositeLit)
	if !ok {
		text, err := textOf(e, env)
		return []string{text}, err
	}
	var out []string
	for _, element := range literal.Elts {
		text, err := textOf(element, env)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}
