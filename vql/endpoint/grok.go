package endpoint

import (
	"context"
	"fmt"
	"slices"

	"github.com/Velocidex/grok"
	"raptorpack/vql"
)

type grokArgs struct {
	Grok        string    `vql:"grok,required" doc:"The pattern, as %{SYSLOGBASE} %{GREEDYDATA:Message}."`
	Data        string    `vql:"data,required" doc:"The text to match."`
	Patterns    vql.Value `vql:"patterns" doc:"A dict of further patterns by name."`
	AllCaptures bool      `vql:"all_captures" doc:"Also give captures without a name of their own."`
}

// grokKey is what a compiled set of patterns depends on.
type grokKey struct {
	patterns string
	all      bool
}

var grokFunction = vql.NewFunction(vql.Spec{
	Name: "grok", Doc: "Takes a text apart by a grok pattern; the standard patterns are known.",
}, func(ctx context.Context, scope *vql.Scope, args *grokArgs) (vql.Value, error) {
	patterns, err := grokPatterns(ctx, scope, args.Patterns)
	if err != nil {
		return nil, err
	}
	key := grokKey{fmt.Sprint(patterns), args.AllCaptures} // maps print in the order of their keys
	cached, err := scope.Cache().Get(key, func() (any, error) {
		return grok.NewWithConfig(&grok.Config{NamedCapturesOnly: !args.AllCaptures, Patterns: patterns})
	})
	if err != nil {
		return nil, err
	}
	found, err := cached.(*grok.Grok).Parse(args.Grok, args.Data)
	if err != nil {
		return nil, err
	}
	out := vql.NewDict()
	for _, name := range sortedKeys(found) {
		out.Set(name, found[name])
	}
	return out, nil
})

func grokPatterns(ctx context.Context, scope *vql.Scope, v vql.Value) (map[string]string, error) {
	if vql.IsNull(v) {
		return nil, nil
	}
	d, ok := v.(*vql.Dict)
	if !ok {
		return nil, fmt.Errorf("patterns should be a dict not %T", v)
	}
	out := map[string]string{}
	for _, name := range d.Keys() {
		value, _ := d.Get(name)
		out[name] = scope.String(ctx, value)
	}
	return out, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
