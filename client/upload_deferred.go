package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// resumedName is the result name of resumed uploads, in clear (client protocol
// 9.7).
const resumedName = "Server.Internal.ResumedUploads"

// deferrable are the accessors whose files can be opened again later.
var deferrable = []string{"file", "ntfs", "ext4", "auto"}

// resumable reports whether the query asks for uploads beside it.
func resumable(scope *vql.Scope, accessor string) bool {
	if !slices.Contains(deferrable, accessor) {
		return false
	}
	v, ok := scope.Lookup("UPLOAD_IS_RESUMABLE")
	if !ok || vql.IsNull(v) {
		return false
	}
	if text, ok := v.(string); ok { // from env everything is text
		return slices.Contains([]string{"Y", "TRUE", "YES", "OK"}, strings.ToUpper(text))
	}
	return scope.Truth(v)
}

// postpone queues an upload to run beside the query, unless it is through. A
// run that finds it failed is no better than the run that saw it fail.
func (u *uploader) postpone(
	ctx context.Context, scope *vql.Scope, state, wanted upload, path *vql.Path,
) (*vql.UploadResult, error) {
	if state.Done {
		old, err := decodeResult(state)
		if err != nil {
			return nil, err
		}
		if old.Error != "" {
			scope.Log(vql.LevelError, "upload: %s: %s", wanted.Filename, old.Error)
		}
	} else {
		u.mu.Lock()
		u.left++
		u.mu.Unlock()
		select {
		case u.queue <- deferredUpload{state, path}:
		case <-u.ended:
			return nil, errQueryOver
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return &vql.UploadResult{
		Path: wanted.Filename, StoredName: wanted.StoreAs, Components: wanted.Components,
		Accessor: wanted.Accessor, UploadID: state.ID,
	}, nil
}

var errQueryOver = errors.New("query is over")

// outstanding is the number of deferred uploads not yet ended.
func (u *uploader) outstanding() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.left
}

// noMore says that no upload will be postponed any more.
func (u *uploader) noMore() { close(u.ended) }

// work sends deferred uploads one after the other until those postponed before
// noMore are through, or ctx ends.
func (u *uploader) work(ctx context.Context, scope *vql.Scope) {
	for {
		select {
		case next := <-u.queue:
			u.sendDeferred(ctx, scope, next)
			continue
		case <-ctx.Done():
			return
		case <-u.ended:
		}
		select {
		case next := <-u.queue:
			u.sendDeferred(ctx, scope, next)
		default:
			return
		}
	}
}

// sendDeferred sends one file; a failure is told as its result.
func (u *uploader) sendDeferred(ctx context.Context, scope *vql.Scope, next deferredUpload) {
	result, err := u.reopen(ctx, scope, next.state, next.path, 0)
	if err != nil {
		result = &vql.UploadResult{Path: next.state.Filename, Error: err.Error(), UploadID: next.state.ID}
	}
	if ctx.Err() != nil {
		return // another run takes it up again
	}
	if result.Error != "" {
		scope.Log(vql.LevelError, "upload: %s: %s", next.state.Filename, result.Error)
		text, err := json.Marshal(result)
		if err == nil {
			err = u.announce(ctx, next.state, vql.UploadRequest{}, string(text))
		}
		if err != nil {
			scope.Log(vql.LevelError, "upload: %s: %v", next.state.Filename, err)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.left--
}

// reopen opens the file of a deferred or resumed upload and sends it from what
// the journal has of it, or else from start.
func (u *uploader) reopen(ctx context.Context, scope *vql.Scope, state upload, path *vql.Path, start int64) (*vql.UploadResult, error) {
	accessor, err := scope.Accessor(state.Accessor)
	if err != nil {
		return nil, err
	}
	if path == nil {
		if path, err = accessor.ParsePath(state.Filename); err != nil {
			return nil, err
		}
	}
	file, err := accessor.Open(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r := vql.UploadRequest{Path: path, Accessor: state.Accessor, Reader: file, Size: state.Size}
	wanted := state
	if info, err := accessor.Lstat(ctx, scope, path); err == nil {
		r.Mtime, r.Atime, r.Ctime, r.Btime = info.Mtime(), info.Atime(), info.Ctime(), info.Btime()
		wanted.Size, wanted.ModTime = info.Size(), nanoseconds(info.Mtime())
	}
	if sparse, ok := file.(vql.Ranger); ok {
		r.Ranges = sparse.Ranges()
	}
	if start == 0 || state.Offset > 0 {
		return u.send(ctx, state, wanted, r)
	}
	return u.sendRest(ctx, state, r, start)
}

// sendRest sends a file from where the server says that it ends there. What
// lies before is the server's word; hashes cover only what is sent now.
func (u *uploader) sendRest(ctx context.Context, state upload, r vql.UploadRequest, start int64) (*vql.UploadResult, error) {
	source := newStoredReader(r)
	if err := source.skip(start); err != nil {
		return nil, fmt.Errorf("skip to %d: %w", start, err)
	}
	s := newSending(u, state, r, source)
	s.state.Offset = start
	return s.all(ctx)
}

// resume serves a ResumeTransactions: each upload is taken up again, and its
// result is a row.
func (q *query) resume(ctx context.Context, transactions []*wirepb.UploadTransaction) {
	q.status.begin(q.runner.options.CPU)
	q.status.finish(q.began, q.resumeAll(ctx, transactions))
}

func (q *query) resumeAll(ctx context.Context, transactions []*wirepb.UploadTransaction) error {
	scope, err := q.scope()
	if err != nil {
		return err
	}
	defer scope.Close()
	ctx, stop := context.WithTimeout(ctx, q.limits().Timeout)
	defer stop()
	request := &wirepb.VQLRequest{Name: resumedName}
	rows := newRowsOut(q.output, request, 0, q.args, q.known[resumedName], prefix{})
	var errs []error
	for _, t := range transactions {
		result := q.resumeOne(ctx, scope, t)
		if err := rows.add(ctx, resultRow(result)); err != nil {
			return err
		}
		if result.Error != "" {
			errs = append(errs, fmt.Errorf("upload %d: %s", t.GetUploadId(), result.Error))
		}
	}
	_, err = rows.finish(ctx, nil)
	return errors.Join(append(errs, err)...)
}

// resumeOne takes up one upload under its old number.
func (q *query) resumeOne(ctx context.Context, scope *vql.Scope, t *wirepb.UploadTransaction) *vql.UploadResult {
	state, known := q.uploads.book.claim(upload{Key: resumeKey(t.GetUploadId())})
	if !known { // the journal holds all of them since the request was accepted
		return &vql.UploadResult{Path: t.GetFilename(), Error: "unknown upload", UploadID: t.GetUploadId()}
	}
	if state.Done {
		if result, err := decodeResult(state); err == nil {
			return result
		}
	}
	result, err := q.uploads.reopen(ctx, scope, state, nil, t.GetStartOffset())
	if err != nil {
		return &vql.UploadResult{Path: state.Filename, Error: err.Error(), UploadID: state.ID}
	}
	return result
}

func resumeKey(id int64) string { return fmt.Sprintf("resume\x00%d", id) }

// uploadsToResume is what the journal notes of a ResumeTransactions.
func uploadsToResume(r *wirepb.ResumeTransactions) []*upload {
	var out []*upload
	for _, t := range r.GetTransactions() {
		out = append(out, &upload{
			ID: t.GetUploadId(), Key: resumeKey(t.GetUploadId()), Filename: t.GetFilename(), Accessor: t.GetAccessor(),
			StoreAs: t.GetStoreAsName(), Components: t.GetComponents(), Size: t.GetExpectedSize(), ModTime: t.GetMtime(),
			Mode: t.GetMode(), Deferred: true,
		})
	}
	return out
}

// resultRow is an upload result as a row.
func resultRow(r *vql.UploadResult) *vql.Dict {
	row := vql.NewDict()
	data, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(data, row)
	}
	if err != nil {
		row.Set("Error", err.Error())
	}
	return row
}
