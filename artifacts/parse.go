package artifacts

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"raptorpack/vql"
)

// Bounds of one file, so that a hostile one cannot take the node's memory.
const (
	maxFileBytes = 4 << 20
	maxAliases   = 100

	// maxFields bounds the fields and items of a file, those that it repeats by
	// aliases of YAML counted each time.
	maxFields = 200_000
)

var (
	validName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)
	permissions  = strings.Fields("ANY_QUERY PUBLISH READ_RESULTS LABEL_CLIENT COLLECT_CLIENT COLLECT_BASIC START_HUNT COLLECT_SERVER ARTIFACT_WRITER SERVER_ARTIFACT_WRITER EXECVE NOTEBOOK_EDITOR SERVER_ADMIN ORG_ADMIN IMPERSONATION FILESYSTEM_READ FILESYSTEM_WRITE NETWORK MACHINE_STATE PREPARE_RESULTS DELETE_RESULTS DATASTORE_ACCESS")
	reportTypes  = strings.Fields("client server_event monitoring_daily hunt internal templates html server")
	cellTypes    = strings.Fields("markdown md vql vql_suggestion none notebook")
	types        = []Type{Client, ClientEvent, Server, ServerEvent, Notebook, Internal}
	programsOnly = strings.Fields("raw compiled built_in compiled_in is_alias is_inherited metadata")
)

// Parse reads one file. Its error lists every problem with file and line.
// Parsing does not look at other artifacts; Check does.
func Parse(file string, text []byte) (*Definition, error) {
	return parse(&parser{file: file}, text)
}

// parseTrusted reads a file as Parse does, but believes that its queries parse.
func parseTrusted(file string, text []byte) (*Definition, error) {
	return parse(&parser{file: file, trusted: true}, text)
}

func parse(p *parser, text []byte) (*Definition, error) {
	p.d = &Definition{Text: string(text), Type: Client, places: map[string]place{}}
	p.run(text)
	if p.problems != nil {
		slices.SortStableFunc(p.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, &Invalid{p.problems}
	}
	return p.d, nil
}

// place is where a text begins in the file, so that line n of it stands in line
// first+n-1.
type place struct{ line int }

type parser struct {
	file     string
	d        *Definition
	problems []Problem
	seen     int  // fields and items
	trusted  bool // queries are not looked at
}

// more counts a field or item and reports whether the file may have it.
func (p *parser) more(node *yaml.Node) bool {
	if p.seen++; p.seen == maxFields+1 {
		p.report(node.Line, "yaml_error", "more than %d fields and items, aliases counted each time", maxFields)
	}
	return p.seen <= maxFields
}

func (p *parser) report(line int, rule, format string, args ...any) {
	p.problems = append(p.problems, Problem{File: p.file, Line: max(line, 1), Rule: rule, Message: fmt.Sprintf(format, args...)})
}

func (p *parser) run(text []byte) {
	if len(text) > maxFileBytes {
		p.report(1, "yaml_error", "the file has more than %d bytes", maxFileBytes)
		return
	}
	text = normalise(stripBOM(text))
	document, err := onlyDocument(text)
	if err != nil {
		p.report(lineOf(err, text), "yaml_error", "%s", yamlPlace.ReplaceAllString(err.Error(), ""))
		return
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		p.report(1, "yaml_error", "expected one artifact: a map of fields")
		return
	}
	p.fields(document.Content[0], "", p.top())
	p.check()
}

var bare = regexp.MustCompile(`^(\s*)((?:- )?\s*)(query|precondition|export):[ \t]*$`)

// normalise makes LF line ends, and reads a line that is only `query:` as
// `query: |`: folding the lines below would turn the rest of the query into a
// comment after the first -- in it. List items that begin with a keyword of VQL
// are read alike.
func normalise(text []byte) []byte {
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	for i, line := range lines {
		if m := bare.FindStringSubmatch(line); m != nil && deeperTextBelow(lines, i, len(m[1])+len(m[2])) {
			lines[i] = strings.TrimRight(line, " \t") + " |"
		}
	}
	return []byte(strings.Join(blockItems(lines), "\n"))
}

var vqlItem = regexp.MustCompile(`^(\s*)- (SELECT|LET|//)(.*)$`)

// blockItems gives list items of VQL text (under queries) a block form, keeping
// the number of lines.
func blockItems(lines []string) []string {
	for i, line := range lines {
		m := vqlItem.FindStringSubmatch(line)
		if m == nil || !deeperTextBelow(lines, i, len(m[1])) {
			continue
		}
		// A block scalar cannot begin on the line of its indicator: quote the whole
		// item instead, which keeps every line where it is.
		end := i + 1
		for end < len(lines) && (strings.TrimSpace(lines[end]) == "" || indent(lines[end]) > len(m[1])) {
			end++
		}
		item := append([]string{m[2] + m[3]}, lines[i+1:end]...)
		lines[i] = m[1] + "- " + strconv.Quote(strings.Join(item, "\n"))
		for j := i + 1; j < end; j++ {
			lines[j] = ""
		}
	}
	return lines
}

func deeperTextBelow(lines []string, i, than int) bool {
	for _, next := range lines[i+1:] {
		if strings.TrimSpace(next) != "" {
			return indent(next) > than
		}
	}
	return false
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// field reads one value; key is its dotted place for messages.
type field func(node *yaml.Node, key string)

func (p *parser) fields(node *yaml.Node, key string, known map[string]field) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Kind != yaml.MappingNode {
		p.report(node.Line, "yaml_error", "%s: expected a map of fields", orFile(key))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content) && p.more(node.Content[i]); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		path := strings.TrimPrefix(key+"."+name.Value, ".")
		read, ok := known[name.Value]
		switch {
		case seen[name.Value]:
			p.report(name.Line, "yaml_error", "%s: stands twice", path)
		case ok:
			read(value, path)
		case key == "" && slices.Contains(programsOnly, name.Value):
		default:
			p.report(name.Line, "yaml_error", "%s: unknown field", path)
		}
		seen[name.Value] = true
	}
}

