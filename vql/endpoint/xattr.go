package endpoint

import (
	"context"
	"fmt"
	"io/fs"

	"raptorpack/vql"
)

type xattrArgs struct {
	Filename  *vql.Path `vql:"filename,required" doc:"The file."`
	Attribute []string  `vql:"attribute" doc:"The attributes to show (all)."`
	Accessor  string    `vql:"accessor" doc:"The accessor that names it (auto); it has to be a file of the system."`
}

var xattrFunction = vql.NewFunction(vql.Spec{
	Name: "xattr", Permission: "FILESYSTEM_READ", Platforms: []string{"linux", "darwin"},
	Doc: "Gives a file's extended attributes as a dict.",
}, func(_ context.Context, scope *vql.Scope, args *xattrArgs) (vql.Value, error) {
	a, path, err := resolve(scope, args.Accessor, args.Filename)
	if err != nil {
		return nil, err
	}
	name := ""
	if namer, ok := a.(vql.OSPather); ok {
		name, _ = namer.OSPath(path)
	}
	if name == "" {
		return nil, fmt.Errorf("%s is no file of the operating system: %w", path, fs.ErrInvalid)
	}
	names := args.Attribute
	if len(names) == 0 {
		if names, err = listAttributes(name); err != nil {
			return nil, &fs.PathError{Op: "list attributes", Path: name, Err: err}
		}
	}
	row := vql.NewDict()
	for _, attribute := range names {
		value, err := readAttribute(name, attribute)
		if err != nil {
			scope.Log(vql.LevelDefault, "xattr: %s: %s: %v", name, attribute, err)
			continue
		}
		row.Set(attribute, string(value))
	}
	return row, nil
})
