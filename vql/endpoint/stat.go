package endpoint

import (
	"context"
	"errors"
	"io/fs"

	"raptorpack/vql"
)

type statArgs struct {
	Filename *vql.Path `vql:"filename,required" doc:"The name to look at; links are not followed."`
	Accessor string    `vql:"accessor" doc:"The accessor to look with (auto)."`
}

var statColumns = []string{
	"OSPath", "Name", "Size", "Mode", "Mtime", "Atime", "Ctime", "Btime",
	"IsDir", "IsLink", "Data", "Sys", "Dev",
}

var statFunction = vql.NewFunction(vql.Spec{
	Name: "stat", Permission: "FILESYSTEM_READ",
	Doc: "Gives the facts of one file, or NULL when it does not exist.",
}, func(ctx context.Context, scope *vql.Scope, args *statArgs) (vql.Value, error) {
	row, err := statRow(ctx, scope, args)
	if row == nil {
		return nil, err
	}
	return row, err
})

var statPlugin = vql.NewPlugin(vql.Spec{
	Name: "stat", Permission: "FILESYSTEM_READ",
	Doc: "Gives the facts of one file as a row.", Columns: statColumns,
}, func(ctx context.Context, scope *vql.Scope, args *statArgs, emit vql.Emit) error {
	row, err := statRow(ctx, scope, args)
	if err != nil || row == nil {
		return err
	}
	return emit(row)
})

// statRow is nil without an error for a name that does not exist: asking whether
// something is there is a use of stat, not a mistake.
func statRow(ctx context.Context, scope *vql.Scope, args *statArgs) (*vql.Dict, error) {
	accessor, path, err := resolve(scope, args.Accessor, args.Filename)
	if err != nil {
		return nil, err
	}
	info, err := accessor.Lstat(ctx, scope, path)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	row := vql.NewDict()
	row.Set("OSPath", info.OSPath())
	row.Set("Name", info.Name())
	row.Set("Size", info.Size())
	row.Set("Mode", info.Mode())
	row.Set("Mtime", info.Mtime())
	row.Set("Atime", info.Atime())
	row.Set("Ctime", info.Ctime())
	row.Set("Btime", info.Btime())
	row.Set("IsDir", info.IsDir())
	row.Set("IsLink", info.IsLink())
	row.Set("Data", info.Data())
	if s, ok := info.(interface{ Sys() *vql.Dict }); ok {
		sys := s.Sys()
		row.Set("Sys", sys)
		if dev, ok := sys.Get("Dev"); ok {
			row.Set("Dev", dev)
		}
	}
	return row, nil
}
