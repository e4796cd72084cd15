package endpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"raptorpack/vql"
)

type tempfileArgs struct {
	Data        []string `vql:"data" doc:"What to write into it."`
	Extension   string   `vql:"extension" doc:"The end of its name, as .exe."`
	Permissions string   `vql:"permissions" doc:"x makes it executable."`
	RemoveLast  bool     `vql:"remove_last" doc:"Keep it until the whole query ends."`
}

var tempfileFunction = vql.NewFunction(vql.Spec{
	Name: "tempfile", Permission: "FILESYSTEM_WRITE",
	Doc: "Makes a temporary file and gives its name. It is removed when the scope ends.",
}, func(_ context.Context, scope *vql.Scope, args *tempfileArgs) (vql.Value, error) {
	file, err := newTempFile(scope, args.Extension, args.RemoveLast)
	if err != nil {
		return nil, err
	}
	for _, text := range args.Data {
		_, werr := file.WriteString(text)
		err = errors.Join(err, werr)
	}
	if strings.Contains(args.Permissions, "x") {
		err = errors.Join(err, file.Chmod(0o700))
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("write %s: %w", file.Name(), err)
	}
	return file.Name(), nil
})

// newTempFile makes a file that is removed with the scope. A file that is gone by
// then was renamed or removed by the query: its good right.
func newTempFile(scope *vql.Scope, extension string, removeLast bool) (*os.File, error) {
	if strings.ContainsAny(extension, `/\*`) {
		return nil, fmt.Errorf("extension %q: %w", extension, fs.ErrInvalid)
	}
	file, err := os.CreateTemp(scope.Session().Limits.TempDir, "raptorpack-*"+extension)
	if err != nil {
		return nil, err
	}
	name := file.Name()
	removeWith(scope, removeLast, func() error { return os.Remove(name) })
	return file, nil
}

func removeWith(scope *vql.Scope, last bool, remove func() error) {
	when := scope.OnClose
	if last {
		when = scope.OnRootClose
	}
	when(func() {
		if err := remove(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			scope.Log(vql.LevelWarn, "remove temporary file: %v", err)
		}
	})
}

type tempdirArgs struct {
	RemoveLast bool `vql:"remove_last" doc:"Keep it until the whole query ends."`
}

var tempdirFunction = vql.NewFunction(vql.Spec{
	Name: "tempdir", Permission: "FILESYSTEM_WRITE",
	Doc: "Makes a temporary folder and gives its name. It is removed with its content when the scope ends.",
}, func(_ context.Context, scope *vql.Scope, args *tempdirArgs) (vql.Value, error) {
	name, err := os.MkdirTemp(scope.Session().Limits.TempDir, "raptorpack-*")
	if err != nil {
		return nil, err
	}
	removeWith(scope, args.RemoveLast, func() error { return os.RemoveAll(name) })
	return name, nil
})

type rmArgs struct {
	Filename string `vql:"filename,required" doc:"The file to remove."`
}

var rmFunction = vql.NewFunction(vql.Spec{
	Name: "rm", Permission: "FILESYSTEM_WRITE", Doc: "Removes a plain file; TRUE when it is gone.",
}, func(_ context.Context, scope *vql.Scope, args *rmArgs) (vql.Value, error) {
	info, err := os.Lstat(args.Filename)
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "remove", Path: args.Filename, Err: ErrNotRegular}
	}
	if err == nil {
		err = os.Remove(args.Filename)
	}
	if err != nil {
		scope.Log(vql.LevelDefault, "rm: %v", err)
		return false, nil
	}
	return true, nil
})

type copyArgs struct {
	Filename          *vql.Path `vql:"filename,required" doc:"The file to copy."`
	Accessor          string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Dest              string    `vql:"dest,required" doc:"Where to write it."`
	Permissions       string    `vql:"permissions" doc:"x makes it executable."`
	DirPermissions    string    `vql:"dir_permissions" doc:"x makes folders that are created open to all."`
	Append            bool      `vql:"append" doc:"Write behind what is there already."`
	CreateDirectories bool      `vql:"create_directories" doc:"Make missing folders."`
}

var copyFunction = vql.NewFunction(vql.Spec{
	Name: "copy", Permission: "FILESYSTEM_WRITE", Doc: "Copies a file; gives the destination, or NULL.",
}, func(ctx context.Context, scope *vql.Scope, args *copyArgs) (vql.Value, error) {
	if err := scope.Allowed("FILESYSTEM_READ"); err != nil {
		return nil, err
	}
	from, err := openThrough(ctx, scope, args.Accessor, args.Filename)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	if isSameFile(scope, args) { // before its content is cut off
		return nil, fmt.Errorf("%s: %w", args.Dest, errSameFile)
	}
	to, err := createDest(args)
	if err != nil {
		return nil, err
	}
	err = copyAll(ctx, scope, to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		return nil, fmt.Errorf("copy to %s: %w", args.Dest, err)
	}
	return args.Dest, nil
})

var errSameFile = errors.New("the destination is the file itself")

