package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

const maxView = 64 << 20

// finding is one thing that a check has to say of a file.
type finding struct {
	Kind   string `json:"kind"` // checksum, lost, member, missing_rows, conflict, upload: damage; hole; torn, beyond_seal: notes
	Path   string `json:"path"`
	Offset int64  `json:"offset,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	Text   string `json:"text,omitempty"`
}

// checker walks a store and prints what it finds.
type checker struct {
	store *filestore.Store
	read  *filestore.Reader
	print *printer

	sets, uploads, rows, damage, holes, notes int64
}

func (o *storeFlags) check(ctx context.Context, c *cobra.Command, store *filestore.Store, args []string) error {
	k := &checker{store: store}
	var err error
	if k.read, err = reader(ctx, store); err != nil {
		return err
	}
	k.print, err = o.g.printer(c, column{"KIND", "kind"}, column{"PATH", "path"}, column{"OFFSET", "offset"}, column{"BYTES", "bytes"}, column{"TEXT", "text"})
	if err != nil {
		return err
	}
	tops, err := checkWhere(args)
	if err != nil {
		return err
	}
	for _, top := range tops {
		if err := k.walk(ctx, top); err != nil {
			return errors.Join(err, k.print.close())
		}
	}
	if err := k.print.close(); err != nil {
		return err
	}
	o.g.noter(c)("%d sets with %d rows and %d uploads checked: %d damaged, %d holes, %d notes", k.sets, k.rows, k.uploads, k.damage, k.holes, k.notes)
	switch {
	case k.damage > 0:
		return &exitError{exitFailed, fmt.Errorf("%d damaged places in the store", k.damage)}
	case k.holes > 0:
		return &exitError{exitPartly, fmt.Errorf("%d holes in the store", k.holes)}
	}
	return nil
}

// checkWhere are the folders to look at: all that hold rows, or one client's or
// flow's.
func checkWhere(args []string) ([]string, error) {
	if len(args) == 0 {
		return []string{"clients", "hunts", "events", "eventlogs", "deadletters", "orgs"}, nil
	}
	client, err := ids.ParseClient(args[0])
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	if len(args) == 1 {
		return []string{filestore.ClientDir(ids.RootOrg, client)}, nil
	}
	flow, err := ids.ParseFlow(args[1])
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return []string{filestore.FlowDir(ids.RootOrg, client, flow)}, nil
}

// walk checks a folder that holds segments as a set, and goes down all others.
func (k *checker) walk(ctx context.Context, dir string) error {
	entries, err := k.store.ReadDirEntries(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	segments, view := false, false
	for _, entry := range entries {
		switch {
		case entry.IsDir() && entry.Name() != "uploads" || entry.IsDir() && strings.Contains(dir, "/collections/"):
			if err := k.walk(ctx, path.Join(dir, entry.Name())); err != nil {
				return err
			}
		case strings.HasSuffix(entry.Name(), ".jsonl.gz"):
			segments = true
		case entry.Name() == "flow.json":
			view = true
		}
	}
	if segments {
		if err := k.set(ctx, filestore.Set(dir)); err != nil {
			return err
		}
	}
	if view {
		return k.flow(ctx, dir)
	}
	return nil
}

func (k *checker) set(ctx context.Context, set filestore.Set) error {
	report, err := k.read.Verify(ctx, set)
	if err != nil {
		return fmt.Errorf("check %s: %w", set, err)
	}
	k.sets++
	k.rows += report.Rows
	for _, d := range report.Damage {
		f := finding{Kind: string(d.Kind), Path: d.Path, Offset: d.Offset, Bytes: d.Bytes}
		if d.Err != nil {
			f.Text = d.Err.Error()
		}
		if err := k.found(f); err != nil {
			return err
		}
	}
	for _, hole := range report.Holes {
		f := finding{Kind: "hole", Path: set.String(), Text: fmt.Sprintf("%s: rows %d to %d", hole.Stream, hole.Rows.Start, hole.Rows.End-1)}
		if err := k.found(f); err != nil {
			return err
		}
	}
	for _, c := range report.Conflicts {
		f := finding{Kind: "conflict", Path: c.Other.Path, Offset: c.Other.Member, Text: fmt.Sprintf("%s: rows %d to %d differ from those in %s", c.Stream, c.FirstRow, c.FirstRow+c.Rows-1, c.Kept.Path)}
		if err := k.found(f); err != nil {
			return err
		}
	}
	return nil
}

func (k *checker) found(f finding) error {
	switch f.Kind {
	case string(filestore.DamageTorn), string(filestore.DamageBeyondSeal):
		k.notes++
	case "hole":
		k.holes++
	default:
		k.damage++
	}
	return k.print.value(f)
}

// flowFile is what a check reads of flow.json.
type flowFile struct {
	Client string      `json:"client"`
	Flow   string      `json:"flow"`
	State  flows.State `json:"state"`
	Names  []struct {
		Name string  `json:"name"`
		Rows []int64 `json:"rows"`
	} `json:"names"`
	Uploads []int64 `json:"uploads"`
}

// flow holds what lies there against the record of a completed collection: its
// rows must all be there, and its uploads must have their hashes.
func (k *checker) flow(ctx context.Context, dir string) error {
	text, err := k.store.ReadFile(ctx, path.Join(dir, "flow.json"), maxView)
	if err != nil {
		return err
	}
	view := flowFile{}
	if err := json.Unmarshal(text, &view); err != nil {
		return k.found(finding{Kind: "view", Path: path.Join(dir, "flow.json"), Text: err.Error()})
	}
	client, err := ids.ParseClient(view.Client)
	if err != nil {
		return k.found(finding{Kind: "view", Path: path.Join(dir, "flow.json"), Text: err.Error()})
	}
	flow, err := ids.ParseFlow(view.Flow)
	if err != nil {
		return k.found(finding{Kind: "view", Path: path.Join(dir, "flow.json"), Text: err.Error()})
	}
	for _, named := range view.Names {
		set := filestore.FlowResults(ids.RootOrg, client, flow, named.Name)
		if err := k.covered(ctx, set, filestore.RowsFilter{Client: client, Flow: flow, Name: named.Name}, named.Rows); err != nil {
			return err
		}
	}
	return k.flowUploads(ctx, dir, view)
}

// covered looks for rows that the record knows and the segments do not hold.
func (k *checker) covered(ctx context.Context, set filestore.Set, filter filestore.RowsFilter, ranges []int64) error {
	coverage, err := k.read.Coverage(ctx, set, filter)
	if err != nil {
		return fmt.Errorf("check %s: %w", set, err)
	}
	var held filestore.Intervals
	for _, stream := range coverage.Streams {
		held.Union(stream.Rows)
	}
	for i := 0; i+1 < len(ranges); i += 2 {
		for _, missing := range held.Missing(ranges[i], ranges[i+1]) {
			f := finding{Kind: "missing_rows", Path: set.String(), Text: fmt.Sprintf("rows %d to %d were acknowledged", missing.Start, missing.End-1)}
			if err := k.found(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// flowUploads hashes what the collection's list of uploads names, and misses
// those that the record knows and the list does not.
func (k *checker) flowUploads(ctx context.Context, dir string, view flowFile) error {
	if len(view.Uploads) == 0 {
		return nil
	}
	set := filestore.Set(path.Join(dir, "uploads"))
	var listed bytes.Buffer
	if _, err := k.read.Export(ctx, set, filestore.RowsFilter{}, &listed); err != nil {
		return fmt.Errorf("check %s: %w", set, err)
	}
	var known filestore.Intervals
	for line := range bytes.Lines(listed.Bytes()) {
		var upload flows.Upload
		if err := json.Unmarshal(line, &upload); err != nil {
			return k.found(finding{Kind: "upload", Path: set.String(), Text: err.Error()})
		}
		known.Add(upload.Number, upload.Number+1)
		if err := k.upload(ctx, &upload); err != nil {
			return err
		}
	}
	for i := 0; i+1 < len(view.Uploads); i += 2 {
		for _, missing := range known.Missing(view.Uploads[i], view.Uploads[i+1]) {
			if err := k.found(finding{Kind: "upload", Path: set.String(), Text: fmt.Sprintf("uploads %d to %d are not listed", missing.Start, missing.End-1)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *checker) upload(ctx context.Context, upload *flows.Upload) error {
	k.uploads++
	file, err := k.store.OpenUpload(ctx, upload.StoredPath)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return k.found(finding{Kind: "upload", Path: upload.StoredPath, Text: err.Error()})
	}
	sum := sha256.New()
	_, err = io.Copy(sum, file.Stored(ctx))
	if err = errors.Join(err, file.Close(ctx)); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return k.found(finding{Kind: "upload", Path: upload.StoredPath, Text: err.Error()})
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != upload.SHA256 {
		return k.found(finding{Kind: "upload", Path: upload.StoredPath, Text: fmt.Sprintf("hash is %s, recorded %s", got, upload.SHA256)})
	}
	return nil
}
