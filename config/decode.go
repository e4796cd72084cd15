package config

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Ignored keeps a part of the file as it stands, undecoded.
type Ignored struct{ node *yaml.Node }

// IsZero reports whether the file had no such key.
func (i Ignored) IsZero() bool { return i.node == nil }

// MarshalYAML writes the part back as it was.
func (i Ignored) MarshalYAML() (any, error) { return i.node, nil }

// Problem is one thing wrong with a file, at a place that an editor can open.
type Problem struct {
	File    string
	Line    int
	Key     string // dotted path, as Frontend.bind_port
	Message string
	Warning bool // the node starts nevertheless
}

// String prints file:line: key: message on one line.
func (p Problem) String() string {
	where := p.File
	if p.Line > 0 {
		where += ":" + strconv.Itoa(p.Line)
	}
	kind := ""
	if p.Warning {
		kind = "warning: "
	}
	if p.Key == "" {
		return fmt.Sprintf("%s: %s%s", where, kind, p.Message)
	}
	return fmt.Sprintf("%s: %s%s: %s", where, kind, p.Key, p.Message)
}

// decoder walks a YAML tree beside a Go type and collects every problem
// instead of stopping at the first.
type decoder struct {
	file     string
	problems []Problem
	inert    []string
	origin   map[string]int // dotted key to line, for Show
}

func (d *decoder) report(node *yaml.Node, key, format string, args ...any) {
	d.problems = append(d.problems, Problem{File: d.file, Line: node.Line, Key: key, Message: fmt.Sprintf(format, args...)})
}

func (d *decoder) warn(node *yaml.Node, key, format string, args ...any) {
	d.report(node, key, format, args...)
	d.problems[len(d.problems)-1].Warning = true
}

func (d *decoder) value(node *yaml.Node, into reflect.Value, key string) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if into.Type() == reflect.TypeFor[Ignored]() {
		into.Set(reflect.ValueOf(Ignored{node}))
		return
	}
	if node.Tag == "!!null" {
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		d.mapping(node, into, key)
	case reflect.Slice:
		d.list(node, into, key)
	case reflect.Map:
		d.strings(node, into, key)
	default:
		d.scalar(node, into, key)
	}
}

func (d *decoder) mapping(node *yaml.Node, into reflect.Value, key string) {
	if node.Kind != yaml.MappingNode {
		d.report(node, key, "expected a section of keys, found %s", kindOf(node))
		return
	}
	fields := fieldsOf(into.Type())
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, child := node.Content[i], node.Content[i+1]
		path := join(key, name.Value)
		if line, twice := seen[name.Value]; twice {
			d.report(name, path, "stands twice; first at line %d", line)
			continue
		}
		seen[name.Value] = name.Line
		d.origin[path] = name.Line
		index, known := fields[name.Value]
		if !known {
			d.warn(name, path, "unknown key%s", nearest(name.Value, fields))
			continue
		}
		if into.Type().Field(index).Tag.Get("inert") != "" {
			d.inert = append(d.inert, path)
		}
		d.value(child, into.Field(index), path)
	}
}

func (d *decoder) list(node *yaml.Node, into reflect.Value, key string) {
	if node.Kind != yaml.SequenceNode {
		d.report(node, key, "expected a list of texts, found %s", kindOf(node))
		return
	}
	out := reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content))
	for i, child := range node.Content {
		d.value(child, out.Index(i), fmt.Sprintf("%s[%d]", key, i))
	}
	into.Set(out)
}

func (d *decoder) strings(node *yaml.Node, into reflect.Value, key string) {
	if node.Kind != yaml.MappingNode {
		d.report(node, key, "expected a section of texts, found %s", kindOf(node))
		return
	}
	out := reflect.MakeMap(into.Type())
	for i := 0; i+1 < len(node.Content); i += 2 {
		out.SetMapIndex(reflect.ValueOf(node.Content[i].Value), reflect.ValueOf(node.Content[i+1].Value))
	}
	into.Set(out)
}

