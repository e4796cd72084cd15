package artifacts

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"raptorpack/vql"
)

// Primitive is what the checker needs to know of a function or plugin.
type Primitive struct {
	Args       []string
	Required   []string
	AnyArgs    bool // takes any further keyword
	Permission string
}

// Primitives lists what queries may call, by name.
type Primitives struct {
	Functions map[string]Primitive
	Plugins   map[string]Primitive
}

// rules are the names of findings, for suppressions.
var rules = strings.Fields("unknown_plugin unknown_artifact_in_query unknown_parameter_in_call invalid_arg required_arg_missing kwargs_mixed_call call_as_function invalid_import artifact_vql_error yaml_error duplicate_parameter invalid_default invalid_tool recursive_call required_permissions symbol_mask_warn unknown_type duplicate_source invalid_pattern")

// warnings are the rules whose findings do not make a file wrong.
var warnings = strings.Fields("required_permissions symbol_mask_warn unknown_type duplicate_source invalid_pattern")

// alwaysImplied permissions need no word of the author.
var alwaysImplied = []string{"FILESYSTEM_READ", "MACHINE_STATE", "COLLECT_SERVER"}

// Verdict is what the checker found out about a definition.
type Verdict struct {
	Problems     []Problem // by line
	Permissions  []string  // that its queries need, sorted
	Definitions  []string  // names that its queries define with LET, sorted
	Suppressions []string  // rules that the file silences, sorted
}

// Check judges a definition against primitives and the other artifacts. File names
// it in the findings. Findings that the file suppresses are left out.
func (r *Repository) Check(file string, d *Definition, known Primitives) []Problem {
	return r.Judge(file, d, known).Problems
}

// Judge is Check with what else came to light.
func (r *Repository) Judge(file string, d *Definition, known Primitives) *Verdict {
	c := &checker{file: file, d: d, repository: r, known: known, defined: map[string]*vql.Statement{}}
	c.suppressions()
	c.imports()
	parts := c.parts()
	own := map[string]bool{}
	for _, part := range parts {
		c.define(part.program)
		for _, s := range part.program.Statements() {
			if s.Name != "" {
				own[s.Name] = true
			}
		}
	}
	for _, part := range parts {
		c.judge(part)
	}
	c.permissions()
	c.parameters()
	c.sourceNames()
	c.tools()
	slices.SortStableFunc(c.problems, func(a, b Problem) int { return a.Line - b.Line })
	return &Verdict{
		Problems: c.problems, Permissions: slices.Sorted(maps.Keys(c.needed)), Definitions: slices.Sorted(maps.Keys(own)),
		Suppressions: slices.Sorted(maps.Keys(c.suppressed)),
	}
}

// CheckProgram judges a program that stands alone: its calls and their arguments.
// Where it does not parse, that is the one finding.
func (r *Repository) CheckProgram(file, text string, known Primitives) []Problem {
	program, err := vql.Parse(text)
	var syntax *vql.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return []Problem{{File: file, Line: syntax.Line, Rule: "artifact_vql_error", Message: fmt.Sprintf("column %d: %s", syntax.Column, syntax.Message)}}
	case err != nil:
		return []Problem{{File: file, Line: 1, Rule: "artifact_vql_error", Message: err.Error()}}
	}
	c := &checker{file: file, d: &Definition{Text: text}, repository: r, known: known, defined: map[string]*vql.Statement{}}
	c.suppressions()
	c.define(program)
	c.judge(part{program: program})
	return c.problems
}

type checker struct {
	file       string
	d          *Definition
	repository *Repository
	known      Primitives
	defined    map[string]*vql.Statement // LETs, wherever they stand
	suppressed map[string][]*regexp.Regexp
	needed     map[string]int  // permission to the line that needs it
	walked     map[string]bool // artifacts that leadsBack has seen
	problems   []Problem
}

type part struct {
	key     string
	program *vql.Program
}

func (c *checker) report(line int, rule, subject, format string, args ...any) {
	for _, pattern := range c.suppressed[rule] {
		if pattern.MatchString(subject) {
			return
		}
	}
	c.problems = append(c.problems, Problem{File: c.file, Line: max(line, 1), Rule: rule, Message: fmt.Sprintf(format, args...), Warning: slices.Contains(warnings, rule)})
}

// parts parses every VQL text of the file; Parse has checked them already.
func (c *checker) parts() []part {
	var out []part
	add := func(key, text string) {
		if program, err := vql.Parse(text); err == nil && strings.TrimSpace(text) != "" {
			out = append(out, part{key, program})
		}
	}
	add("precondition", c.d.Precondition)
	add("export", c.d.Export)
	for i := range c.d.Sources {
		s := &c.d.Sources[i]
		add(fmt.Sprintf("sources[%d].precondition", i), s.Precondition)
		key := fmt.Sprintf("sources[%d].query", i)
		if strings.TrimSpace(s.Query) == "" {
			key = fmt.Sprintf("sources[%d].queries[0]", i)
		}
		add(key, s.text())
	}
	return out
}

var suppression = regexp.MustCompile(`linter:\s*([A-Za-z_]+):("(?:[^"\\]|\\.)*"|\S*)`)

