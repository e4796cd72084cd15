package flows

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"raptorpack/filestore"
)

// reader reads segments: *filestore.Reader.
type reader interface {
	ReadRows(ctx context.Context, set filestore.Set, q filestore.RowsQuery) (*filestore.RowsPage, error)
	CoverageBy(ctx context.Context, set filestore.Set, filter filestore.RowsFilter, owner func(incarnation string) bool) (*filestore.Coverage, error)
}

// Page chooses a part of rows or log lines. Zero values mean the first page of
// the store's usual size.
type Page struct {
	From   int64  // rows to skip
	Limit  int    // rows at most
	Cursor string // RowsPage.Next of the page before
}

// Results returns a page of one result of a flow, in row order, each row once;
// what is missing is in Holes. A name that the flow does not have is
// ErrNotFound; a result without rows is an empty page.
func (r *Room) Results(ctx context.Context, key Key, name string, p Page) (*filestore.RowsPage, error) {
	f, err := r.Flow(key)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(f.Spec.Results(), name) {
		return nil, fmt.Errorf("result %.100q of flow %s: %w", name, key.Flow, ErrNotFound)
	}
	return r.page(ctx, f, f.results(name), name, p)
}

// Logs returns a page of a flow's query log.
func (r *Room) Logs(ctx context.Context, key Key, p Page) (*filestore.RowsPage, error) {
	f, err := r.Flow(key)
	if err != nil {
		return nil, err
	}
	return r.page(ctx, f, f.logs(), logName, p)
}

func (r *Room) page(ctx context.Context, f *Flow, set filestore.Set, name string, p Page) (*filestore.RowsPage, error) {
	page, err := r.o.Reader.ReadRows(ctx, set, filestore.RowsQuery{
		RowsFilter: filestore.RowsFilter{Client: f.Client, Flow: f.Flow, Name: name},
		From:       p.From, Limit: p.Limit, Cursor: p.Cursor,
	})
	if err != nil {
		return nil, fmt.Errorf("read %s of flow %s of %s: %w", name, f.Flow, f.Client, err)
	}
	return page, nil
}

// Uploads lists the finished uploads of a flow by number.
func (r *Room) Uploads(ctx context.Context, key Key) ([]Upload, error) {
	f, err := r.Flow(key)
	if err != nil {
		return nil, err
	}
	return r.list(ctx, f)
}

// list reads the finished uploads, and what was said of those that ended on
// another node than they began.
func (r *Room) list(ctx context.Context, f *Flow) ([]Upload, error) {
	out, err := listed[Upload](ctx, r, f, UploadName)
	if err != nil || !slices.ContainsFunc(out, func(u Upload) bool { return u.bare() }) {
		return out, err
	}
	said, err := listed[aboutUpload](ctx, r, f, aboutName)
	if err != nil {
		return nil, err
	}
	by := make(map[int64]*aboutUpload, len(said))
	for i := range said {
		by[said[i].Number] = &said[i]
	}
	for i := range out {
		if about := by[out[i].Number]; about != nil && out[i].bare() {
			out[i].describe(about)
		}
	}
	return out, nil
}

// listed reads all lines of one name in the list of uploads.
func listed[T any](ctx context.Context, r *Room, f *Flow, name string) ([]T, error) {
	var out []T
	for p := (Page{}); ; {
		page, err := r.page(ctx, f, f.uploadList(), name, p)
		if err != nil {
			return nil, err
		}
		for _, row := range page.Rows {
			var one T
			if err := json.Unmarshal(row.Line, &one); err != nil {
				return nil, fmt.Errorf("read %s of flow %s of %s: %w", name, f.Flow, f.Client, err)
			}
			out = append(out, one)
		}
		if page.Next == "" || len(page.Rows) == 0 {
			return out, nil
		}
		p = Page{Cursor: page.Next}
	}
}

// OpenUpload opens the stored bytes of one upload; the caller closes it. A
// number that the flow has not finished is ErrNotFound.
func (r *Room) OpenUpload(ctx context.Context, key Key, number int64) (*filestore.UploadFile, Upload, error) {
	all, err := r.Uploads(ctx, key)
	if err != nil {
		return nil, Upload{}, err
	}
	at := slices.IndexFunc(all, func(u Upload) bool { return u.Number == number })
	if at < 0 {
		return nil, Upload{}, fmt.Errorf("upload %d of flow %s: %w", number, key.Flow, ErrNotFound)
	}
	file, err := r.o.Store.OpenUpload(ctx, all[at].StoredPath)
	if err != nil {
		return nil, Upload{}, fmt.Errorf("upload %d of flow %s of %s: %w", number, key.Flow, key.Client, err)
	}
	return file, all[at], nil
}

// maxIndexBytes bounds the index of a sparse upload as it is stored.
const maxIndexBytes = 128 << 20

// OpenStored opens the stored bytes of an upload that Uploads listed; the caller closes
// it.
func (r *Room) OpenStored(ctx context.Context, u *Upload) (*filestore.UploadFile, error) {
	return r.o.Store.OpenUpload(ctx, u.StoredPath)
}

// StoredIndex reads the index of a sparse upload that Uploads listed.
func (r *Room) StoredIndex(ctx context.Context, u *Upload) ([]byte, error) {
	return r.o.Store.ReadFile(ctx, u.StoredPath+".idx", maxIndexBytes)
}
