package artifacts

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"raptorpack/vql"
)

// compiled is a definition's VQL in parsed form.
type compiled struct {
	conversions  []*vql.Statement // one for each parameter that is not a plain text
	export       []*vql.Statement
	precondition []*vql.Statement
	sources      []compiledSource
	calls        []string // names of artifacts that any part calls, sorted
	mentions     []string // names that may be called from a text or a value, sorted
}

type compiledSource struct {
	source       *Source
	result       string
	precondition []*vql.Statement
	lets         []*vql.Statement
	final        *vql.Statement
}

func (e *entry) compile() (*compiled, error) {
	e.once.Do(func() { e.compiled, e.err = compileDefinition(e.Definition) })
	return e.compiled, e.err
}

func compileDefinition(d *Definition) (*compiled, error) {
	c := &compiled{}
	var texts []string
	parse := func(what, text string) ([]*vql.Statement, error) {
		if strings.TrimSpace(text) == "" {
			return nil, nil
		}
		texts = append(texts, text)
		program, err := vql.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("compile artifact %s: %s: %w", d.Name, what, err)
		}
		c.reach(program.Statements())
		return program.Statements(), nil
	}
	var err error
	for _, parameter := range d.Parameters {
		text := conversion(parameter)
		converted, err := parse("parameter "+parameter.Name, text)
		if err != nil {
			return nil, err
		}
		c.conversions = append(c.conversions, converted...)
	}
	if c.export, err = parse("export", d.Export); err != nil {
		return nil, err
	}
	if c.precondition, err = parse("precondition", d.Precondition); err != nil {
		return nil, err
	}
	for i := range d.Sources {
		s := &d.Sources[i]
		statements, err := parse("source "+s.Name, s.text())
		if err != nil {
			return nil, err
		}
		if statements == nil {
			continue
		}
		one := compiledSource{source: s, result: d.ResultName(s), final: statements[len(statements)-1], lets: statements[:len(statements)-1]}
		if one.precondition, err = parse("precondition of source "+s.Name, s.Precondition); err != nil {
			return nil, err
		}
		c.sources = append(c.sources, one)
	}
	c.mention(texts)
	c.calls, c.mentions = sortedSet(c.calls), sortedSet(c.mentions)
	return c, nil
}

const callPrefix = "Artifact."

// reach notes the artifacts that statements call. A name without brackets may be
// a query as a value, or a column.
func (c *compiled) reach(statements []*vql.Statement) {
	for _, s := range statements {
		for _, site := range s.CallSites {
			name, ok := strings.CutPrefix(site.Name, callPrefix)
			switch {
			case !ok:
			case site.Kind == "symbol":
				c.mentions = append(c.mentions, name)
			default:
				c.calls = append(c.calls, name)
			}
		}
	}
}

var artifactCall = regexp.MustCompile(`\bArtifact\.([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)\s*\(`)

// mention notes calls by their text, wherever they stand: also in strings that
// are run as queries, and in comments. Names that are built at run time are not
// found.
func (c *compiled) mention(texts []string) {
	for _, text := range texts {
		for _, m := range artifactCall.FindAllStringSubmatch(text, -1) {
			c.mentions = append(c.mentions, m[1])
		}
	}
}

func sortedSet(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// quoteName writes a parameter's name as an identifier of VQL.
func quoteName(name string) string {
	plain := name != "" && !strings.ContainsAny(name[:1], "0123456789") &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
	for i := range len(name) {
		if !strings.Contains("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", name[i:i+1]) {
			plain = false
		}
	}
	if plain && !slices.Contains(keywords, strings.ToUpper(name)) {
		return name
	}
	return "`" + strings.ReplaceAll(name, "`", "") + "`"
}

var keywords = strings.Fields("EXPLAIN SELECT WHERE AND OR FROM NOT AS IN LIMIT NULL DESC TRUE FALSE LET")

// quoteText writes a text as a string of VQL.
func quoteText(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`).Replace(text) + "'"
}

// isText is a condition that is true while the parameter is still the text it
// came as; a caller in VQL may pass a real value instead. The trailing comma
// keeps a list one argument.
func isText(name string) string {
	return "format(format='%T', args=[" + name + ",]) = 'string'"
}

// conversion is the statement that turns a parameter's text into its value; empty
// for types that stay texts.
func conversion(p Parameter) string {
	name := quoteName(p.Name)
	structured := func(call string) string {
		return "LET " + name + " <= if(condition=" + isText(name) + ", then=" + call + ", else=" + name + ")"
	}
	switch strings.ToLower(p.Type) {
	case "int", "int64", "integer":
		return "LET " + name + " <= int(int=" + name + ")"
	case "float":
		return "LET " + name + " <= parse_float(string=" + name + ")"
	case "timestamp":
		return "LET " + name + " <= timestamp(epoch=" + name + ")"
	case "bool":
		value := "get(field=" + quoteText(p.Name) + ")"
		return "LET " + name + " <= " + value + " = TRUE OR " + value + " =~ '^(Y|TRUE|YES|OK)$'"
	case "csv", "artifactset":
		return structured("{ SELECT * FROM parse_csv(filename=" + name + ", accessor='data') }")
	case "json":
		return structured("parse_json(data=" + name + ")")
	case "json_array", "regex_array", "multichoice":
		return structured("parse_json_array(data=" + name + ")")
	case "yaml":
		return structured("parse_yaml(filename=" + name + ", accessor='data')")
	case "xml":
		return structured("parse_xml(file=" + name + ", accessor='data')")
	case "starlark":
		return structured("starl(code=" + name + ")")
	case "upload":
		return fetched(name, "")
	case "upload_file":
		// The file has to outlive this statement.
		return fetched(name, ", tempfile_extension='.tmp', remove_last=TRUE")
	}
	return ""
}

// fetched turns a URL into what it holds; an empty one, or one that cannot be
// fetched, into NULL: the text of an error is no content.
func fetched(name, how string) string {
	return "LET " + name + " <= if(condition=" + name + ", then={ SELECT Content FROM http_client(url=" + name + how + ") WHERE Response = 200 })[0].Content"
}
