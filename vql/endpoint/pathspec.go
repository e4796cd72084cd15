package endpoint

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"strings"

	"raptorpack/vql"
)

// errPathType means that a path_type names no known kind of path.
var errPathType = errors.New("unknown path type")

type pathspecArgs struct {
	DelegateAccessor string    `vql:"DelegateAccessor" doc:"The accessor that opens the container."`
	DelegatePath     string    `vql:"DelegatePath" doc:"The container's path."`
	Delegate         vql.Lazy  `vql:"Delegate" doc:"The container's path as a path object."`
	Path             vql.Value `vql:"Path" doc:"The path inside of the container: a text, components or a path."`
	Parse            string    `vql:"parse" doc:"A text to parse instead."`
	PathType         string    `vql:"path_type" doc:"How to parse: linux, windows, registry, ntfs, zip, generic."`
	Accessor         string    `vql:"accessor" doc:"Parse as this accessor does."`
}

var pathspecFunction = vql.NewFunction(vql.Spec{
	Name: "pathspec", Doc: "Makes a path object, for names inside of containers in particular.",
}, func(ctx context.Context, scope *vql.Scope, args *pathspecArgs) (vql.Value, error) {
	syntax, err := pathSyntax(scope, args.PathType, args.Accessor)
	if err != nil {
		return nil, err
	}
	if args.Parse != "" {
		return vql.ParsePath(syntax, args.Parse), nil
	}
	p, err := toPath(ctx, scope, args.Path, syntax)
	if err != nil {
		return nil, err
	}
	if args.Delegate.Given() {
		inner, err := toPath(ctx, scope, args.Delegate.Value(ctx, scope), vql.PathGeneric)
		if err != nil {
			return nil, err
		}
		return p.Inside(args.DelegateAccessor, inner), nil
	}
	if args.DelegateAccessor != "" || args.DelegatePath != "" {
		return p.InsideText(args.DelegateAccessor, args.DelegatePath), nil
	}
	return p, nil
})

// pathSyntax finds the kind of path a call asks for; paths of this host are the
// default, since their names may hold what other kinds treat as separators.
func pathSyntax(scope *vql.Scope, kind, accessor string) (vql.PathSyntax, error) {
	if kind != "" {
		if syntax, ok := vql.SyntaxByName(kind); ok {
			return syntax, nil
		}
		return nil, fmt.Errorf("%w %q", errPathType, kind)
	}
	if accessor != "" {
		a, err := scope.Accessor(accessor)
		if err != nil {
			return nil, err
		}
		p, err := a.ParsePath("")
		if err != nil {
			return nil, err
		}
		return p.Syntax(), nil
	}
	return hostSyntax(), nil
}

// toPath makes a path of a text, a list of components, a pathspec or a path.
func toPath(ctx context.Context, scope *vql.Scope, v vql.Value, syntax vql.PathSyntax) (*vql.Path, error) {
	switch t := v.(type) {
	case *vql.Path:
		return t, nil
	case *vql.PathSpec:
		return vql.FromPathSpec(syntax, t), nil
	case *vql.Dict:
		return vql.ParsePath(syntax, string(vql.AppendJSON(nil, t))), nil
	}
	if list, ok := listOf(v); ok {
		parts := make([]string, len(list))
		for i := range list {
			parts[i] = scope.String(ctx, list[i])
		}
		return vql.NewPath(syntax, parts...), nil
	}
	if vql.IsNull(v) {
		return vql.NewPath(syntax), nil
	}
	return vql.ParsePath(syntax, scope.String(ctx, v)), nil
}

// listOf gives the elements of an array, whatever Go type the engine gave it; bytes
// are no array here.
func listOf(v vql.Value) ([]vql.Value, bool) {
	r := reflect.ValueOf(v)
	if !r.IsValid() || r.Kind() != reflect.Slice || r.Type().Elem().Kind() == reflect.Uint8 {
		return nil, false
	}
	out := make([]vql.Value, r.Len())
	for i := range out {
		out[i] = r.Index(i).Interface()
	}
	return out, true
}

