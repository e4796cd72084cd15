package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/vql"
)

// storeTops are the folders of an org that hold what clients sent, zips of that, and
// what notebooks keep. Ledger, snapshots, leases and the audit trail are not among them: they hold accounts
// and keys.
var storeTops = []string{"clients", filestore.DownloadsTop, "events", "eventlogs", "hunts", filestore.NotebooksTop}

// storeAccessor reads what clients sent, by its path below the org's folder on
// the filestore: the vfs_path of uploads() and enumerate_flow(). A sparse upload
// reads as it was on the client, holes as zeros.
type storeAccessor struct{}

func (storeAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathLinux, text), nil
}

// place is the path on the filestore, or fs.ErrNotExist outside of what may be
// seen.
func (storeAccessor) place(scope *vql.Scope, p *vql.Path) (*Host, string, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, "", err
	}
	if h.Files == nil {
		return nil, "", fmt.Errorf("open %s: %w", p, ErrUnsupported)
	}
	parts := h.ownPart(p.Components())
	name := path.Join(h.below(parts)...)
	if name == "" {
		name = "."
	}
	if slices.ContainsFunc(parts, climbs) || len(parts) > 0 && !slices.Contains(storeTops, parts[0]) {
		return nil, "", &fs.PathError{Op: "open", Path: p.Path(), Err: fs.ErrNotExist}
	}
	return h, name, nil
}

// climbs tells components that are none: path objects may hold what no text
// parses to, and joining must not lead out of the folder that was checked.
func climbs(component string) bool {
	return component == "" || component == "." || component == ".." || strings.Contains(component, "/")
}

func (a storeAccessor) Lstat(ctx context.Context, scope *vql.Scope, p *vql.Path) (vql.FileInfo, error) {
	h, name, err := a.place(scope, p)
	if err != nil {
		return nil, err
	}
	info, err := h.Files.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	return &storeInfo{FileInfo: info, path: p}, nil
}

func (a storeAccessor) ReadDir(ctx context.Context, scope *vql.Scope, p *vql.Path) ([]vql.FileInfo, error) {
	h, name, err := a.place(scope, p)
	if err != nil {
		return nil, err
	}
	entries, err := h.Files.ReadDirEntries(ctx, name)
	if err != nil {
		return nil, err
	}
	var out []vql.FileInfo
	for _, e := range entries {
		if p.Len() == 0 && !slices.Contains(storeTops, e.Name()) {
			continue
		}
		if err := scope.Charge(ctx); err != nil {
			return nil, err
		}
		info, err := h.Files.Stat(ctx, path.Join(name, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // went away meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, &storeInfo{FileInfo: info, path: p.Append(e.Name())})
	}
	slices.SortFunc(out, func(a, b vql.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

func (a storeAccessor) Open(ctx context.Context, scope *vql.Scope, p *vql.Path) (vql.ReadSeekCloser, error) {
	h, name, err := a.place(scope, p)
	if err != nil {
		return nil, err
	}
	upload, err := h.Files.OpenUpload(ctx, name)
	if err == nil {
		return &storeFile{ReadSeeker: upload.Expanded(ctx), close: upload.Close, ctx: ctx}, nil
	}
	if !errors.Is(err, filestore.ErrBadName) {
		return nil, err
	}
	handle, err := h.Files.OpenFile(ctx, name)
	if err != nil {
		return nil, err
	}
	info, err := handle.Stat(ctx)
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return nil, errors.Join(err, handle.Close(context.WithoutCancel(ctx)))
	}
	reader := io.NewSectionReader(handleReader{handle, ctx}, 0, info.Size())
	return &storeFile{ReadSeeker: reader, close: handle.Close, ctx: ctx}, nil
}

// handleReader reads under the context of the call that opened it: a query's file
// does not outlive the query.
type handleReader struct {
	handle *filestore.Handle
	ctx    context.Context //nolint:containedctx // io.ReaderAt has none
}

func (r handleReader) ReadAt(p []byte, off int64) (int, error) { return r.handle.ReadAt(r.ctx, p, off) }

// storeFile is an open file of the filestore.
type storeFile struct {
	io.ReadSeeker
	close func(context.Context) error
	ctx   context.Context //nolint:containedctx // io.Closer has none
}

// Close gives the descriptor back even when the query was stopped.
func (f *storeFile) Close() error { return f.close(context.WithoutCancel(f.ctx)) }

// storeInfo is the facts of one name on the filestore.
type storeInfo struct {
	fs.FileInfo
	path *vql.Path
}

func (i *storeInfo) OSPath() *vql.Path        { return i.path }
func (i *storeInfo) IsLink() bool             { return i.Mode()&fs.ModeSymlink != 0 }
func (i *storeInfo) Link() (*vql.Path, error) { return nil, fs.ErrInvalid }
func (i *storeInfo) Mtime() time.Time         { return i.ModTime() }
func (i *storeInfo) Atime() time.Time         { return time.Time{} }
func (i *storeInfo) Ctime() time.Time         { return time.Time{} }
func (i *storeInfo) Btime() time.Time         { return time.Time{} }
func (i *storeInfo) Data() *vql.Dict          { return vql.NewDict() }
