package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/integration"
)

// errCount means that what a hunt says and what is stored are not the same.
var errCount = errors.New("counts and store differ")

// recount reads the rows of a hunt from the store, without the pack, and holds them
// against what the door says: so many clients, and so many rows of each, each once.
func (r *packRun) recount(ctx context.Context, h hunted, artifact string, clients, rows int) error {
	if h.last.Clients["completed"] != clients || h.last.Rows != int64(clients)*int64(rows) {
		return fmt.Errorf("%w: hunt %s says %+v of %d clients with %d rows each", errCount, h.id, h.last, clients, rows)
	}
	id, err := ids.ParseHunt(h.id)
	if err != nil {
		return err
	}
	store, err := filestore.Open(r.nodes()[0].store(), filestore.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer store.Close(context.WithoutCancel(ctx))
	reader, err := integration.NewReader(ctx, store)
	if err != nil {
		return err
	}
	set := filestore.HuntResults(ids.RootOrg, id, artifact)
	twice, err := covered(ctx, reader, set, clients, rows)
	if err != nil {
		return fmt.Errorf("hunt %s: %w", h.id, err)
	}
	served, err := read(ctx, reader, set)
	if err != nil {
		return err
	}
	for client, n := range served {
		if n != rows {
			return fmt.Errorf("%w: hunt %s serves %d rows of %s", errCount, h.id, n, client)
		}
	}
	if len(served) != clients {
		return fmt.Errorf("%w: hunt %s serves rows of %d clients", errCount, h.id, len(served))
	}
	r.note("hunt %s: %d clients, %d rows, each there once; %d batches are stored twice and served once", h.id, clients, clients*rows, twice)
	return nil
}

// covered checks which rows are there, of which clients, and counts batches that were
// stored more than once.
func covered(ctx context.Context, reader *filestore.Reader, set filestore.Set, clients, rows int) (twice int, err error) {
	coverage, err := reader.Coverage(ctx, set, filestore.RowsFilter{})
	if err != nil {
		return 0, err
	}
	for stream, c := range coverage.Streams {
		if len(c.Rows) != 1 || c.Rows[0] != (filestore.Interval{Start: 0, End: int64(rows)}) || len(c.Conflicts) > 0 {
			return 0, fmt.Errorf("%w: %v has rows %v and %d conflicts", errCount, stream, c.Rows, len(c.Conflicts))
		}
		twice += c.Duplicates
	}
	if len(coverage.Streams) != clients {
		return 0, fmt.Errorf("%w: rows of %d clients and flows instead of %d", errCount, len(coverage.Streams), clients)
	}
	for _, d := range coverage.Damage { // of nodes that were killed: torn tails that nobody was told of
		if d.Kind != filestore.DamageTorn && d.Kind != filestore.DamageBeyondSeal {
			return 0, fmt.Errorf("%w: %s of %s: %w", errCount, d.Kind, d.Path, d.Err)
		}
	}
	return twice, nil
}

// read pages through a set as readers do, and counts the rows of each client.
func read(ctx context.Context, reader *filestore.Reader, set filestore.Set) (map[ids.Client]int, error) {
	served := map[ids.Client]int{}
	for q := (filestore.RowsQuery{Limit: 10_000}); ; {
		page, err := reader.ReadRows(ctx, set, q)
		if err != nil {
			return nil, err
		}
		for _, row := range page.Rows {
			served[row.Client]++
		}
		if page.Next == "" {
			return served, nil
		}
		q.Cursor = page.Next
	}
}

// uploaded counts the uploads below the clients' folders that have a size.
func (r *packRun) uploaded(name string, size int64) (int, error) {
	count := 0
	err := filepath.WalkDir(filepath.Join(r.nodes()[0].store(), "clients"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Base(path) != name {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() == size {
			count++
		}
		return err
	})
	return count, err
}
