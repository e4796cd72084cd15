package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

const maxView = 64 << 20

// finding is one thing that a check or a scrub has to say of a file.
type finding struct {
	Kind   string `json:"kind"` // see weight
	Path   string `json:"path"`
	Offset int64  `json:"offset,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	Text   string `json:"text,omitempty"`
}

// weight is how much a finding matters.
type weight int

const (
	note   weight = iota // nobody was told of what lies there
	hole                 // rows that may still come in
	doubt                // a client said two things of the same rows; both are kept
	harmed               // what was acknowledged is lost or wrong
)

func (f finding) weight() weight {
	switch f.Kind {
	case string(filestore.DamageTorn), string(filestore.DamageBeyondSeal):
		return note
	case "hole":
		return hole
	case "conflict":
		return doubt
	}
	return harmed
}

// columns are those of findings in a table.
func (finding) columns() []column {
	return []column{{"KIND", "kind"}, {"PATH", "path"}, {"OFFSET", "offset"}, {"BYTES", "bytes"}, {"TEXT", "text"}}
}

// checker walks the rows and uploads of a store.
type checker struct {
	store *filestore.Store
	read  *filestore.Reader

	// verify checks a set; show takes what is found; failed says how to go on
	// without a file or folder that cannot be read: nil, or the error to end with.
	verify func(ctx context.Context, set filestore.Set) (*filestore.ExportReport, error)
	show   func(finding) error
	failed func(ctx context.Context, where string, err error) error

	sets, uploads, rows, damage, holes, notes int64
}

func (o *storeFlags) check(ctx context.Context, c *cobra.Command, store *filestore.Store, args []string) error {
	p, err := o.g.printer(c, finding{}.columns()...)
	if err != nil {
		return err
	}
	k := &checker{store: store, show: func(f finding) error { return p.value(f) }}
	k.failed = func(_ context.Context, where string, err error) error { return fmt.Errorf("check %s: %w", where, err) }
	if k.read, err = reader(ctx, store); err != nil {
		return err
	}
	k.verify = k.read.Verify
	tops, err := checkWhere(args)
	if err != nil {
		return err
	}
	for _, top := range tops {
		if err := k.walk(ctx, top); err != nil {
			return errors.Join(err, p.close())
		}
	}
	if err := p.close(); err != nil {
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

// rowFolders are the folders at the top of a store that hold rows.
var rowFolders = []string{"clients", "hunts", "events", "eventlogs", filestore.NotebooksTop, "deadletters", "orgs"}

// checkWhere are the folders to look at: all that hold rows, or one client's or
// flow's.
func checkWhere(args []string) ([]string, error) {
	if len(args) == 0 {
		return rowFolders, nil
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
		return k.failed(ctx, dir, err)
	}
	segments, view := false, false
	for _, entry := range entries {
		switch {
		case entry.IsDir() && entry.Name() == "uploads" && isClientDir(dir):
			// the uploaded files themselves; the lists of them say what to look for
		case entry.IsDir():
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
	if segments && isUploadList(dir) {
		if err := k.listedUploads(ctx, filestore.Set(dir)); err != nil {
			return err
		}
	}
	if view {
		return k.flow(ctx, dir)
	}
	return nil
}

// isClientDir reports whether a folder is a client's, as filestore.ClientDir has it.
func isClientDir(dir string) bool {
	parts := strings.Split(dir, "/")
	if len(parts) > 2 && parts[0] == "orgs" {
		parts = parts[2:]
	}
	return len(parts) == 4 && parts[0] == "clients"
}

// isUploadList reports whether a set lists the uploads of a collection or a hunt.
func isUploadList(dir string) bool {
	parts := strings.Split(dir, "/")
	at := len(parts) - 3
	return at >= 0 && parts[at+2] == "uploads" && (parts[at] == "collections" || parts[at] == "hunts")
}

func (k *checker) set(ctx context.Context, set filestore.Set) error {
	report, err := k.verify(ctx, set)
	if err != nil {
		return k.failed(ctx, set.String(), err)
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
	for _, missing := range report.Holes {
		f := finding{Kind: "hole", Path: set.String(), Text: fmt.Sprintf("%s: rows %d to %d", missing.Stream, missing.Rows.Start, missing.Rows.End-1)}
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
	switch f.weight() {
	case note:
		k.notes++
	case hole:
		k.holes++
	case doubt, harmed:
		k.damage++
	}
	return k.show(f)
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
// rows and its list of uploads must all be there.
func (k *checker) flow(ctx context.Context, dir string) error {
	name := path.Join(dir, "flow.json")
	text, err := k.store.ReadFile(ctx, name, maxView)
	if err != nil {
		return k.failed(ctx, name, err)
	}
	view := flowFile{}
	if err := json.Unmarshal(text, &view); err != nil {
		return k.found(finding{Kind: "view", Path: name, Text: err.Error()})
	}
	client, err := ids.ParseClient(view.Client)
	if err != nil {
		return k.found(finding{Kind: "view", Path: name, Text: err.Error()})
	}
	flow, err := ids.ParseFlow(view.Flow)
	if err != nil {
		return k.found(finding{Kind: "view", Path: name, Text: err.Error()})
	}
	for _, named := range view.Names {
		set := filestore.FlowResults(ids.RootOrg, client, flow, named.Name)
		filter := filestore.RowsFilter{Client: client, Flow: flow, Name: named.Name}
		if err := k.covered(ctx, name, set, filter, named.Rows, "missing_rows", "rows %d to %d were acknowledged"); err != nil {
			return err
		}
	}
	list := filestore.Set(path.Join(dir, "uploads"))
	return k.covered(ctx, name, list, filestore.RowsFilter{Name: flows.UploadName}, view.Uploads, "upload", "uploads %d to %d are not listed")
}

// covered looks for rows that the record called view knows and the segments do not
// hold. A collection that is being deleted loses its record first.
func (k *checker) covered(ctx context.Context, view string, set filestore.Set, filter filestore.RowsFilter, ranges []int64, kind, text string) error {
	if len(ranges) < 2 {
		return nil
	}
	coverage, err := k.read.Coverage(ctx, set, filter)
	if err != nil {
		return k.failed(ctx, set.String(), err)
	}
	var held, missing filestore.Intervals
	for _, stream := range coverage.Streams {
		held.Union(stream.Rows)
	}
	for i := 0; i+1 < len(ranges); i += 2 {
		missing.Union(held.Missing(ranges[i], ranges[i+1]))
	}
	if len(missing) == 0 || k.gone(ctx, view) {
		return nil
	}
	for _, m := range missing {
		if err := k.found(finding{Kind: kind, Path: set.String(), Text: fmt.Sprintf(text, m.Start, m.End-1)}); err != nil {
			return err
		}
	}
	return nil
}

// gone reports whether a file is not there any more, by a fresh listing.
func (k *checker) gone(ctx context.Context, name string) bool {
	names, err := k.store.ReadDir(ctx, path.Dir(name))
	return errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(names, path.Base(name))
}

// listedUploads hashes the files that a list of uploads names.
func (k *checker) listedUploads(ctx context.Context, list filestore.Set) error {
	var stop error
	_, err := k.read.Export(ctx, list, filestore.RowsFilter{Name: flows.UploadName}, eachLine(func(line []byte) error {
		var upload flows.Upload
		if err := json.Unmarshal(line, &upload); err != nil {
			stop = k.found(finding{Kind: "upload", Path: list.String(), Text: err.Error()})
		} else {
			stop = k.upload(ctx, list, &upload)
		}
		return stop
	}))
	switch {
	case stop != nil:
		return stop
	case err != nil:
		return k.failed(ctx, list.String(), err)
	}
	return nil
}

// eachLine is a writer for exports, which write each row by itself.
type eachLine func(line []byte) error

// Write implements io.Writer.
func (f eachLine) Write(line []byte) (int, error) { return len(line), f(line) }

func (k *checker) upload(ctx context.Context, list filestore.Set, upload *flows.Upload) error {
	k.uploads++
	sum, err := k.hash(ctx, upload.StoredPath)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, fs.ErrNotExist) && k.gone(ctx, list.String()):
		return nil // the collection was deleted meanwhile
	case err != nil:
		return k.found(finding{Kind: "upload", Path: upload.StoredPath, Text: err.Error()})
	case sum != upload.SHA256:
		return k.found(finding{Kind: "upload", Path: upload.StoredPath, Text: fmt.Sprintf("hash is %s, recorded %s", sum, upload.SHA256)})
	}
	return nil
}

// hash is the SHA-256 of an upload's stored bytes.
func (k *checker) hash(ctx context.Context, stored string) (string, error) {
	file, err := k.store.OpenUpload(ctx, stored)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	// Large pieces: each is a call of the filestore.
	_, err = io.CopyBuffer(sum, struct{ io.Reader }{file.Stored(ctx)}, make([]byte, 1<<20))
	if err = errors.Join(err, file.Close(ctx)); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
