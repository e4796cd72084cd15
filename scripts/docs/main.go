//go:build ignore

// Docs writes the parts of docs/ that come from code: tables of configuration
// keys, metrics, query primitives, artifacts and roles. They stand between
// comments, so that the text around them is written by people.
//
//	go run scripts/docs/*.go         writes them
//	go run scripts/docs/*.go -check   fails if any of them is not what the code says
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"raptorpack/artifacts"
	"raptorpack/cmd/agent"
	"raptorpack/config"
	"raptorpack/users"
	"raptorpack/vql"
	"raptorpack/vql/server"
)

// part is one generated piece of a page.
type part struct {
	page string
	name string
	make func() (string, error)
}

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	stale := 0
	for _, p := range []part{
		{"configuration.md", "keys", configuration},
		{"configuration.md", "inert", inert},
		{"metrics.md", "metrics", metrics},
		{"vql.md", "core", func() (string, error) { return primitives(coreEngine) }},
		{"vql.md", "endpoint", func() (string, error) { return primitives(agent.Engine) }},
		{"vql.md", "server", func() (string, error) { return primitives(serverEngine) }},
		{"artifacts.md", "builtin", builtIns},
		{"permissions.md", "roles", roles},
	} {
		fresh, err := p.make()
		if err != nil {
			return fmt.Errorf("%s, %s: %w", p.page, p.name, err)
		}
		changed, err := p.splice(fresh, check)
		if err != nil {
			return err
		}
		if changed && check {
			fmt.Fprintf(os.Stderr, "docs/%s: the part %q is stale\n", p.page, p.name)
			stale++
		}
	}
	if stale > 0 {
		return fmt.Errorf("%d parts are stale: run make docs", stale)
	}
	return nil
}

// splice puts fresh text between the part's comments.
func (p part) splice(fresh string, check bool) (changed bool, err error) {
	path := filepath.Join("docs", p.page)
	text, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	begin, end := "<!-- begin "+p.name+": made by make docs -->\n", "<!-- end "+p.name+" -->"
	head, rest, ok := bytes.Cut(text, []byte(begin))
	_, tail, closed := bytes.Cut(rest, []byte(end))
	if !ok || !closed {
		return false, fmt.Errorf("%s has no lines %q and %q", path, strings.TrimSpace(begin), end)
	}
	out := slices.Concat(head, []byte(begin), []byte("\n"+fresh+"\n"), []byte(end), tail)
	if bytes.Equal(out, text) || check {
		return !bytes.Equal(out, text), nil
	}
	return true, os.WriteFile(path, out, 0o644)
}

// key is one line of the configuration's table.
type key struct {
	path, kind, value, inert string
	secret                   bool
}

func keysOf(t reflect.Type, above string) []key {
	var out []key
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		path := strings.TrimPrefix(above+"."+name, ".")
		if field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[config.Ignored]() {
			out = append(out, keysOf(field.Type, path)...)
			continue
		}
		out = append(out, key{path, kindOf(field.Type), field.Tag.Get("default"), field.Tag.Get("inert"), field.Tag.Get("secret") != ""})
	}
	return out
}

func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "number"
	case reflect.Slice:
		return "list"
	case reflect.Map, reflect.Struct:
		return "section"
	}
	return "text"
}

