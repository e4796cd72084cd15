package vql

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/Velocidex/ordereddict"
	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/types"
)

// explainer writes the trace of EXPLAIN to the query's log, at DEBUG.
type explainer struct{ session *session }

func (e explainer) say(format string, args ...any) {
	e.session.log.send(LevelDebug, fmt.Sprintf(format, args...))
}

// StartQuery implements the engine's explainer.
func (e explainer) StartQuery(node any) {
	e.say("Explain start query: %s", vfilter.FormatToString(printScope, node))
}

// PluginOutput implements the engine's explainer.
func (e explainer) PluginOutput(node any, row types.Row) {
	name := ""
	if p, ok := node.(*vfilter.Plugin); ok {
		name = p.Name
	}
	e.say(" plugin %s() sent row: %s", name, e.row(row))
}

// SelectOutput implements the engine's explainer.
func (e explainer) SelectOutput(row types.Row) { e.say(" SELECT: emitting row: %s", e.row(row)) }

// ParseArgs implements the engine's explainer.
func (e explainer) ParseArgs(args *ordereddict.Dict, result any, err error) {
	e.parsed(args, result, err)
}

func (e explainer) parsed(args argSource, result any, err error) {
	if err != nil {
		given := NewDict()
		for _, item := range args.Items() {
			given.Set(item.Key, item.Value)
		}
		e.say("  arg parsing: error %v while parsing %s", err, AppendJSON(nil, given))
		return
	}
	e.say("  arg parsing: %s", describeArgs(result))
}

// RejectRow implements the engine's explainer.
func (e explainer) RejectRow(where any) {
	e.say(" REJECTED by %s", vfilter.FormatToString(printScope, where))
}

// Log implements the engine's explainer.
func (e explainer) Log(message string) { e.say("%s", message) }

func (e explainer) row(row types.Row) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, name := range e.session.root.GetMembers(row) {
		v, ok := e.session.root.Associative(row, name)
		if !ok {
			continue
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "{%s %s %s}", TypeName(v), name, shorten(fmt.Sprintf("%v", v), 200))
	}
	b.WriteByte(']')
	return b.String()
}

// describeArgs prints the arguments that were given.
func describeArgs(result any) string {
	v, ok := result.(reflect.Value)
	if !ok || !v.IsValid() {
		return "{}"
	}
	v = reflect.Indirect(v)
	var parts []string
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if name, _, _ := strings.Cut(field.Tag.Get("vql"), ","); name != "" && !v.Field(i).IsZero() {
			parts = append(parts, fmt.Sprintf("%s: %s", name, shorten(fmt.Sprintf("%v", describe(v.Field(i).Interface())), 200)))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func describe(v any) any {
	switch v.(type) {
	case Query:
		return "query"
	case Lazy:
		return "lazy"
	}
	return v
}

// TypeName names a value's type in the language's words: null, bool, int, float,
// string, bytes, time, array, dict, path, query, lazy or object.
func TypeName(v Value) string {
	switch v.(type) {
	case nil, types.Null, *types.Null:
		return "null"
	case bool:
		return "bool"
	case float64, float32:
		return "float"
	case string:
		return "string"
	case []byte:
		return "bytes"
	case time.Time, *time.Time:
		return "time"
	case *Dict:
		return "dict"
	case *Path:
		return "path"
	case types.StoredQuery:
		return "query"
	case types.LazyExpr, types.StoredExpression, types.LazyRow:
		return "lazy"
	}
	if _, ok := asSlice(v); ok {
		return "array"
	}
	if _, ok := toInt(v); ok {
		return "int"
	}
	return "object"
}