func (d *decoder) scalar(node *yaml.Node, into reflect.Value, key string) {
	if node.Kind != yaml.ScalarNode {
		d.report(node, key, "expected %s, found %s", typeName(into), kindOf(node))
		return
	}
	var err error
	switch into.Kind() {
	case reflect.String:
		into.SetString(node.Value)
	case reflect.Bool:
		var v bool
		if err = node.Decode(&v); err == nil {
			into.SetBool(v)
		}
	case reflect.Int, reflect.Int64:
		var v int64
		if v, err = strconv.ParseInt(node.Value, 0, 64); err == nil {
			into.SetInt(v)
		}
	case reflect.Uint64:
		var v uint64
		if v, err = strconv.ParseUint(node.Value, 0, 64); err == nil {
			into.SetUint(v)
		}
	default:
		panic("config: no decoder for " + into.Type().String())
	}
	if err != nil {
		shown := node.Value
		if len(shown) > 40 {
			shown = shown[:40] + "..."
		}
		d.report(node, key, "expected %s, found %q", typeName(into), shown)
	}
}

// resolveSecrets replaces "file:PATH" and "env:NAME" in fields marked secret.
func (d *decoder) resolveSecrets(into reflect.Value, key string) {
	for i := range into.NumField() {
		field := into.Type().Field(i)
		path := join(key, yamlName(field))
		if field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[Ignored]() {
			d.resolveSecrets(into.Field(i), path)
			continue
		}
		if field.Tag.Get("secret") == "" {
			continue
		}
		text, err := dereference(into.Field(i).String())
		if err != nil {
			d.problems = append(d.problems, Problem{File: d.file, Line: d.origin[path], Key: path, Message: err.Error()})
			continue
		}
		into.Field(i).SetString(text)
	}
}

// refers reports whether a secret's text only says where the secret is.
func refers(text string) bool {
	return strings.HasPrefix(text, "file:") || strings.HasPrefix(text, "env:")
}

func dereference(text string) (string, error) {
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		raw, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the secret: %w", err)
		}
		return strings.TrimRight(string(raw), "\r\n"), nil
	}
	if name, ok := strings.CutPrefix(text, "env:"); ok {
		value, set := os.LookupEnv(name)
		if !set {
			return "", fmt.Errorf("the environment has no %s", name)
		}
		return value, nil
	}
	return text, nil
}

// setDefaults fills fields that the file left at zero.
func setDefaults(into reflect.Value) {
	for i := range into.NumField() {
		field, value := into.Type().Field(i), into.Field(i)
		if field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[Ignored]() {
			setDefaults(value)
			continue
		}
		text, has := field.Tag.Lookup("default")
		if !has || !value.IsZero() {
			continue
		}
		switch value.Kind() {
		case reflect.String:
			value.SetString(text)
		case reflect.Int, reflect.Int64:
			n, _ := strconv.ParseInt(text, 10, 64) // tags are ours; a test parses them all
			value.SetInt(n)
		case reflect.Uint64:
			n, _ := strconv.ParseUint(text, 10, 64)
			value.SetUint(n)
		}
	}
}

func fieldsOf(t reflect.Type) map[string]int {
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		fields[yamlName(t.Field(i))] = i
	}
	return fields
}

func yamlName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
	return name
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

func typeName(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number of at least 0"
	default:
		return "a text"
	}
}

// nearest suggests the known key that differs least, if one is close.
func nearest(name string, fields map[string]int) string {
	best, distance := "", math.MaxInt
	known := make([]string, 0, len(fields))
	for field := range fields {
		known = append(known, field)
	}
	sort.Strings(known)
	for _, field := range known {
		if d := editDistance(strings.ToLower(name), strings.ToLower(field)); d < distance {
			best, distance = field, d
		}
	}
	if distance > 2 {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			previous, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, previous+cost)
		}
	}
	return row[len(b)]
}
