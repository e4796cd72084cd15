package hunts

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/internal/archive"
	"raptorpack/internal/jsonrow"
)

// Zip writes a hunt into w as one zip: hunt.json, the clients, the rows of each result
// as JSON lines and as CSV, the logs, the uploads of all clients and, as the last
// member, manifest.json with size and SHA-256 of each. Nothing is written elsewhere.
// What is missing or damaged stands in the manifest and is no error; a zip that was
// broken off has no manifest. Memory grows with the number of members and batches, a
// few hundred bytes each, not with their bytes.
func (r *Results) Zip(ctx context.Context, key Key, w io.Writer, o ZipOptions) (*Manifest, error) {
	if o.Format != "" && o.Format != FormatJSON && o.Format != FormatCSVOnly {
		return nil, fmt.Errorf("format %.40q of a zip: %w", o.Format, ErrInvalid)
	}
	h, err := r.hunt(key)
	if err != nil {
		return nil, err
	}
	counted := &countWriter{w: w}
	z := newZipWriter(r, h, counted, o)
	err = z.all(ctx)
	r.metrics.exports.WithLabelValues("zip").Add(float64(counted.n))
	if err != nil {
		return nil, fmt.Errorf("zip of hunt %s: %w", key.Hunt, err)
	}
	return &z.manifest, nil
}

// zipWriter writes one zip.
type zipWriter struct {
	r        *Results
	h        *Hunt
	key      Key
	zip      *archive.Writer
	manifest Manifest
	results  archive.Results
}

func newZipWriter(r *Results, h *Hunt, w io.Writer, o ZipOptions) *zipWriter {
	return &zipWriter{r: r, h: h, key: h.Key, zip: archive.NewWriter(w), manifest: Manifest{
		Version: zipVersion, Hunt: h.Key.Hunt.String(), Org: h.Org.String(), Exported: time.Now().UTC(), Options: o,
		Members: []ZipMember{}, Problems: []ZipProblem{}, Counts: map[string]int{},
	}}
}

func (z *zipWriter) all(ctx context.Context) error {
	if err := z.document(huntName, kindHunt, fileOf(z.h)); err != nil {
		return err
	}
	if err := z.clients(ctx); err != nil {
		return err
	}
	for _, name := range z.h.Results {
		if err := z.result(ctx, name); err != nil {
			return err
		}
	}
	if !z.manifest.Options.RowsOnly {
		if _, err := z.rows(ctx, "logs", kindLogs, LogRows, "", nil); err != nil {
			return err
		}
		if err := z.uploads(ctx); err != nil {
			return err
		}
	}
	z.manifest.Whole = len(z.manifest.Problems) == 0
	if err := z.document(manifestName, "", &z.manifest); err != nil {
		return err
	}
	return z.zip.Close()
}

// document writes a member of indented JSON.
func (z *zipWriter) document(name, kind string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err = z.member(ZipMember{Path: name, Kind: kind}, z.h.Created, func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	})
	return err
}

// member writes a member and, if it is of some kind, notes it. What it returns is
// valid until the next one.
func (z *zipWriter) member(m ZipMember, at time.Time, write func(io.Writer) error) (*ZipMember, error) {
	sum, err := z.zip.Member(m.Path, at, write)
	if err != nil {
		return nil, err
	}
	m.Size, m.SHA256 = sum.Size, sum.SHA256
	if m.Kind == "" {
		return &m, nil
	}
	z.manifest.Counts[m.Kind]++
	z.manifest.Members = append(z.manifest.Members, m)
	return &z.manifest.Members[len(z.manifest.Members)-1], nil
}

type countWriter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (z *zipWriter) problem(p ZipProblem) { z.manifest.Problems = append(z.manifest.Problems, p) }