func orFile(key string) string {
	if key == "" {
		return "the file"
	}
	return key
}

// text reads a scalar as it is written: Y, 20 and 2020-01-01 stay texts.
func (p *parser) text(into *string) field {
	return func(node *yaml.Node, key string) {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		if node.Kind != yaml.ScalarNode {
			p.report(node.Line, "yaml_error", "%s: expected a text", key)
			return
		}
		if node.Tag == "!!null" {
			return
		}
		line := node.Line
		if node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			line++ // the text of a block begins below its indicator
		}
		*into = node.Value
		p.d.places[key] = place{line}
	}
}

func (p *parser) texts(into *[]string) field {
	return func(node *yaml.Node, key string) {
		if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
			return
		}
		if node.Kind == yaml.ScalarNode { // one text instead of a list of one
			var one string
			p.text(&one)(node, key)
			*into = []string{one}
			return
		}
		p.each(node, key, func(item *yaml.Node, key string) {
			var one string
			p.text(&one)(item, key)
			*into = append(*into, one)
		})
	}
}

func (p *parser) each(node *yaml.Node, key string, read field) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Tag == "!!null" {
		return
	}
	if node.Kind != yaml.SequenceNode {
		p.report(node.Line, "yaml_error", "%s: expected a list", key)
		return
	}
	for i, item := range node.Content {
		if !p.more(item) {
			return
		}
		read(item, fmt.Sprintf("%s[%d]", key, i))
	}
}

func (p *parser) flag(into *bool) field {
	return func(node *yaml.Node, key string) {
		if err := node.Decode(into); err != nil {
			p.report(node.Line, "yaml_error", "%s: expected true or false", key)
		}
	}
}

func (p *parser) whole(into *uint64) field {
	return func(node *yaml.Node, key string) {
		n, err := strconv.ParseUint(node.Value, 0, 64)
		if node.Kind != yaml.ScalarNode || err != nil {
			p.report(node.Line, "yaml_error", "%s: expected a whole number", key)
			return
		}
		*into = n
	}
}

func (p *parser) number(into *float64) field {
	return func(node *yaml.Node, key string) {
		n, err := strconv.ParseFloat(node.Value, 64)
		if node.Kind != yaml.ScalarNode || err != nil {
			p.report(node.Line, "yaml_error", "%s: expected a number", key)
			return
		}
		*into = n
	}
}

// ignored takes any value: known fields that have no meaning here.
func (p *parser) ignored(*yaml.Node, string) {}

