package endpoint

import (
	"cmp"
	"context"
	"io/fs"
	"slices"
	"strings"

	"raptorpack/vql"
)

// mountPoint shows a folder of one accessor at a place of another.
type mountPoint struct {
	at       []string // components, where it is seen
	accessor vql.Accessor
	root     *vql.Path
}

// mountAccessor is an accessor that is made of mounts. They are opened in a session
// of their own; see remapping.
type mountAccessor struct {
	host   *vql.Scope
	syntax vql.PathSyntax
	points []mountPoint
}

func (a *mountAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(a.syntax, text), nil
}

// same compares components as the paths of the accessor mean them.
func (a *mountAccessor) same(x, y string) bool {
	if a.syntax == vql.PathLinux || a.syntax == vql.PathZip {
		return x == y
	}
	return strings.EqualFold(x, y)
}

func (a *mountAccessor) within(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.EqualFunc(path[:len(prefix)], prefix, a.same)
}

// find returns the deepest mount that a path lies in, the last of equals, and where
// the path lies below its root; nil when there is none.
func (a *mountAccessor) find(path []string) (point *mountPoint, below *vql.Path) {
	for i := range a.points {
		p := &a.points[i]
		if a.within(path, p.at) && (point == nil || len(p.at) >= len(point.at)) {
			point = p
		}
	}
	if point != nil {
		below = point.root.Append(path[len(point.at):]...)
	}
	return point, below
}

// beneath lists the names in a folder that lead to mounts.
func (a *mountAccessor) beneath(path []string) []string {
	var out []string
	for _, p := range a.points {
		if len(p.at) > len(path) && a.within(p.at, path) {
			name := p.at[len(path)]
			if !slices.ContainsFunc(out, func(seen string) bool { return a.same(seen, name) }) {
				out = append(out, name)
			}
		}
	}
	return out
}

func (a *mountAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	parts := path.Components()
	point, below := a.find(parts)
	if point != nil {
		info, err := point.accessor.Lstat(ctx, a.host, below)
		if err == nil {
			return mountedInfo{info, path, point}, nil
		}
		if !isMissing(err) {
			return nil, err
		}
	}
	if len(a.beneath(parts)) > 0 {
		return mountFolder(path), nil
	}
	return nil, &fs.PathError{Op: "stat", Path: path.Path(), Err: fs.ErrNotExist}
}

// mountFolder is a folder that is there only because a mount lies below it.
func mountFolder(path *vql.Path) vql.FileInfo {
	return &plainInfo{name: path.Basename(), path: path, mode: fs.ModeDir | 0o555}
}

func (a *mountAccessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	parts := path.Components()
	names := a.beneath(parts)
	var out []vql.FileInfo
	for _, name := range names {
		out = append(out, mountFolder(path.Append(name)))
	}
	if point, below := a.find(parts); point != nil {
		infos, err := point.accessor.ReadDir(ctx, a.host, below)
		if err != nil && (len(names) == 0 || !isMissing(err)) {
			return nil, err
		}
		for _, info := range infos {
			if !slices.ContainsFunc(names, func(name string) bool { return a.same(name, info.Name()) }) {
				out = append(out, mountedInfo{info, path.Append(info.Name()), point})
			}
		}
	} else if len(names) == 0 {
		return nil, &fs.PathError{Op: "list", Path: path.Path(), Err: fs.ErrNotExist}
	}
	slices.SortFunc(out, func(a, b vql.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	return out, nil
}

func (a *mountAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	point, below := a.find(path.Components())
	if point == nil {
		return nil, &fs.PathError{Op: "open", Path: path.Path(), Err: fs.ErrNotExist}
	}
	return point.accessor.Open(ctx, a.host, below)
}

// mountedInfo is a name as it is seen through a mount.
type mountedInfo struct {
	vql.FileInfo

	path  *vql.Path
	point *mountPoint
}

// Name is that of the place, also where a mount's root has another.
func (i mountedInfo) Name() string { return i.path.Basename() }

// OSPath implements vql.FileInfo.
func (i mountedInfo) OSPath() *vql.Path { return i.path }

// Link turns the target into what leads there through the mount.
func (i mountedInfo) Link() (*vql.Path, error) {
	target, err := i.FileInfo.Link()
	if err != nil {
		return nil, err
	}
	parts, root := target.Components(), i.point.root.Components()
	if len(parts) >= len(root) && slices.Equal(parts[:len(root)], root) {
		parts = parts[len(root):]
	}
	return i.path.With(append(slices.Clone(i.point.at), parts...)), nil
}
