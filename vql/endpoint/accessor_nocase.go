package endpoint

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"raptorpack/vql"
)

// nocaseAccessor is fileAccessor for names whose case is not known. A name that
// exists as it is written wins; of others that differ by case alone, the first in
// the order of names.
type nocaseAccessor struct{ fileAccessor }

// real finds how a path is written on the disk; a path that is not there stays.
func (a nocaseAccessor) real(ctx context.Context, scope *vql.Scope, path *vql.Path) (*vql.Path, error) {
	if _, err := a.fileAccessor.Lstat(ctx, scope, path); err == nil || path.HasDelegate() {
		return path, nil
	}
	found := path.With(nil)
	for _, wanted := range path.Components() {
		next := found.Append(wanted)
		if _, err := a.fileAccessor.Lstat(ctx, scope, next); err == nil {
			found = next
			continue
		}
		infos, err := a.fileAccessor.ReadDir(ctx, scope, found)
		if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
			return path, nil
		}
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			if strings.EqualFold(info.Name(), wanted) {
				next = info.OSPath()
				break
			}
		}
		found = next
	}
	return found, nil
}

// OSPath is not told: the operating system minds the case.
func (a nocaseAccessor) OSPath(*vql.Path) (string, bool) { return "", false }

func (a nocaseAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	path, err := a.real(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	return a.fileAccessor.Lstat(ctx, scope, path)
}

func (a nocaseAccessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	path, err := a.real(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	return a.fileAccessor.ReadDir(ctx, scope, path)
}

func (a nocaseAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	path, err := a.real(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	return a.fileAccessor.Open(ctx, scope, path)
}