func (p *parser) top() map[string]field {
	d := p.d
	var kind string
	return map[string]field{
		"name": p.text(&d.Name), "aliases": p.texts(&d.Aliases), "description": p.text(&d.Description),
		"author": p.text(&d.Author), "reference": p.texts(&d.Reference), "references": p.texts(&d.References),
		"type": func(node *yaml.Node, key string) {
			p.text(&kind)(node, key)
			d.Type = Type(strings.ToUpper(kind))
		},
		"parameters":   listOf(p, &d.Parameters, p.parameter),
		"precondition": p.text(&d.Precondition), "export": p.text(&d.Export), "imports": p.texts(&d.Imports),
		"sources": listOf(p, &d.Sources, p.source), "tools": listOf(p, &d.Tools, p.tool),
		"required_permissions": p.texts(&d.RequiredPermissions), "implied_permissions": p.texts(&d.ImpliedPermissions),
		"impersonate": p.text(&d.Impersonate),
		"resources":   func(node *yaml.Node, key string) { p.fields(node, key, p.resources(&d.Resources)) },
		"column_types": listOf(p, &d.ColumnTypes, func(c *ColumnType) map[string]field {
			return map[string]field{"name": p.text(&c.Name), "type": p.text(&c.Type), "description": p.text(&c.Description)}
		}),
		"reports": listOf(p, &d.Reports, p.reportFields),
	}
}

func listOf[T any](p *parser, into *[]T, fields func(*T) map[string]field) field {
	return func(node *yaml.Node, key string) {
		p.each(node, key, func(item *yaml.Node, key string) {
			var one T
			p.fields(item, key, fields(&one))
			*into = append(*into, one)
		})
	}
}

func (p *parser) parameter(a *Parameter) map[string]field {
	return map[string]field{
		"name": p.text(&a.Name), "default": p.text(&a.Default), "description": p.text(&a.Description), "type": p.text(&a.Type),
		"friendly_name": p.text(&a.FriendlyName), "choices": p.texts(&a.Choices), "validating_regex": p.text(&a.ValidatingRegex),
		"artifact_type": p.text(&a.ArtifactType), "sources": p.flag(&a.Sources),
	}
}

func (p *parser) source(s *Source) map[string]field {
	return map[string]field{
		"name": p.text(&s.Name), "description": p.text(&s.Description), "precondition": p.text(&s.Precondition),
		"query": p.text(&s.Query), "queries": p.texts(&s.Queries),
		"notebook": listOf(p, &s.Notebook, func(c *Cell) map[string]field {
			return map[string]field{
				"type": p.text(&c.Type), "name": p.text(&c.Name), "template": p.text(&c.Template), "output": p.text(&c.Output),
				"env": listOf(p, &c.Env, func(e *EnvVar) map[string]field {
					return map[string]field{"key": p.text(&e.Key), "value": p.text(&e.Value)}
				}),
			}
		}),
	}
}

func (p *parser) tool(t *Tool) map[string]field {
	return map[string]field{
		"name": p.text(&t.Name), "version": p.text(&t.Version), "url": p.text(&t.URL), "github_project": p.text(&t.GithubProject),
		"github_asset_regex": p.text(&t.GithubAssetRegex), "serve_locally": p.flag(&t.ServeLocally),
		"expected_hash": p.text(&t.ExpectedHash), "filename": p.text(&t.Filename),
	}
}

func (p *parser) resources(r *Resources) map[string]field {
	return map[string]field{
		"timeout": p.whole(&r.Timeout), "ops_per_second": p.number(&r.OpsPerSecond), "cpu_limit": p.number(&r.CPULimit),
		"iops_limit": p.number(&r.IOPSLimit), "max_rows": p.whole(&r.MaxRows), "max_upload_bytes": p.whole(&r.MaxUploadBytes),
		"max_batch_wait": p.whole(&r.MaxBatchWait), "max_batch_rows": p.whole(&r.MaxBatchRows),
		"max_batch_rows_buffer": p.whole(&r.MaxBatchRowsBytes),
	}
}

func (p *parser) reportFields(r *Report) map[string]field {
	return map[string]field{
		"type": p.text(&r.Type), "name": p.text(&r.Name), "timeout": p.whole(&r.Timeout),
		"parameters": listOf(p, &r.Parameters, p.parameter), "template": p.text(&r.Template),
		"description": p.ignored,
	}
}

// line returns where a field's text begins; 1 when it is not in the file.
func (d *Definition) line(key string) int { return max(d.places[key].line, 1) }

// maxNameBytes bounds an artifact's name: with a source's it becomes the name of a
// result, of which flows take 1,000 bytes.
const maxNameBytes = 250

