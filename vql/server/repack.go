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
	Target       string    `vql:"target" doc:"A program of the inventory; this version takes exe."`
	Version      string    `vql:"version" doc:"Of target; this version takes exe."`
	Exe          *vql.Path `vql:"exe" doc:"The program to copy (this server's own)."`
	Accessor     string    `vql:"accessor" doc:"What opens exe (auto)."`
	Binaries     []string  `vql:"binaries" doc:"Tools to pack; this version packs none, config repack does."`
	Config       string    `vql:"config,required" doc:"The client file, as text."`
	UploadName   string    `vql:"upload_name" doc:"What the upload is called (client.repacked)."`
	DestFilename string    `vql:"dest_filename" doc:"A file on the server that must not exist yet, instead of an upload."`
}

var repackFunction = vql.NewFunction(vql.Spec{
	Name: "repack", Permission: "COLLECT_SERVER",
	Doc: "Puts a client file into a copy of a program, so that its command client needs no --config, and uploads it. Needs FILESYSTEM_WRITE, too.",
}, func(ctx context.Context, scope *vql.Scope, args *repackArgs) (_ vql.Value, err error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if err := need(scope, users.FilesystemWrite); err != nil {
		return nil, err
	}
	if h.Repack == nil || args.Target != "" || args.Version != "" || len(args.Binaries) > 0 {
		return nil, fmt.Errorf("repack by target, version or binaries: %w", ErrUnsupported)
	}
	program, size, err := openProgram(ctx, scope, args)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	if args.DestFilename != "" {
		return repackTo(h, args, program, size)
	}
	return repackUpload(ctx, scope, h, args, program, size)
})

// openProgram opens this server's own program, or a copy of another, which has no name.
func openProgram(ctx context.Context, scope *vql.Scope, args *repackArgs) (_ *os.File, size int64, err error) {
	if args.Exe == nil {
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
	file, err := nameless(scope)
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

func repackTo(h *Host, args *repackArgs, program io.ReaderAt, size int64) (vql.Value, error) {
	to, err := os.OpenFile(args.DestFilename, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755) //nolint:gosec // a program
	if err != nil {
		return nil, err
	}
	if err := errors.Join(h.Repack(to, program, size, []byte(args.Config)), to.Sync(), to.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(args.DestFilename))
	}
	return vql.NewDict().Set("Path", args.DestFilename), nil
}

func repackUpload(ctx context.Context, scope *vql.Scope, h *Host, args *repackArgs, program io.ReaderAt, size int64) (_ vql.Value, err error) {
	uploader, ok := vql.Service[vql.Uploader](scope)
	if !ok {
		return nil, fmt.Errorf("this query has nowhere to upload to: give dest_filename, or run it in a collection: %w", ErrArgument)
	}
	to, err := nameless(scope)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := h.Repack(to, program, size, []byte(args.Config)); err != nil {
		return nil, err
	}
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	name := vql.ParsePath(vql.PathLinux, cmp.Or(args.UploadName, "client.repacked"))
	return uploader.Upload(ctx, scope, vql.UploadRequest{Path: name, StoreAs: name, Accessor: "data", Reader: to})
}