func configuration() (string, error) {
	var out strings.Builder
	known := map[string]bool{}
	section := ""
	for _, k := range keysOf(reflect.TypeFor[config.File](), "") {
		known[k.path] = true
		meaning, told := meanings[k.path]
		if k.inert != "" {
			if told {
				return "", fmt.Errorf("%s has no effect, but scripts/docs/keys.go tells one", k.path)
			}
			continue
		}
		if !told {
			return "", fmt.Errorf("%s has no line in scripts/docs/keys.go", k.path)
		}
		if top, _, below := strings.Cut(k.path, "."); section == "" || below && top != section || !below && section != "(top)" {
			if section = top; !below {
				section = "(top)"
			}
			fmt.Fprintf(&out, "\n### %s\n\n| key | kind | default | meaning |\n|---|---|---|---|\n", section)
		}
		if k.secret {
			meaning += " *Secret.*"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", strings.TrimPrefix(k.path, section+"."), k.kind, code(k.value), meaning)
	}
	for path := range meanings {
		if !known[path] {
			return "", fmt.Errorf("scripts/docs/keys.go tells of %s, which is no key", path)
		}
	}
	return strings.TrimLeft(out.String(), "\n"), nil
}

func inert() (string, error) {
	var out strings.Builder
	out.WriteString("| key | why |\n|---|---|\n")
	for _, k := range keysOf(reflect.TypeFor[config.File](), "") {
		if k.inert != "" {
			fmt.Fprintf(&out, "| `%s` | %s |\n", k.path, k.inert)
		}
	}
	return out.String(), nil
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// cell is a text for a table's cell.
func cell(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.ReplaceAll(text, "|", `\|`)
}

func coreEngine() (*vql.Engine, error) { return vql.NewEngine(nil, nil) }

func serverEngine() (*vql.Engine, error) {
	return vql.NewEngine(server.Functions(), server.Plugins())
}

// primitives prints the functions and plugins of an engine. Those that every
// engine has are printed with the core's alone.
func primitives(make func() (*vql.Engine, error)) (string, error) {
	core, err := coreEngine()
	if err != nil {
		return "", err
	}
	engine, err := make()
	if err != nil {
		return "", err
	}
	entries := engine.Reference()
	if shared := core.Reference(); len(shared) < len(entries) {
		everywhere := map[string]bool{}
		for _, e := range shared {
			everywhere[e.Kind+e.Name] = true
		}
		entries = slices.DeleteFunc(entries, func(e vql.Entry) bool { return everywhere[e.Kind+e.Name] })
	}
	var out strings.Builder
	for _, kind := range []string{"plugin", "function"} {
		fmt.Fprintf(&out, "**%ss**\n\n| name | arguments | what it does |\n|---|---|---|\n", strings.ToUpper(kind[:1])+kind[1:])
		for _, e := range entries {
			if e.Kind == kind {
				fmt.Fprintf(&out, "| `%s` | %s | %s |\n", e.Name, arguments(e), remarks(e))
			}
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n", nil
}

func arguments(e vql.Entry) string {
	var out []string
	for _, a := range e.Args {
		name := a.Name
		if a.Required {
			name = "**" + name + "**"
		}
		out = append(out, name)
	}
	if e.FreeForm {
		out = append(out, "any")
	}
	return strings.Join(out, ", ")
}

func remarks(e vql.Entry) string {
	text := cell(e.Description)
	if e.Permission != "" {
		text += " Needs " + e.Permission + "."
	}
	if len(e.Platforms) > 0 {
		text += " Only on " + strings.Join(e.Platforms, ", ") + "."
	}
	return text
}

func builtIns() (string, error) {
	repository, err := artifacts.BuiltIn()
	if err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString("| name | type | parameters | what it collects |\n|---|---|---|---|\n")
	for _, d := range repository.List() {
		var parameters []string
		for _, p := range d.Parameters {
			parameters = append(parameters, p.Name)
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", d.Name, d.Type, strings.Join(parameters, ", "), cell(sentence(d.Description)))
	}
	return out.String(), nil
}

// sentence is the first sentence of a text.
func sentence(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if at := regexp.MustCompile(`[.:](?: |$)`).FindStringIndex(text); at != nil {
		return strings.TrimRight(text[:at[0]], ":") + "."
	}
	return text
}

func roles() (string, error) {
	var out strings.Builder
	out.WriteString("| permission |")
	for _, role := range users.Roles() {
		fmt.Fprintf(&out, " %s |", role)
	}
	out.WriteString("\n|---|" + strings.Repeat("---|", len(users.Roles())) + "\n")
	for _, permission := range users.Permissions() {
		fmt.Fprintf(&out, "| %s |", permission)
		for _, role := range users.Roles() {
			mark := ""
			if slices.Contains(users.PermissionsOf([]string{role}), permission) {
				mark = "yes"
			}
			fmt.Fprintf(&out, " %s |", mark)
		}
		out.WriteString("\n")
	}
	return out.String(), nil
}
