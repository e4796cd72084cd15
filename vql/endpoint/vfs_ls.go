package endpoint

import (
	"context"
	"fmt"

	"raptorpack/vql"
)

// maxVFSDepth bounds how deep one listing goes: a longer walk is glob's.
const maxVFSDepth = 30

type vfsListArgs struct {
	Path       *vql.Path `vql:"path" doc:"The folder (the top)."`
	Components []string  `vql:"components" doc:"The folder as a list of names; stronger than path."`
	Accessor   string    `vql:"accessor" doc:"The accessor to list with (auto)."`
	Depth      int64     `vql:"depth" doc:"How many levels of folders below it are listed too (0); at most 30."`
}

var vfsListPlugin = vql.NewPlugin(vql.Spec{
	Name: "vfs_ls", Permission: "FILESYSTEM_READ",
	Doc: "Lists a folder for the file browser, breadth first. Each entry is a row, numbered by Idx; behind those of a folder comes one more with Stats: Components and Accessor of the folder, StartIdx and EndIdx (not included) of its rows, and Error where it could not be listed. Links are not followed.",
	Columns: []string{
		"FullPath", "OSPath", "Components", "Accessor", "Data", "Name", "Size", "Mode", "Mtime", "Atime", "Ctime", "Btime", "Idx", "Stats",
	},
}, func(ctx context.Context, scope *vql.Scope, args *vfsListArgs, emit vql.Emit) error {
	if args.Depth < 0 || args.Depth > maxVFSDepth {
		return fmt.Errorf("depth %d: expected 0 to %d", args.Depth, maxVFSDepth)
	}
	accessor, top, err := vfsTop(scope, args)
	if err != nil {
		return err
	}
	l := &vfsListing{scope: scope, accessor: accessor, name: args.Accessor, emit: emit}
	for level := []*vql.Path{top}; len(level) > 0 && args.Depth >= 0; args.Depth-- {
		if level, err = l.level(ctx, level, args.Depth > 0); err != nil {
			return err
		}
	}
	return nil
})

func vfsTop(scope *vql.Scope, args *vfsListArgs) (vql.Accessor, *vql.Path, error) {
	if args.Accessor == "" {
		args.Accessor = "auto"
	}
	if args.Path != nil && len(args.Components) == 0 {
		return resolve(scope, args.Accessor, args.Path)
	}
	accessor, err := scope.Accessor(args.Accessor)
	if err != nil {
		return nil, nil, err
	}
	top, err := accessor.ParsePath("")
	if err != nil {
		return nil, nil, err
	}
	return accessor, top.With(args.Components), nil
}

// vfsListing lists folders level by level.
type vfsListing struct {
	scope    *vql.Scope
	accessor vql.Accessor
	name     string // of the accessor
	emit     vql.Emit
	idx      int64 // of the next row
}

// level lists folders and returns those that they hold, if they are wanted.
func (l *vfsListing) level(ctx context.Context, folders []*vql.Path, deeper bool) ([]*vql.Path, error) {
	var below []*vql.Path
	for _, folder := range folders {
		if err := l.scope.Charge(ctx); err != nil {
			return nil, err
		}
		entries, failure := l.accessor.ReadDir(ctx, l.scope, folder)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		begin := l.idx
		for _, info := range entries {
			if err := l.emit(l.row(info)); err != nil {
				return nil, err
			}
			l.idx++
			if deeper && info.IsDir() && !info.IsLink() {
				below = append(below, info.OSPath())
			}
		}
		if err := l.emit(l.stats(folder, begin, failure)); err != nil {
			return nil, err
		}
	}
	return below, nil
}

func (l *vfsListing) row(info vql.FileInfo) *vql.Dict {
	return vql.NewDict().
		Set("FullPath", info.OSPath().String()).
		Set("OSPath", info.OSPath()).
		Set("Components", info.OSPath().Components()).
		Set("Accessor", l.name).
		Set("Data", info.Data()).
		Set("Name", info.Name()).
		Set("Size", info.Size()).
		Set("Mode", info.Mode().String()).
		Set("Mtime", info.Mtime()).
		Set("Atime", info.Atime()).
		Set("Ctime", info.Ctime()).
		Set("Btime", info.Btime()).
		Set("Idx", l.idx).
		Set("Stats", vql.NULL)
}

func (l *vfsListing) stats(folder *vql.Path, begin int64, failure error) *vql.Dict {
	stats := vql.NewDict().Set("Components", folder.Components()).Set("Accessor", l.name).
		Set("StartIdx", begin).Set("EndIdx", l.idx).Set("Error", "")
	if failure != nil {
		l.scope.Log(vql.LevelDefault, "vfs_ls: %v", failure)
		stats.Set("Error", failure.Error())
	}
	return vql.NewDict().Set("FullPath", folder.String()).Set("OSPath", folder).Set("Components", folder.Components()).
		Set("Accessor", l.name).Set("Data", vql.NULL).Set("Name", vql.NULL).Set("Size", vql.NULL).Set("Mode", vql.NULL).
		Set("Mtime", vql.NULL).Set("Atime", vql.NULL).Set("Ctime", vql.NULL).Set("Btime", vql.NULL).
		Set("Idx", vql.NULL).Set("Stats", stats)
}
