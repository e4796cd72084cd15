package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"raptorpack/vql"
)

// ext4Accessor reads ext2, ext3 and ext4 from the device or an image, past the
// operating system: what it has not written to the device yet is not there. A path
// with a container lies in that image; any other on the device of its mount.
type ext4Accessor struct {
	images bool // images only
}

func (ext4Accessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathLinux, text), nil
}

// openedExt4 is a file system that is open.
type openedExt4 struct {
	*ext4
	closer     io.Closer
	components []string // of the path, below its root
}

func (a ext4Accessor) open(ctx context.Context, scope *vql.Scope, path *vql.Path) (*openedExt4, error) {
	file, components, err := a.device(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	at, _, closer, err := randomAccess(ctx, scope, file)
	if err != nil {
		return nil, err
	}
	e, err := openExt4(at)
	if err != nil {
		_ = closer.Close() // opened for reading only: nothing to lose
		return nil, err
	}
	return &openedExt4{e, closer, components}, nil
}

// device opens what a path's file system lies on.
func (a ext4Accessor) device(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, []string, error) {
	if path.HasDelegate() {
		file, err := scope.OpenDelegate(ctx, path)
		return file, path.Components(), err
	}
	if a.images {
		return nil, nil, fmt.Errorf("open %s: the image is missing, use pathspec(DelegatePath=...): %w", path, fs.ErrInvalid)
	}
	mounts, err := listMounts(ctx)
	if err != nil {
		return nil, nil, err
	}
	m, components, ok := mountOf(mounts, path.Components())
	if !ok {
		return nil, nil, fmt.Errorf("%s is on no ext4 file system: %w", path, fs.ErrNotExist)
	}
	file, err := openFile(m.device, true)
	return file, components, err
}

// mountOf finds the mount that a path lies in, the last of the deepest, and what of
// the path lies below it. It has to be of the ext family.
func mountOf(mounts []mount, components []string) (found mount, below []string, ok bool) {
	depth := -1
	for _, m := range mounts {
		point := vql.PathLinux.Split(m.point)
		if len(point) >= depth && len(point) <= len(components) && slices.Equal(point, components[:len(point)]) {
			found, below, depth = m, components[len(point):], len(point)
		}
	}
	return found, below, depth >= 0 && strings.HasPrefix(found.kind, "ext")
}

func (a ext4Accessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	e, err := a.open(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	defer e.closer.Close()
	i, err := e.find(ctx, scope.Charge, e.components)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path.Path(), Err: err}
	}
	return newExt4Info(e.ext4, i, path), nil
}

func (a ext4Accessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	e, err := a.open(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	defer e.closer.Close()
	folder, err := e.find(ctx, scope.Charge, e.components)
	if err != nil {
		return nil, &fs.PathError{Op: "list", Path: path.Path(), Err: err}
	}
	var out []vql.FileInfo
	err = e.eachName(ctx, scope.Charge, folder, func(name string, number int64) error {
		if len(out) == maxExt4Entries {
			return fmt.Errorf("%w: more than %d names", errExt4Damage, maxExt4Entries)
		}
		i, err := e.inode(number)
		if err != nil {
			scope.Log(vql.LevelWarn, "ext4: %s: %v", path.Append(name), err)
			return nil
		}
		out = append(out, newExt4Info(e.ext4, i, path.Append(name)))
		return nil
	})
	if err != nil {
		if len(out) == 0 || !errors.Is(err, errExt4Damage) {
			return nil, &fs.PathError{Op: "list", Path: path.Path(), Err: err}
		}
		scope.Log(vql.LevelWarn, "ext4: list %s: stopped after %d names: %v", path, len(out), err)
	}
	slices.SortFunc(out, func(a, b vql.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	return out, nil
}

func (a ext4Accessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	e, err := a.open(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	file, err := e.openName(ctx, scope)
	if err != nil {
		_ = e.closer.Close() // opened for reading only: nothing to lose
		return nil, &fs.PathError{Op: "open", Path: path.Path(), Err: err}
	}
	return file, nil
}

func (e *openedExt4) openName(ctx context.Context, scope *vql.Scope) (vql.ReadSeekCloser, error) {
	i, err := e.find(ctx, scope.Charge, e.components)
	if err != nil {
		return nil, err
	}
	if !i.fileMode().IsRegular() {
		return nil, ErrNotRegular
	}
	return e.content(i, e.closer)
}

// ext4Info is what an inode tells.
type ext4Info struct {
	plainInfo

	inode  *ext4Inode
	target string // of a link
	err    error  // of reading it
}

func newExt4Info(e *ext4, i *ext4Inode, path *vql.Path) *ext4Info {
	info := &ext4Info{inode: i, plainInfo: plainInfo{name: path.Basename(), path: path, size: i.size, mode: i.fileMode(), mtime: i.mtime()}}
	if info.IsLink() {
		info.target, info.err = e.link(i)
	}
	info.extra = vql.NewDict().Set("Inode", i.number).Set("Uid", i.u16(2)|i.u16(120)<<16).Set("Gid", i.u16(24)|i.u16(122)<<16)
	if info.target != "" {
		info.extra.Set("Link", info.target)
	}
	return info
}

// IsLink implements vql.FileInfo, as the following do.
func (i *ext4Info) IsLink() bool { return i.mode&fs.ModeSymlink != 0 }

// Link gives the target; a relative one is joined to its folder.
func (i *ext4Info) Link() (*vql.Path, error) {
	if !i.IsLink() || i.err != nil {
		return nil, fmt.Errorf("%s is no link that can be read: %w", i.name, errors.Join(i.err, fs.ErrInvalid))
	}
	if strings.HasPrefix(i.target, "/") {
		return i.path.With(vql.PathLinux.Split(i.target)), nil
	}
	return i.path.Dirname().Append(vql.PathLinux.Split(i.target)...), nil
}

// The three other times that an inode holds.

func (i *ext4Info) Atime() time.Time { return i.inode.atime() }
func (i *ext4Info) Ctime() time.Time { return i.inode.ctime() }
func (i *ext4Info) Btime() time.Time { return i.inode.btime() }