// check looks at what one file alone can get wrong.
func (p *parser) check() {
	d := p.d
	switch {
	case !validName.MatchString(d.Name):
		p.report(d.line("name"), "yaml_error", "name: %.60q: expected words of letters, digits and _ with dots between", d.Name)
	case len(d.Name) > maxNameBytes:
		p.report(d.line("name"), "yaml_error", "name: %.60q: %d bytes, at most %d are allowed", d.Name, len(d.Name), maxNameBytes)
	}
	if len(d.Aliases) > maxAliases {
		p.report(d.line("aliases[0]"), "yaml_error", "aliases: more than %d", maxAliases)
	}
	for i, alias := range d.Aliases {
		if !validName.MatchString(alias) {
			p.report(d.line(fmt.Sprintf("aliases[%d]", i)), "yaml_error", "aliases: %.60q is no artifact name", alias)
		}
	}
	if !slices.Contains(types, d.Type) {
		p.report(d.line("type"), "yaml_error", "type: %.40q: expected one of %v", d.Type, types)
	}
	p.checkPermissions("required_permissions", d.RequiredPermissions)
	p.checkPermissions("implied_permissions", d.ImpliedPermissions)
	p.checkParameters()
	p.checkSources()
	for i, r := range d.Reports {
		if !slices.Contains(reportTypes, strings.ToLower(r.Type)) && r.Type != "" {
			p.report(d.line(fmt.Sprintf("reports[%d].type", i)), "yaml_error", "reports: unknown type %.40q", r.Type)
		}
	}
}

func (p *parser) checkPermissions(key string, names []string) {
	for i, name := range names {
		if !slices.Contains(permissions, strings.ToUpper(name)) {
			p.report(p.d.line(fmt.Sprintf("%s[%d]", key, i)), "yaml_error", "%s: unknown permission %.40q", key, name)
		}
	}
}

func (p *parser) checkParameters() {
	for i, parameter := range p.d.Parameters {
		if parameter.Name == "" {
			p.report(p.d.line("name"), "yaml_error", "parameters[%d]: has no name", i)
		}
	}
}

func (p *parser) checkSources() {
	d := p.d
	p.vql("precondition", d.Precondition)
	if export := p.vql("export", d.Export); export != nil {
		for _, s := range export.Statements() {
			if s.Kind == vql.KindSelect || s.Kind == vql.KindExplain {
				p.report(d.line("export")+s.Start.Line-1, "artifact_vql_error", "export: expected LET statements only")
			}
		}
	}
	for i := range d.Sources {
		s, key := &d.Sources[i], fmt.Sprintf("sources[%d]", i)
		if d.Precondition != "" && s.Precondition != "" {
			p.report(d.line(key+".precondition"), "artifact_vql_error", "%s: has a precondition beside the artifact's own", key)
		}
		p.vql(key+".precondition", s.Precondition)
		if strings.TrimSpace(s.text()) == "" {
			continue
		}
		where := key + ".query"
		if strings.TrimSpace(s.Query) == "" {
			where = key + ".queries[0]"
		}
		if program := p.vql(where, s.text()); program != nil {
			p.checkOrder(where, program.Statements())
		}
		for j, cell := range s.Notebook {
			if !slices.Contains(cellTypes, strings.ToLower(cell.Type)) {
				p.report(d.line(fmt.Sprintf("%s.notebook[%d].type", key, j)), "yaml_error", "%s.notebook[%d]: unknown type %.40q", key, j, cell.Type)
			}
		}
	}
}

// checkOrder wants LETs and then one SELECT.
func (p *parser) checkOrder(key string, statements []*vql.Statement) {
	for i, s := range statements {
		isSelect := s.Kind == vql.KindSelect || s.Kind == vql.KindExplain
		last := i == len(statements)-1
		if last && !isSelect {
			p.report(p.d.line(key)+s.Start.Line-1, "artifact_vql_error", "%s: the last statement has to be a SELECT", key)
		}
		if !last && isSelect {
			p.report(p.d.line(key)+s.Start.Line-1, "artifact_vql_error", "%s: only the last statement may be a SELECT", key)
		}
	}
}

func (p *parser) vql(key, text string) *vql.Program {
	if p.trusted || strings.TrimSpace(text) == "" {
		return nil
	}
	program, err := vql.Parse(text)
	if err != nil {
		line := p.d.line(key)
		message := err.Error()
		var syntax *vql.SyntaxError
		if errors.As(err, &syntax) {
			line += syntax.Line - 1
			message = syntax.Message
			if syntax.Excerpt != "" {
				message += "\n" + syntax.Excerpt
			}
		}
		p.report(line, "artifact_vql_error", "%s: %s", key, message)
		return nil
	}
	return program
}

// isYAML reports whether a file of this name is read from folders.
func isYAML(name string) bool {
	return strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

// byteOrderMark is what some editors put in front.
var byteOrderMark = []byte("\xef\xbb\xbf")

func stripBOM(text []byte) []byte { return bytes.TrimPrefix(text, byteOrderMark) }
