package flows

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"raptorpack/filestore"
)

// EventFiles lists the files that hold rows, or the log, of an event artifact on the
// days of a deletion on which the client has rows.
func (r *Room) EventFiles(ctx context.Context, d EventDeletion) ([]string, error) {
	var out []string
	for _, log := range []bool{false, true} {
		days, err := r.deletedDays(ctx, d, log)
		if err != nil {
			return nil, fmt.Errorf("list files of %s: %w", d.Name, err)
		}
		for _, set := range days {
			page, err := r.o.Reader.ReadRows(ctx, set, filestore.RowsQuery{RowsFilter: filestore.RowsFilter{Client: d.Client}, Limit: 1})
			if err != nil {
				return nil, fmt.Errorf("list files of %s: %w", d.Name, err)
			}
			if page.Total == 0 {
				continue
			}
			names, err := r.folders(ctx, string(set))
			if err != nil {
				return nil, fmt.Errorf("list files of %s: %w", d.Name, err)
			}
			for _, name := range names {
				out = append(out, path.Join(string(set), name))
			}
		}
	}
	return out, nil
}

// deletedDays are the sets of the days of a deletion that are there.
func (r *Room) deletedDays(ctx context.Context, d EventDeletion, log bool) ([]filestore.Set, error) {
	q := EventRowsQuery{Org: d.Org, Name: d.Name, Log: log}
	names, err := r.folders(ctx, path.Dir(string(q.set(time.Unix(0, 0)))))
	if err != nil {
		return nil, err
	}
	var out []filestore.Set
	days, _ := parted(names)
	for _, day := range days {
		at, err := time.Parse(time.DateOnly, day)
		if err != nil {
			return nil, err
		}
		if d.From <= day && day <= d.To {
			out = append(out, q.set(at))
		}
	}
	return out, nil
}

// RemoveEvents removes the files of the days of a deletion that hold nothing but what
// was deleted. The master calls it; repeating it does no harm. Where others' rows lie
// in the same files, these stay, and readers leave out what is deleted.
func (r *Room) RemoveEvents(ctx context.Context, d EventDeletion) error {
	all := r.Erased.of(d.Org, d.Name)
	for _, log := range []bool{false, true} {
		days, err := r.deletedDays(ctx, d, log)
		if err != nil {
			return fmt.Errorf("remove events of %s: %w", d.Name, err)
		}
		for _, set := range days {
			empty, err := r.nothingLeft(ctx, set, all)
			if err == nil && empty {
				err = r.o.Store.RemoveAll(ctx, string(set))
			}
			if err != nil {
				return fmt.Errorf("remove events %s: %w", set, err)
			}
		}
	}
	return nil
}

// nothingLeft reports whether all rows of a day were deleted. It reads until it meets
// one that was not. Damaged files are left alone.
func (r *Room) nothingLeft(ctx context.Context, set filestore.Set, all []EventDeletion) (bool, error) {
	day := path.Base(string(set))
	for cursor := ""; ; {
		page, err := r.o.Reader.ReadRows(ctx, set, filestore.RowsQuery{Limit: defaultEventRows, Cursor: cursor})
		if err != nil {
			return false, err
		}
		left := slices.ContainsFunc(page.Rows, func(row filestore.Row) bool { return !gone(all, row.Client, day) })
		if left || len(page.Damage) > 0 {
			return false, nil
		}
		if cursor = page.Next; cursor == "" {
			return true, nil
		}
	}
}