// isSameFile reports whether a file of this machine would be copied onto itself,
// also by another name.
func isSameFile(scope *vql.Scope, args *copyArgs) bool {
	a, path, err := resolve(scope, args.Accessor, args.Filename)
	if _, plain := a.(fileAccessor); err != nil || !plain {
		return false
	}
	from, err := os.Stat(osName(path))
	if err != nil {
		return false // opening it tells
	}
	to, err := os.Stat(args.Dest)
	return err == nil && os.SameFile(from, to)
}

func createDest(args *copyArgs) (io.WriteCloser, error) {
	if args.CreateDirectories {
		mode := fs.FileMode(0o700)
		if strings.Contains(args.DirPermissions, "x") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(args.Dest), mode); err != nil {
			return nil, err
		}
	}
	mode := fs.FileMode(0o600)
	if strings.Contains(args.Permissions, "x") {
		mode = 0o700
	}
	flags := os.O_WRONLY | os.O_CREATE | nonblockWrite
	if args.Append {
		flags |= os.O_APPEND
	} else {
		flags |= os.O_TRUNC
	}
	file, err := os.OpenFile(args.Dest, flags, mode)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "write", Path: args.Dest, Err: ErrNotRegular}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

type writeArgs struct {
	Filename   string    `vql:"filename,required" doc:"The file to write."`
	Accessor   string    `vql:"accessor" doc:"Only file can be written to."`
	Query      vql.Query `vql:"query,required" doc:"The rows to write."`
	BufferSize int64     `vql:"buffer_size" doc:"Bytes to gather before writing (1 MiB)."`
	MaxTime    int64     `vql:"max_time" doc:"Taken for compatibility; rows are written as the buffer fills."`
	Append     bool      `vql:"append" doc:"Write behind what is there already."`
}

var errOnlyFile = errors.New("only the accessor file can be written to")

var writeJSONLPlugin = vql.NewPlugin(vql.Spec{
	Name: "write_jsonl", Permission: "FILESYSTEM_WRITE", Doc: "Writes rows to a JSON lines file and hands them on.",
}, func(ctx context.Context, scope *vql.Scope, args *writeArgs, emit vql.Emit) error {
	return writeRows(ctx, scope, args, emit, func(w *bufio.Writer, row *vql.Dict) error {
		_, err := w.Write(append(vql.AppendJSON(nil, row), '\n'))
		return err
	})
})

type writeCSVArgs struct {
	Filename string    `vql:"filename,required" doc:"The file to write."`
	Accessor string    `vql:"accessor" doc:"Only file can be written to."`
	Query    vql.Query `vql:"query,required" doc:"The rows to write."`
}

var writeCSVPlugin = vql.NewPlugin(vql.Spec{
	Name: "write_csv", Permission: "FILESYSTEM_WRITE", Doc: "Writes rows to a CSV file and hands them on. The first row names the columns.",
}, func(ctx context.Context, scope *vql.Scope, args *writeCSVArgs, emit vql.Emit) error {
	var columns []string
	all := &writeArgs{Filename: args.Filename, Accessor: args.Accessor, Query: args.Query}
	return writeRows(ctx, scope, all, emit, func(w *bufio.Writer, row *vql.Dict) error {
		if columns == nil {
			columns = row.Keys()
			if err := writeCells(w, columns); err != nil {
				return err
			}
		}
		cells := make([]string, len(columns))
		for i, name := range columns {
			if v, ok := row.Get(name); ok {
				cells[i] = scope.CellText(ctx, v)
			}
		}
		return writeCells(w, cells)
	})
})

func writeCells(w *bufio.Writer, cells []string) error {
	for i, cell := range cells {
		if i > 0 {
			cell = "," + quoteCell(cell)
		} else {
			cell = quoteCell(cell)
		}
		if _, err := w.WriteString(cell); err != nil {
			return err
		}
	}
	return w.WriteByte('\n')
}

func quoteCell(cell string) string {
	if !strings.ContainsAny(cell, "\",\r\n") {
		return cell
	}
	return `"` + strings.ReplaceAll(cell, `"`, `""`) + `"`
}

func writeRows(ctx context.Context, scope *vql.Scope, args *writeArgs, emit vql.Emit, write func(*bufio.Writer, *vql.Dict) error) error {
	switch args.Accessor {
	case "", "auto", "file":
	default:
		return fmt.Errorf("%w, not %s", errOnlyFile, args.Accessor)
	}
	file, err := createDest(&copyArgs{Dest: args.Filename, Append: args.Append})
	if err != nil {
		return err
	}
	size := args.BufferSize
	if size <= 0 {
		size = 1 << 20
	}
	w := bufio.NewWriterSize(file, int(min(size, 64<<20)))
	err = args.Query.Run(ctx, scope, func(row vql.Value) error {
		d := scope.Row(ctx, row)
		if err := write(w, d); err != nil {
			return fmt.Errorf("write %s: %w", args.Filename, err)
		}
		return emit(d)
	})
	return errors.Join(err, w.Flush(), file.Close())
}
