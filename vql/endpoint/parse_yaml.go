package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
	"raptorpack/vql"
)

// errYAML means that a document nests too deep or unfolds to too much.
var errYAML = errors.New("bad YAML")

const (
	maxYAMLSize  = 16 << 20
	maxYAMLDepth = 500
	maxYAMLNodes = 1 << 20
)

type parseYAMLArgs struct {
	Filename *vql.Path `vql:"filename,required" doc:"The file to parse."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Schema   []string  `vql:"schema" doc:"Schemas of the data; they are not checked."`
}

var parseYAMLFunction = vql.NewFunction(vql.Spec{
	Name: "parse_yaml", Permission: "FILESYSTEM_READ", Doc: "Parses a YAML document; keys keep their order.",
}, func(ctx context.Context, scope *vql.Scope, args *parseYAMLArgs) (vql.Value, error) {
	warnSchema(scope, "parse_yaml", args.Schema)
	data, err := readAt(ctx, scope, args.Accessor, args.Filename, 0, maxYAMLSize+1)
	if err != nil {
		return nil, err
	}
	if len(data) > maxYAMLSize {
		return nil, fmt.Errorf("%w: more than %d bytes", errYAML, maxYAMLSize)
	}
	return decodeYAML(data)
})

// tooManyNodes tells before parsing, which takes some hundred bytes of memory a
// node, whether a document may have more than maxYAMLNodes: between any two of
// them stands one of these.
func tooManyNodes(data []byte) bool {
	separators := bytes.Count(data, []byte("- "))
	for _, c := range "\n\r,:[{?" {
		separators += bytes.Count(data, []byte{byte(c)})
	}
	return separators > maxYAMLNodes
}

// DecodeYAML gives a document, within the bounds of parse_yaml(), as queries see it.
func DecodeYAML(data []byte) (vql.Value, error) { return decodeYAML(data) }

func decodeYAML(data []byte) (vql.Value, error) {
	if tooManyNodes(data) {
		return nil, fmt.Errorf("%w: too many nodes", errYAML)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	d := yamlDecoder{}
	return d.value(doc.Content[0], 0)
}

// yamlDecoder counts what it unfolds, because aliases make small documents large.
type yamlDecoder struct{ nodes int }

func (d *yamlDecoder) value(n *yaml.Node, depth int) (vql.Value, error) {
	if d.nodes++; d.nodes > maxYAMLNodes || depth > maxYAMLDepth {
		return nil, fmt.Errorf("%w: too deep or too many nodes", errYAML)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return d.value(n.Alias, depth+1)
	case yaml.MappingNode:
		return d.mapping(n, depth)
	case yaml.SequenceNode:
		out := make([]vql.Value, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := d.value(c, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return n.Value, nil // a tag we do not know: the text is still there
	}
	if i, ok := v.(int); ok {
		return int64(i), nil
	}
	return v, nil
}

func (d *yamlDecoder) mapping(n *yaml.Node, depth int) (vql.Value, error) {
	out := vql.NewDict()
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		v, err := d.value(n.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		merged, ok := v.(*vql.Dict)
		if key.Tag != "!!merge" || !ok {
			out.Set(key.Value, v)
			continue
		}
		for _, name := range merged.Keys() {
			if _, have := out.Get(name); !have {
				value, _ := merged.Get(name)
				out.Set(name, value)
			}
		}
	}
	return out, nil
}
