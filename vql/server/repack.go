package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"raptorpack/users"
	"raptorpack/vql"
)

type repackArgs struct {
	Target       string    `vql:"target" doc:"A tool of the inventory that is the program, instead of exe."`
	Version      string    `vql:"version" doc:"The version of target (the highest)."`
	Exe          *vql.Path `vql:"exe" doc:"The program to copy (this server's own)."`
	Accessor     string    `vql:"accessor" doc:"What opens exe (auto)."`
	Binaries     []string  `vql:"binaries" doc:"Tools of the inventory to pack beside the file; the accessor zip opens them in the program."`
	Config       string    `vql:"config,required" doc:"The client file, as text."`
	UploadName   string    `vql:"upload_name" doc:"What the upload is called (client.repacked)."`
	DestFilename string    `vql:"dest_filename" doc:"A file on the server that must not exist yet, instead of an upload."`
}

var repackFunction = vql.NewFunction(vql.Spec{
	Name: "repack", Permission: "COLLECT_SERVER",
	Doc: "Puts a client file into a copy of a program, so that its command client needs no --config, and uploads it; tools of the inventory may go with it. Needs FILESYSTEM_WRITE, too.",
}, func(ctx context.Context, scope *vql.Scope, args *repackArgs) (_ vql.Value, err error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if err := need(scope, users.FilesystemWrite); err != nil {
		return nil, err
	}
	if h.Repack == nil {
		return nil, fmt.Errorf("repack: %w", ErrUnsupported)
	}
	r := &repacking{host: h, scope: scope, args: args}
	for _, name := range args.Binaries {
		file, err := r.binary(ctx, name)
		if err != nil {
			return nil, err
		}
		r.files = append(r.files, file)
	}
	program, size, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	if args.DestFilename != "" {
		return r.toFile(program, size)
	}
	return r.upload(ctx, program, size)
})

// repacking is one call of repack().
type repacking struct {
	host  *Host
	scope *vql.Scope
	args  *repackArgs
	files []Packed
}

// open opens this server's own program, or a copy of another, which has no name.
func (r *repacking) open(ctx context.Context) (_ *os.File, size int64, err error) {
	scope, args := r.scope, r.args
	switch {
	case args.Target != "" && args.Exe != nil:
		return nil, 0, fmt.Errorf("target beside exe: %w", ErrArgument)
	case args.Target == "" && args.Version != "":
		return nil, 0, fmt.Errorf("version without target: %w", ErrArgument)
	case args.Target != "":
		return r.target(ctx)
	case args.Exe == nil:
		name, err := os.Executable()
		if err != nil {
			return nil, 0, fmt.Errorf("find this program: %w", err)
		}
		file, err := os.Open(name)
		if err != nil {
			return nil, 0, err
		}
		info, err := file.Stat()
		if err != nil {
			return nil, 0, errors.Join(err, file.Close())
		}
		return file, info.Size(), nil
	}
	if err := need(scope, users.FilesystemRead); err != nil {
		return nil, 0, err
	}
	accessor, err := scope.Accessor(args.Accessor)
	if err != nil {
		return nil, 0, err
	}
	from, err := accessor.Open(ctx, scope, args.Exe)
	if err != nil {
		return nil, 0, err
	}
	defer from.Close() // only read
	return r.copied(from)
}

// copied keeps a program in a temporary file.
func (r *repacking) copied(from io.Reader) (_ *os.File, size int64, err error) {
	file, err := nameless(r.scope)
	if err != nil {
		return nil, 0, err
	}
	size, err = io.Copy(file, io.LimitReader(from, maxProgram+1))
	if err == nil && size > maxProgram {
		err = fmt.Errorf("program of more than %d bytes: %w", maxProgram, ErrArgument)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, size, nil
}

const maxProgram = 1 << 30

// nameless makes a temporary file that is gone when it is closed.
func nameless(scope *vql.Scope) (*os.File, error) {
	file, err := os.CreateTemp(scope.Session().Limits.TempDir, "raptorpack-repack-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (r *repacking) toFile(program io.ReaderAt, size int64) (vql.Value, error) {
	args := r.args
	to, err := os.OpenFile(args.DestFilename, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755) //nolint:gosec // a program
	if err != nil {
		return nil, err
	}
	if err := errors.Join(r.host.Repack(to, program, size, []byte(args.Config), r.files), to.Sync(), to.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(args.DestFilename))
	}
	return vql.NewDict().Set("Path", args.DestFilename), nil
}

func (r *repacking) upload(ctx context.Context, program io.ReaderAt, size int64) (_ vql.Value, err error) {
	scope, args := r.scope, r.args
	uploader, ok := vql.Service[vql.Uploader](scope)
	if !ok {
		return nil, fmt.Errorf("this query has nowhere to upload to: give dest_filename, or run it in a collection: %w", ErrArgument)
	}
	to, err := nameless(scope)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := r.host.Repack(to, program, size, []byte(args.Config), r.files); err != nil {
		return nil, err
	}
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	name := vql.ParsePath(vql.PathLinux, cmp.Or(args.UploadName, "client.repacked"))
	return uploader.Upload(ctx, scope, vql.UploadRequest{Path: name, StoreAs: name, Accessor: "data", Reader: to})
}
