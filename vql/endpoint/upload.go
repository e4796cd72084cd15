package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"raptorpack/vql"
)

// errNoUploader means that the session has nowhere to send files to.
var errNoUploader = errors.New("this session takes no uploads")

type uploadArgs struct {
	File     *vql.Path `vql:"file,required" doc:"The file to upload."`
	Name     vql.Value `vql:"name" doc:"The name to store it under (its own)."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Mtime    vql.Value `vql:"mtime" doc:"Modification time to record."`
	Atime    vql.Value `vql:"atime" doc:"Access time to record."`
	Ctime    vql.Value `vql:"ctime" doc:"Change time to record."`
	Btime    vql.Value `vql:"btime" doc:"Birth time to record."`
}

var uploadFunction = vql.NewFunction(vql.Spec{
	Name: "upload", Permission: "FILESYSTEM_READ",
	Doc: "Sends a file to where this session's uploads go. The same file is sent once.",
}, func(ctx context.Context, scope *vql.Scope, args *uploadArgs) (vql.Value, error) {
	uploader, ok := vql.Service[vql.Uploader](scope)
	if !ok {
		return nil, errNoUploader
	}
	accessor, path, err := resolve(scope, args.Accessor, args.File)
	if err != nil {
		return nil, err
	}
	storeAs := storeAsPath(ctx, scope, args.Name)
	key := uploadKey{args.Accessor, path.String(), ""}
	if storeAs != nil {
		key.name = storeAs.String()
	}
	return scope.Cache().Get(key, func() (any, error) {
		return upload(ctx, scope, uploader, accessor, path, storeAs, args)
	})
})

// storeAsPath reads the name to store under, which is a path of this host whatever
// accessor opens the file itself.
func storeAsPath(ctx context.Context, scope *vql.Scope, v vql.Value) *vql.Path {
	if vql.IsNull(v) {
		return nil
	}
	if path, ok := v.(*vql.Path); ok {
		return path
	}
	path := vql.ParsePath(hostSyntax(), scope.String(ctx, v))
	if path.Len() == 0 {
		return nil
	}
	return path
}

// timeOf reads a time argument; what is no time is the zero time.
func timeOf(scope *vql.Scope, v vql.Value) time.Time {
	if vql.IsNull(v) {
		return time.Time{}
	}
	t, ok := scope.Time(v)
	if !ok {
		return time.Time{}
	}
	return t
}

// uploadKey tells uploads of one session apart.
type uploadKey struct{ accessor, path, name string }

func upload(ctx context.Context, scope *vql.Scope, uploader vql.Uploader, accessor vql.Accessor, path, storeAs *vql.Path, args *uploadArgs) (vql.Value, error) {
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	file, err := accessor.Open(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	request := vql.UploadRequest{
		Path: path, Accessor: args.Accessor, StoreAs: storeAs, Reader: file, Size: sizeOf(file),
		Mtime: timeOf(scope, args.Mtime), Atime: timeOf(scope, args.Atime), Ctime: timeOf(scope, args.Ctime), Btime: timeOf(scope, args.Btime),
	}
	if request.Accessor == "" {
		request.Accessor = "auto"
	}
	if sparse, ok := file.(vql.Ranger); ok {
		request.Ranges = sparse.Ranges()
	}
	addTimes(ctx, scope, accessor, path, &request)
	result, err := uploader.Upload(ctx, scope, request)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return result, nil
}

// addTimes takes from the file the times that the call does not give.
func addTimes(ctx context.Context, scope *vql.Scope, accessor vql.Accessor, path *vql.Path, r *vql.UploadRequest) {
	info, err := accessor.Lstat(ctx, scope, path)
	if err != nil {
		return // the file is open: missing times are no reason to refuse it
	}
	for _, t := range []struct {
		to   *time.Time
		from func() time.Time
	}{{&r.Mtime, info.Mtime}, {&r.Atime, info.Atime}, {&r.Ctime, info.Ctime}, {&r.Btime, info.Btime}} {
		if t.to.IsZero() {
			*t.to = t.from()
		}
	}
}

// sizeOf asks an open file for its size, -1 when it does not know.
func sizeOf(file io.Seeker) int64 {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return -1
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return -1
	}
	return size
}
