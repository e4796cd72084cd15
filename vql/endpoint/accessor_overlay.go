package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"

	"raptorpack/vql"
)

// overlayAccessor shows several folders as one: of what several have, the first
// one's. The variable OVERLAY_ACCESSOR_DELEGATES lists them: paths of the accessor
// auto, or dicts with accessor and path.
type overlayAccessor struct{}

func (overlayAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathLinux, text), nil
}

var errNoOverlay = errors.New("the variable OVERLAY_ACCESSOR_DELEGATES lists no folders")

// layer is one of the folders.
type layer struct {
	accessor vql.Accessor
	root     *vql.Path
}

func layers(ctx context.Context, scope *vql.Scope) ([]layer, error) {
	v, ok := scope.Lookup("OVERLAY_ACCESSOR_DELEGATES")
	if !ok || vql.IsNull(v) {
		return nil, errNoOverlay
	}
	values := []vql.Value{v}
	if list := reflect.ValueOf(v); list.Kind() == reflect.Slice {
		values = nil
		for i := range list.Len() {
			values = append(values, list.Index(i).Interface())
		}
	}
	var out []layer
	for _, v := range values {
		l, err := layerOf(ctx, scope, v)
		if err != nil {
			return nil, fmt.Errorf("OVERLAY_ACCESSOR_DELEGATES: %w", err)
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, errNoOverlay
	}
	return out, nil
}

func layerOf(ctx context.Context, scope *vql.Scope, v vql.Value) (layer, error) {
	name := ""
	if d, ok := v.(*vql.Dict); ok {
		if path, ok := d.Get("path"); ok {
			accessor, _ := d.Get("accessor")
			if !vql.IsNull(accessor) {
				name = scope.String(ctx, accessor)
			}
			v = path
		}
	}
	path, err := scope.ToPath(ctx, v, name)
	if err != nil {
		return layer{}, err
	}
	if path == nil {
		return layer{}, fmt.Errorf("a folder is NULL: %w", fs.ErrInvalid)
	}
	accessor, path, err := resolve(scope, name, path)
	return layer{accessor, path}, err
}

// overlayInfo is a name with its path in the union.
type overlayInfo struct {
	vql.FileInfo

	path *vql.Path
}

// OSPath implements vql.FileInfo.
func (i overlayInfo) OSPath() *vql.Path { return i.path }

// isMissing reports whether a layer merely does not have a name.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) || isNotDir(err) }

// first asks one layer after the other until one has the path.
func first[T any](ctx context.Context, scope *vql.Scope, path *vql.Path, ask func(layer, *vql.Path) (T, error)) (T, error) {
	var none T
	all, err := layers(ctx, scope)
	if err != nil {
		return none, err
	}
	for _, l := range all {
		found, err := ask(l, l.root.Append(path.Components()...))
		if err == nil || !isMissing(err) {
			return found, err
		}
	}
	return none, &fs.PathError{Op: "open", Path: path.Path(), Err: fs.ErrNotExist}
}

func (overlayAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	info, err := first(ctx, scope, path, func(l layer, p *vql.Path) (vql.FileInfo, error) { return l.accessor.Lstat(ctx, scope, p) })
	if err != nil {
		return nil, err
	}
	return overlayInfo{info, path}, nil
}

func (overlayAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	return first(ctx, scope, path, func(l layer, p *vql.Path) (vql.ReadSeekCloser, error) { return l.accessor.Open(ctx, scope, p) })
}

func (overlayAccessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	all, err := layers(ctx, scope)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []vql.FileInfo
	found := false
	for _, l := range all {
		infos, err := l.accessor.ReadDir(ctx, scope, l.root.Append(path.Components()...))
		if err != nil {
			if isMissing(err) {
				continue
			}
			return nil, err
		}
		found = true
		for _, info := range infos {
			if !seen[info.Name()] {
				seen[info.Name()] = true
				out = append(out, overlayInfo{info, path.Append(info.Name())})
			}
		}
	}
	if !found {
		return nil, &fs.PathError{Op: "list", Path: path.Path(), Err: fs.ErrNotExist}
	}
	slices.SortFunc(out, func(a, b vql.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	return out, nil
}
