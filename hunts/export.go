package hunts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/internal/jsonrow"
)

// Format is how a table is written.
type Format string

// The formats of an export.
const (
	JSONL Format = "jsonl" // the rows as they are stored, a line each
	CSV   Format = "csv"   // RFC 4180, UTF-8, a header line
)

// ExportOptions choose what of a table is written, and how.
type ExportOptions struct {
	Source  Source
	Format  Format
	Clients []ids.Client // only theirs; none: all
	Filter  string       // see ParseFilter

	// Of CSV. Without Columns those are written that the first 64 MiB have, and
	// samples of what follows; cells of others are counted in the report.
	Columns []string
	Bare    bool // texts that a spreadsheet would take for formulas stay as they are
}

// ExportReport says what was written, and what is missing, doubtful or damaged.
type ExportReport struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"` // written

	Columns       []string `json:"columns,omitempty"`        // of a CSV
	Unlisted      int64    `json:"unlisted_cells,omitempty"` // of columns that are none of those
	UnlistedNames []string `json:"unlisted,omitempty"`       // some of these

	Faults
}

// Export writes the rows of one result of a hunt, or those of another source, as they are stored, and reports what
// it met. The error is w's, the store's, or that of a query that makes no sense, as
// Page has them. Memory does not grow with the rows.
func (r *Results) Export(ctx context.Context, key Key, name string, w io.Writer, o ExportOptions) (*ExportReport, error) {
	if o.Format != JSONL && o.Format != CSV {
		return nil, fmt.Errorf("format %.40q: expected %s or %s: %w", o.Format, JSONL, CSV, ErrInvalid)
	}
	v, err := r.viewOf(ctx, key, Query{Source: o.Source, Name: name, Clients: o.Clients, Filter: o.Filter})
	if err != nil {
		return nil, err
	}
	e := &exporter{r: r, key: key, selection: v.selection, filter: v.filter, bare: o.Bare, out: bufio.NewWriterSize(w, exportBuffer)}
	if o.Format == CSV {
		e.columns = jsonrow.NewColumns(o.Columns)
		if len(o.Columns) == 0 {
			err = e.learnSome(ctx)
		}
	}
	if err == nil {
		err = e.write(ctx)
	}
	r.metrics.exports.WithLabelValues(string(o.Format)).Add(float64(e.report.Bytes))
	if err != nil {
		return &e.report, fmt.Errorf("export %s of hunt %s: %w", name, key.Hunt, err)
	}
	return &e.report, nil
}

const (
	exportBuffer = 256 << 10

	learnBytes   = 64 << 20 // plain bytes that are looked at for columns
	learnSamples = 16       // places behind those
	sampleBytes  = 1 << 20
)

// exporter writes the rows of a selection.
type exporter struct {
	r   *Results
	key Key
	*selection
	filter  *Filter
	columns *jsonrow.Columns      // nil: JSON lines
	learn   *jsonrow.Columns      // columns of what is written are added; nil: no
	note    func(filestore.Batch) // is told of each batch of JSON lines without a filter; nil: nobody
	bare    bool
	out     *bufio.Writer
	report  ExportReport
}

// learnSome looks for columns: in what comes first, and here and there in the rest.
func (e *exporter) learnSome(ctx context.Context) error {
	next, err := e.learnFrom(ctx, 0, learnBytes)
	for i := int64(0); err == nil && i < learnSamples && next < e.Total(); i++ {
		_, err = e.learnFrom(ctx, next+(e.Total()-next)*i/learnSamples, sampleBytes)
	}
	return err
}

// learnFrom looks at some bytes of rows for columns, and returns where it ended.
func (e *exporter) learnFrom(ctx context.Context, place, limit int64) (int64, error) {
	next, size := e.Total(), int64(0)
	told, err := e.Walk(ctx, place, e.take, func(b filestore.Batch) error {
		e.filter.Each(b.Lines, func(_ int64, line []byte) bool {
			e.columns.Learn(line)
			return true
		})
		if size += int64(len(b.Lines)); size >= limit {
			next = b.Place + b.Rows
			return errEnough
		}
		return nil
	})
	e.r.metrics.scanned.Add(float64(told.Bytes))
	if errors.Is(err, errEnough) {
		err = nil
	}
	return next, err
}

// write writes all rows.
func (e *exporter) write(ctx context.Context) error {
	e.report.Faults = e.faults()
	line := e.line
	if e.columns != nil {
		c := jsonrow.NewCSV(e.columns, e.bare)
		e.report.Columns = e.columns.Names
		line = func(line []byte) error {
			c.Row(line)
			return e.flush(c)
		}
		defer func() { e.report.Unlisted, e.report.UnlistedNames = c.Unlisted, c.Strange }()
		if err := e.flush(c); err != nil {
			return err
		}
	}
	told, err := e.Walk(ctx, 0, e.take, func(b filestore.Batch) error { return e.batch(b, line) })
	e.report.met(told)
	e.r.metrics.scanned.Add(float64(told.Bytes))
	return errors.Join(err, e.out.Flush())
}

// batch writes the rows of a batch that the filter takes.
func (e *exporter) batch(b filestore.Batch, line func([]byte) error) (err error) {
	if !e.r.showsNow(e.key, e.selection, b.Stream) { // deleted meanwhile
		e.report.Hidden += b.Rows
		return nil
	}
	if e.note != nil {
		e.note(b)
	}
	if e.columns == nil && e.learn == nil && e.filter.All() {
		e.report.Rows += b.Rows
		e.report.Bytes += int64(len(b.Lines))
		_, err = e.out.Write(b.Lines)
		return err
	}
	e.filter.Each(b.Lines, func(_ int64, text []byte) bool {
		e.report.Rows++
		err = line(text)
		return err == nil
	})
	return err
}

func (e *exporter) line(line []byte) error {
	if e.learn != nil {
		e.learn.Learn(line)
	}
	e.report.Bytes += int64(len(line)) + 1
	if _, err := e.out.Write(line); err != nil {
		return err
	}
	return e.out.WriteByte('\n')
}

func (e *exporter) flush(c *jsonrow.CSV) error {
	e.report.Bytes += int64(len(c.Out))
	_, err := e.out.Write(c.Out)
	c.Out = c.Out[:0]
	return err
}
