package vql

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"go.yaml.in/yaml/v3"
	"www.velocidex.com/golang/vfilter/types"
)

func convertFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "str", Doc: "Prints a value; strings and bytes stay as they are."}, strFunction),
		NewFunction(Spec{Name: "int", Doc: "Reads an integer: strings with base prefix, floats cut, else 0."}, intFunction),
		NewFunction(Spec{Name: "atoi", Doc: "Reads an integer from a string; 0 when it is none."}, atoiFunction),
		NewFunction(Spec{Name: "parse_float", Doc: "Reads a float from a string; 0 when it is none."}, floatFunction),
		NewFunction(Spec{Name: "typeof", Doc: "Names a value's type."}, typeofFunction),
		NewFunction(Spec{Name: "serialize", Doc: "Writes a value as json, yaml, csv, hex or base64."}, serializeFunction),
		NewFunction(Spec{Name: "encode", Doc: "Writes a value as hex, base64, string, json, yaml or csv; utf16 decodes."}, encodeFunction),
	}
}

type strArgs struct {
	Str Value `vql:"str,required" doc:"What to print."`
}

func strFunction(ctx context.Context, scope *Scope, args *strArgs) (Value, error) {
	return scope.String(ctx, args.Str), nil
}

type intArgs struct {
	Int Value `vql:"int" doc:"What to read."`
}

func intFunction(ctx context.Context, scope *Scope, args *intArgs) (Value, error) {
	return scope.readInt(ctx, args.Int), nil
}

type stringAny struct {
	String Value `vql:"string,required" doc:"What to read."`
}

func atoiFunction(ctx context.Context, scope *Scope, args *stringAny) (Value, error) {
	return scope.readInt(ctx, args.String), nil
}

// readInt reads an integer; unsigned ones above the signed range stay unsigned.
func (s *Scope) readInt(ctx context.Context, v Value) Value {
	switch t := v.(type) {
	case uint64:
		return t
	case time.Time:
		return t.Unix()
	case *Path:
		v = t.String()
	}
	if text, ok := textOf(v); ok {
		if n, ok := parseInt(text); ok {
			return n
		}
		if f, ok := parseFloat(text); ok {
			return cutFloat(f)
		}
		return int64(0)
	}
	n, _ := toInt(v)
	return n
}

func floatFunction(ctx context.Context, scope *Scope, args *stringAny) (Value, error) {
	if f, ok := toFloat(args.String); ok {
		return f, nil
	}
	f, _ := parseFloat(scope.String(ctx, args.String))
	return f, nil
}

// typeofFunction gives Go's names where artifacts compare with them.
func typeofFunction(ctx context.Context, scope *Scope, args *restArgs) (Value, error) {
	if len(args.Rest) == 0 {
		return nil, fmt.Errorf("an argument is needed")
	}
	v := scope.Real(ctx, args.Rest[0].lazy.raw)
	switch v.(type) {
	case nil, types.Null, *types.Null:
		return "types.Null", nil
	case []any:
		return "[]types.Any", nil
	case *Path:
		return "*accessors.OSPath", nil
	}
	return fmt.Sprintf("%T", v), nil
}

type serializeArgs struct {
	Item   Value  `vql:"item,required" doc:"What to write."`
	Format string `vql:"format" doc:"json (default), jsonl, yaml, csv, hex or base64."`
}

func serializeFunction(ctx context.Context, scope *Scope, args *serializeArgs) (Value, error) {
	switch args.Format {
	case "", "json":
		return scope.indented(ctx, args.Item), nil
	case "hex", "base64":
		return encodeText(scope.String(ctx, args.Item), args.Format), nil
	}
	return scope.encodeRows(ctx, args.Item, args.Format)
}

// indented is JSON indented by one blank.
func (s *Scope) indented(ctx context.Context, v Value) string {
	var out bytes.Buffer
	raw := s.JSON().Append(nil, s.Real(ctx, v))
	if json.Indent(&out, raw, "", " ") != nil {
		return string(raw)
	}
	return out.String()
}

func encodeText(text, format string) string {
	if format == "hex" {
		return hex.EncodeToString([]byte(text))
	}
	return base64.StdEncoding.EncodeToString([]byte(text))
}

func (s *Scope) encodeRows(ctx context.Context, v Value, format string) (Value, error) {
	switch format {
	case "yaml":
		return s.yaml(ctx, v)
	case "csv":
		return s.csv(ctx, v)
	case "jsonl":
		var out []byte
		writer := s.JSON()
		for _, row := range s.Rows(ctx, v) {
			out = append(writer.Append(out, s.Real(ctx, row)), '\n')
		}
		return string(out), nil
	}
	return nil, fmt.Errorf("unknown format %s", format)
}

// yaml goes through the JSON, which is YAML: keys keep their order.
func (s *Scope) yaml(ctx context.Context, v Value) (Value, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(s.JSON().Append(nil, s.Real(ctx, v)), &node); err != nil {
		return nil, fmt.Errorf("write yaml: %w", err)
	}
	plainStyle(&node)
	out, err := yaml.Marshal(&node)
	if err != nil {
		return nil, fmt.Errorf("write yaml: %w", err)
	}
	return string(out), nil
}

func plainStyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.SetString(n.Value)
	}
	for _, child := range n.Content {
		plainStyle(child)
	}
}

// csv writes rows under the columns of the first.
func (s *Scope) csv(ctx context.Context, v Value) (Value, error) {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	var columns []string
	err := s.Iterate(ctx, v, func(row Value) error {
		d := s.Row(ctx, row)
		if columns == nil {
			columns = d.Keys()
			if err := w.Write(columns); err != nil {
				return fmt.Errorf("write csv: %w", err)
			}
		}
		record := make([]string, len(columns))
		for i, name := range columns {
			if cell, ok := d.Get(name); ok {
				record[i] = s.CellText(ctx, cell)
			}
		}
		return w.Write(record)
	})
	w.Flush()
	return out.String(), err
}

// CellText prints a value for a cell of CSV: NULL as nothing, containers as JSON.
func (s *Scope) CellText(ctx context.Context, v Value) string {
	v = s.Real(ctx, v)
	if IsNull(v) {
		return ""
	}
	_, isDict := v.(*Dict)
	if list, ok := asSlice(v); isDict || ok && list.Type().Elem().Kind() != reflect.Uint8 {
		return string(s.JSON().Append(nil, v))
	}
	return s.String(ctx, v)
}

type encodeArgs struct {
	String Value  `vql:"string,required" doc:"What to write."`
	Type   string `vql:"type,required" doc:"hex, base64, string, utf16, json, yaml or csv."`
}

func encodeFunction(ctx context.Context, scope *Scope, args *encodeArgs) (Value, error) {
	switch args.Type {
	case "hex", "base64":
		return encodeText(scope.String(ctx, args.String), args.Type), nil
	case "string":
		return scope.String(ctx, args.String), nil
	case "utf16":
		return decodeUTF16(scope.String(ctx, args.String)), nil
	}
	return serializeFunction(ctx, scope, &serializeArgs{Item: args.String, Format: args.Type})
}