// argPath reads the path of dirname and its siblings. Without a path_type a text
// with a drive letter or a leading backslash is a Windows path.
func argPath(ctx context.Context, scope *vql.Scope, v vql.Value, sep, kind string) (*vql.Path, error) {
	if p, ok := v.(*vql.Path); ok {
		return p, nil
	}
	syntax, err := pathSyntax(scope, kind, "")
	if err != nil {
		return nil, err
	}
	text := scope.String(ctx, v)
	if kind == "" && (sep == `\` || sep == "" && looksWindows(text)) {
		syntax = vql.PathWindows
	}
	return toPath(ctx, scope, v, syntax)
}

func looksWindows(text string) bool {
	drive := len(text) >= 3 && text[1] == ':' && (text[2] == '\\' || text[2] == '/')
	return drive || strings.HasPrefix(text, `\`)
}

type pathPartArgs struct {
	Path     vql.Value `vql:"path,required" doc:"A path or a text."`
	Sep      string    `vql:"sep" doc:"The separator of the text (/)."`
	PathType string    `vql:"path_type" doc:"The kind of path the text is."`
}

var dirnameFunction = vql.NewFunction(vql.Spec{
	Name: "dirname", Doc: "Gives a path without its last component.",
}, func(ctx context.Context, scope *vql.Scope, args *pathPartArgs) (vql.Value, error) {
	p, err := argPath(ctx, scope, args.Path, args.Sep, args.PathType)
	if err != nil {
		return nil, err
	}
	return p.Dirname(), nil
})

var basenameFunction = vql.NewFunction(vql.Spec{
	Name: "basename", Doc: "Gives the last component of a path.",
}, func(ctx context.Context, scope *vql.Scope, args *pathPartArgs) (vql.Value, error) {
	p, err := argPath(ctx, scope, args.Path, args.Sep, args.PathType)
	if err != nil {
		return nil, err
	}
	return p.Basename(), nil
})

type pathSplitArgs struct {
	Path     vql.Value `vql:"path,required" doc:"A path or a text."`
	PathType string    `vql:"path_type" doc:"The kind of path the text is."`
}

var pathSplitFunction = vql.NewFunction(vql.Spec{
	Name: "path_split", Doc: "Gives the components of a path.",
}, func(ctx context.Context, scope *vql.Scope, args *pathSplitArgs) (vql.Value, error) {
	p, err := argPath(ctx, scope, args.Path, "", args.PathType)
	if err != nil {
		return nil, err
	}
	return p.Components(), nil
})

type pathJoinArgs struct {
	Components []vql.Value `vql:"components,required" doc:"Texts and paths; each may have several components."`
	Sep        string      `vql:"sep" doc:"The separator to put between (that of path_type)."`
	PathType   string      `vql:"path_type" doc:"The kind of path to make (this host's)."`
}

var pathJoinFunction = vql.NewFunction(vql.Spec{
	Name: "path_join", Doc: "Joins components to a path and gives it as text.",
}, func(ctx context.Context, scope *vql.Scope, args *pathJoinArgs) (vql.Value, error) {
	syntax, err := pathSyntax(scope, args.PathType, "")
	if err != nil {
		return nil, err
	}
	if args.PathType == "" && args.Sep == `\` {
		syntax = vql.PathWindows
	}
	var parts []string
	for _, c := range args.Components {
		p, err := toPath(ctx, scope, c, syntax)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p.Components()...)
	}
	if args.Sep != "" && syntax != vql.PathWindows {
		return joinLike(ctx, scope, args, parts), nil
	}
	return syntax.Join(parts), nil
})

// joinLike joins with a separator of the caller's; the result starts with it when
// the first component did.
func joinLike(ctx context.Context, scope *vql.Scope, args *pathJoinArgs, parts []string) string {
	joined := strings.Join(parts, args.Sep)
	if len(args.Components) > 0 && strings.HasPrefix(scope.String(ctx, args.Components[0]), args.Sep) {
		return args.Sep + joined
	}
	return joined
}

type relpathArgs struct {
	Path string `vql:"path,required" doc:"The path to express."`
	Base string `vql:"base,required" doc:"The folder to start from."`
	Sep  string `vql:"sep" doc:"The separator of both (/)."`
}

var relpathFunction = vql.NewFunction(vql.Spec{
	Name: "relpath", Doc: "Gives a path relative to a folder.",
}, func(_ context.Context, _ *vql.Scope, args *relpathArgs) (vql.Value, error) {
	sep := args.Sep
	if sep == "" {
		sep = "/"
	}
	clean := func(text string) []string {
		text = path.Clean("/" + strings.ReplaceAll(text, sep, "/"))
		return strings.FieldsFunc(text, func(r rune) bool { return r == '/' })
	}
	to, from := clean(args.Path), clean(args.Base)
	for len(to) > 0 && len(from) > 0 && to[0] == from[0] {
		to, from = to[1:], from[1:]
	}
	parts := make([]string, 0, len(from)+len(to))
	for range from {
		parts = append(parts, "..")
	}
	if parts = append(parts, to...); len(parts) == 0 {
		return ".", nil
	}
	return strings.Join(parts, sep), nil
})
