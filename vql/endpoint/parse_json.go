package endpoint

import (
	"bytes"
	"context"
	"fmt"

	"raptorpack/vql"
)

type parseJSONArgs struct {
	Data   string   `vql:"data,required" doc:"The text to parse."`
	Schema []string `vql:"schema" doc:"Schemas of the data; they are not checked."`
}

func warnSchema(scope *vql.Scope, name string, schema []string) {
	if len(schema) > 0 {
		scope.Log(vql.LevelWarn, "%s: schema is not checked by this build", name)
	}
}

var parseJSONFunction = vql.NewFunction(vql.Spec{
	Name: "parse_json", Doc: "Parses a JSON text. Keys keep their order, integers stay integers.",
}, func(_ context.Context, scope *vql.Scope, args *parseJSONArgs) (vql.Value, error) {
	warnSchema(scope, "parse_json", args.Schema)
	return decodeJSON([]byte(args.Data))
})

var parseJSONArrayFunction = vql.NewFunction(vql.Spec{
	Name: "parse_json_array", Doc: "Parses a JSON text that is an array.",
}, func(_ context.Context, scope *vql.Scope, args *parseJSONArgs) (vql.Value, error) {
	warnSchema(scope, "parse_json_array", args.Schema)
	return jsonArray(args.Data)
})

func jsonArray(data string) ([]vql.Value, error) {
	v, err := decodeJSON([]byte(data))
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%w: not an array", errJSON)
	}
	return list, nil
}

var parseJSONArrayPlugin = vql.NewPlugin(vql.Spec{
	Name: "parse_json_array", Doc: "Gives a row for each element of a JSON array.",
}, func(_ context.Context, scope *vql.Scope, args *parseJSONArgs, emit vql.Emit) error {
	warnSchema(scope, "parse_json_array", args.Schema)
	list, err := jsonArray(args.Data)
	if err != nil {
		return err
	}
	for _, v := range list {
		if err := emit(rowOf(v)); err != nil {
			return err
		}
	}
	return nil
})

// rowOf makes a row of a value; one without members becomes the column _value.
func rowOf(v vql.Value) *vql.Dict {
	if d, ok := v.(*vql.Dict); ok {
		return d
	}
	row := vql.NewDict()
	row.Set("_value", v)
	return row
}

type parseJSONLArgs struct {
	Filename *vql.Path `vql:"filename,required" doc:"The file to read."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
}

// maxJSONLine bounds one line of a JSON lines file.
const maxJSONLine = 64 << 20

var parseJSONLPlugin = vql.NewPlugin(vql.Spec{
	Name: "parse_jsonl", Permission: "FILESYSTEM_READ",
	Doc: "Gives a row for each line of a JSON lines file. Lines that are no JSON are skipped and counted.",
}, func(ctx context.Context, scope *vql.Scope, args *parseJSONLArgs, emit vql.Emit) error {
	emit = stopping(emit)
	bad := 0
	defer func() {
		if bad > 0 {
			scope.Log(vql.LevelWarn, "parse_jsonl: %s: skipped %d lines that are no JSON", shortName(args.Filename.String()), bad)
		}
	}()
	return eachFile(ctx, scope, "parse_jsonl", args.Accessor, []*vql.Path{args.Filename}, func(_ *vql.Path, file vql.ReadSeekCloser) error {
		return eachRecord(ctx, scope, file, nil, maxJSONLine, func(line string) error {
			text := bytes.TrimSpace([]byte(line))
			if len(text) == 0 {
				return nil
			}
			v, err := decodeJSON(text)
			if err != nil {
				bad++
				return nil
			}
			return emit(rowOf(v))
		})
	})
})