func (c *checker) suppressions() {
	c.suppressed, c.needed = map[string][]*regexp.Regexp{}, map[string]int{}
	for i, line := range strings.Split(c.d.Text, "\n") {
		for _, m := range suppression.FindAllStringSubmatch(line, -1) {
			pattern, err := regexp.Compile(strings.Trim(m[2], `"`))
			if err != nil || !slices.Contains(rules, m[1]) {
				c.report(i+1, "invalid_suppression", "", "linter: %s: unknown rule or broken pattern", m[1])
				continue
			}
			c.suppressed[m[1]] = append(c.suppressed[m[1]], pattern)
		}
	}
}

func (c *checker) imports() {
	for i, name := range c.d.Imports {
		line := c.d.line(fmt.Sprintf("imports[%d]", i))
		imported, err := c.repository.Lookup(name)
		switch {
		case err != nil:
			c.report(line, "invalid_import", name, "imports: unknown artifact %s", name)
		case strings.TrimSpace(imported.Export) == "":
			c.report(line, "invalid_import", name, "imports: %s exports nothing", name)
		default:
			if program, err := vql.Parse(imported.Export); err == nil {
				c.define(program)
			}
		}
	}
}

func (c *checker) define(program *vql.Program) {
	for _, s := range program.Statements() {
		if s.Name != "" {
			c.defined[s.Name] = s
		}
	}
}

func (c *checker) judge(p part) {
	for _, s := range p.program.Statements() {
		for _, site := range s.CallSites {
			line := c.d.line(p.key) + max(site.Start.Line, s.Start.Line) - 1
			switch {
			case strings.HasPrefix(site.Name, "Artifact."):
				c.artifactCall(line, site)
			case strings.Contains(site.Name, "."):
			case site.Kind == "plugin":
				c.primitive(line, site, c.known.Plugins, "plugin")
			case site.Kind == "function":
				c.primitive(line, site, c.known.Functions, "function")
			case site.Kind == "symbol":
				c.symbol(line, site)
			}
		}
	}
}

func (c *checker) primitive(line int, site vql.CallSite, known map[string]Primitive, kind string) {
	primitive, isPrimitive := known[site.Name]
	let := c.defined[site.Name]
	switch {
	case isPrimitive:
		c.arguments(line, site, primitive)
		if primitive.Permission != "" && c.needed[primitive.Permission] == 0 {
			c.needed[primitive.Permission] = line
		}
	case let != nil && len(let.Parameters) == 0 && len(site.Args) > 0:
		c.report(line, "call_as_function", site.Name, "%s: is defined without parameters and called with arguments", site.Name)
	case let != nil:
	case c.isParameter(site.Name):
	default:
		c.report(line, "unknown_plugin", site.Name, "%s: unknown %s", site.Name, kind)
	}
}

func (c *checker) isParameter(name string) bool {
	_, ok := c.d.Parameter(name)
	return ok
}

func (c *checker) arguments(line int, site vql.CallSite, p Primitive) {
	if slices.Contains(site.Args, "**") {
		if len(site.Args) > 1 {
			c.report(line, "kwargs_mixed_call", site.Name, "%s: ** stands beside other arguments, which are lost", site.Name)
		}
		return
	}
	for _, arg := range site.Args {
		if !p.AnyArgs && !slices.Contains(p.Args, arg) {
			c.report(line, "invalid_arg", site.Name, "%s: unknown argument %s", site.Name, arg)
		}
	}
	for _, required := range p.Required {
		if !slices.Contains(site.Args, required) {
			c.report(line, "required_arg_missing", site.Name, "%s: argument %s is required", site.Name, required)
		}
	}
}

func (c *checker) artifactCall(line int, site vql.CallSite) {
	name := strings.TrimPrefix(site.Name, "Artifact.")
	callee := c.d
	if name != c.d.Name {
		e, err := c.repository.longestMatch(name)
		if err != nil {
			c.report(line, "unknown_artifact_in_query", name, "calls an unknown artifact %s", name)
			return
		}
		callee = e.Definition
		c.walked = map[string]bool{}
		if c.leadsBack(e) {
			c.report(line, "recursive_call", name, "calls %s, which calls this artifact again: calls end %d deep", callee.Name, maxDepth)
		}
	} else {
		c.report(line, "recursive_call", name, "calls itself: calls end %d deep", maxDepth)
	}
	for _, arg := range site.Args {
		_, known := callee.Parameter(arg)
		if !known && arg != "source" && arg != "preconditions" && arg != "**" {
			c.report(line, "unknown_parameter_in_call", name, "%s has no parameter %s", callee.Name, arg)
		}
	}
}

func (c *checker) symbol(line int, site vql.CallSite) {
	if c.defined[site.Name] != nil || c.isParameter(site.Name) {
		return
	}
	if _, masked := c.known.Functions[site.Name]; masked {
		c.report(line, "symbol_mask_warn", site.Name, "%s: is named like a function; were brackets forgotten?", site.Name)
	}
}

// permissions warns of primitives that a client artifact neither requires nor
// implies the permission for.
func (c *checker) permissions() {
	if c.d.Type != Client && c.d.Type != ClientEvent {
		return
	}
	for permission, line := range c.needed {
		has := func(list []string) bool {
			return slices.ContainsFunc(list, func(p string) bool { return strings.EqualFold(p, permission) })
		}
		if !has(alwaysImplied) && !has(c.d.RequiredPermissions) && !has(c.d.ImpliedPermissions) {
			c.report(line, "required_permissions", permission, "uses a primitive that needs %s: add it to required_permissions or implied_permissions", permission)
		}
	}
}