// result writes the rows of a result, twice.
func (z *zipWriter) result(ctx context.Context, name string) error {
	set := filestore.HuntResults(z.key.Org, z.key.Hunt, name).String()
	base := z.results.Free(strings.TrimPrefix(set, filestore.HuntDir(z.key.Org, z.key.Hunt)+"/"))
	learned := jsonrow.NewColumns(nil)
	e, err := z.rows(ctx, base, kindRows, ResultRows, name, learned)
	if err != nil {
		return err
	}
	if z.manifest.Options.Format == FormatJSON {
		return nil
	}
	e.columns, e.learn, e.note, e.bare = learned, nil, nil, z.manifest.Options.Bare
	e.report = ExportReport{}
	m, err := z.member(ZipMember{Path: base + ".csv", Kind: kindTable, Result: name}, z.h.Created, func(w io.Writer) error {
		e.out = bufio.NewWriterSize(w, exportBuffer)
		return e.write(ctx)
	})
	if err != nil {
		return err
	}
	m.Report = &e.report
	m.Report.Columns = nil // they are its first line
	if e.report.Unlisted > 0 {
		z.problem(ZipProblem{Path: m.Path, Problem: fmt.Sprintf("%d cells of further columns, such as %s", e.report.Unlisted, strings.Join(e.report.UnlistedNames, ", "))})
	}
	return nil
}

// noted is a batch of rows that was written.
type noted struct {
	stream      int
	first, rows int64
}

// rows writes the rows of a source as they are stored, and whose they are.
func (z *zipWriter) rows(ctx context.Context, base, kind string, source Source, name string, learned *jsonrow.Columns) (*exporter, error) {
	set, extents, err := z.r.set(z.key, source, name)
	if err != nil {
		return nil, err
	}
	if kind == kindRows && z.manifest.Options.Format == FormatCSVOnly {
		return z.learned(ctx, set, extents, learned)
	}
	return z.lines(ctx, base, kind, set, extents, learned)
}

// learned only looks at rows, for the columns of their table.
func (z *zipWriter) learned(ctx context.Context, set filestore.Set, name string, learned *jsonrow.Columns) (*exporter, error) {
	s, _, err := z.r.pin(ctx, z.key, set, name, nil, "")
	if err != nil {
		return nil, err
	}
	e := &exporter{r: z.r, key: z.key, selection: s, learn: learned, out: bufio.NewWriterSize(io.Discard, exportBuffer)}
	if err := e.write(ctx); err != nil {
		return nil, err
	}
	z.manifest.Problems = append(z.manifest.Problems, e.report.problems("")...)
	return e, nil
}

func (z *zipWriter) lines(ctx context.Context, base, kind string, set filestore.Set, name string, learned *jsonrow.Columns) (*exporter, error) {
	s, _, err := z.r.pin(ctx, z.key, set, name, nil, "")
	if err != nil {
		return nil, err
	}
	var batches []noted
	e := &exporter{r: z.r, key: z.key, selection: s, learn: learned, note: func(b filestore.Batch) {
		batches = append(batches, noted{b.Stream, b.FirstRow, b.Rows})
	}}
	m, err := z.member(ZipMember{Path: base + ".jsonl", Kind: kind, Result: name}, z.h.Created, func(w io.Writer) error {
		e.out = bufio.NewWriterSize(w, exportBuffer)
		return e.write(ctx)
	})
	if err != nil {
		return nil, err
	}
	report := e.report
	m.Report = &report
	z.manifest.Problems = append(z.manifest.Problems, report.problems(m.Path)...)
	return e, z.batches(base, s, batches)
}

// zipBatch is a line of a batches member.
type zipBatch struct {
	Client string `json:"client"`
	Flow   string `json:"flow"`
	Name   string `json:"name"`
	First  int64  `json:"first"`
	Rows   int64  `json:"rows"`
}

func (z *zipWriter) batches(base string, s *selection, all []noted) error {
	_, err := z.member(ZipMember{Path: base + ".batches.jsonl", Kind: kindBatches}, z.h.Created, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, exportBuffer)
		enc := json.NewEncoder(out)
		for _, b := range all {
			stream, _ := s.Stream(b.stream)
			if err := enc.Encode(zipBatch{stream.Client.String(), stream.Flow.String(), stream.Name, b.first, b.rows}); err != nil {
				return err
			}
		}
		return out.Flush()
	})
	return err
}
