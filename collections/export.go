package collections

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"raptorpack/clients"
	"raptorpack/container"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/internal/jsonrow"
)

// ErrInvalid means that a wish makes no sense. Trying again does not help.
var ErrInvalid = errors.New("invalid wish for an export or import")

// Exporter writes flows as zips. Safe for concurrent use.
type Exporter struct {
	flows   *flows.Room
	clients *clients.Room
}

// NewExporter wires an exporter.
func NewExporter(f *flows.Room, c *clients.Room) *Exporter { return &Exporter{f, c} }

// ExportOptions choose how a flow is written.
type ExportOptions struct {
	Format string // see the formats of package container
	Bare   bool   // CSV without the guard against formulas
	Expand bool   // sparse uploads with their holes, up to archive.MaxExpanded bytes
}

const (
	exportBuffer = 256 << 10
	pageRows     = 2000
)

// Zip writes a flow of a client, or its part of a hunt, as a container: the record, the
// client, the rows of each result, logs, uploads, and the manifest. Nothing is written
// elsewhere. What is missing or damaged stands in the manifest and is no error; a zip
// that was broken off has no manifest.
func (e *Exporter) Zip(ctx context.Context, key flows.Key, w io.Writer, o ExportOptions) (*container.Manifest, error) {
	if !container.KnownFormat(o.Format) {
		return nil, fmt.Errorf("format %.40q: expected csv, json or csv_only: %w", o.Format, ErrInvalid)
	}
	f, err := e.flows.Flow(key)
	if err != nil {
		return nil, err
	}
	x := &export{e: e, f: f, o: o, zip: container.NewWriter(w, o.Format)}
	manifest, err := x.all(ctx)
	if err != nil {
		return nil, fmt.Errorf("zip of flow %s of %s: %w", key.Flow, key.Client, err)
	}
	return manifest, nil
}

// export is one zip under way.
type export struct {
	e   *Exporter
	f   *flows.Flow
	o   ExportOptions
	zip *container.Writer
}

func (x *export) all(ctx context.Context) (*container.Manifest, error) {
	if err := x.head(); err != nil {
		return nil, err
	}
	for _, name := range x.f.Spec.Results() {
		if err := x.result(ctx, name); err != nil {
			return nil, err
		}
	}
	logs := func(p flows.Page) (*filestore.RowsPage, error) { return x.e.flows.Logs(ctx, x.f.Key, p) }
	m := container.Member{Path: container.LogsName, Kind: container.KindLogs}
	if _, err := x.rows(m, logs, nil); err != nil {
		return nil, err
	}
	if err := x.uploads(ctx); err != nil {
		return nil, err
	}
	return x.zip.Close()
}

// head writes what is known of the flow and of its client.
func (x *export) head() error {
	record, err := x.e.clients.Lookup(x.f.Org, x.f.Client)
	switch {
	case err == nil:
		if err := x.zip.Document(container.ClientName, container.KindClient, infoOf(record)); err != nil {
			return err
		}
	case !errors.Is(err, clients.ErrUnknownClient): // the server's own collections have none
		return err
	default:
		record = &clients.Record{}
	}
	if !x.f.State.Final() {
		x.zip.Problem("", "the flow had not ended: it was %s", x.f.State)
	}
	return x.zip.Document(container.FlowName, container.KindRecord, recordOf(x.f, record.Hostname))
}

// clientInfo is client_info.json, by the names that agents use of themselves.
type clientInfo struct {
	ClientID     string            `json:"client_id"`
	Hostname     string            `json:"hostname"`
	FQDN         string            `json:"fqdn,omitempty"`
	System       string            `json:"system,omitempty"`
	Release      string            `json:"release,omitempty"`
	Architecture string            `json:"architecture,omitempty"`
	Version      string            `json:"client_version,omitempty"`
	Labels       []string          `json:"labels,omitempty"`
	MACs         []string          `json:"mac_addresses,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	FirstSeen    *time.Time        `json:"first_seen,omitempty"`
}

func infoOf(r *clients.Record) clientInfo {
	return clientInfo{
		ClientID: r.Client.String(), Hostname: r.Hostname, FQDN: r.FQDN, System: r.System, Release: r.Release, Architecture: r.Architecture,
		Version: r.Version, Labels: r.Labels, MACs: r.MACs, Metadata: r.Metadata, FirstSeen: given(r.FirstSeen),
	}
}

func recordOf(f *flows.Flow, hostname string) *container.Record {
	r := &container.Record{
		Client: f.Client.String(), Hostname: hostname, Session: f.Flow.String(), Creator: f.Spec.Creator, State: string(f.State), Error: f.Error,
		Created: given(f.Created), Started: given(f.Taken), Ended: given(f.Ended), Results: f.Spec.Results(),
		Rows: map[string]int64{}, Uploads: f.Uploads.Len(), CPU: f.CPU.Nanoseconds(), Artifacts: []container.Artifact{},
	}
	for _, a := range f.Spec.Artifacts {
		one := container.Artifact{Name: a.Name}
		for _, p := range a.Parameters {
			if one.Parameters == nil {
				one.Parameters = map[string]string{}
			}
			one.Parameters[p.Name] = p.Value
		}
		r.Artifacts = append(r.Artifacts, one)
	}
	for _, c := range f.Names {
		r.Rows[c.Name] = c.Rows.Len()
	}
	return r
}

func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// pages reads rows, page by page.
type pages func(flows.Page) (*filestore.RowsPage, error)

// result writes the rows of a result in the forms that are wanted.
func (x *export) result(ctx context.Context, name string) error {
	base := x.zip.Result(name)
	from := func(p flows.Page) (*filestore.RowsPage, error) { return x.e.flows.Results(ctx, x.f.Key, name, p) }
	learned := jsonrow.NewColumns(nil)
	m := container.Member{Path: base + ".jsonl", Kind: container.KindRows, Result: name}
	if x.o.Format == container.FormatCSVOnly {
		m.Path = base + ".csv"
		if _, err := x.each(from, m.Path, func(line []byte) error { learned.Learn(line); return nil }); err != nil {
			return err
		}
	} else if _, err := x.rows(m, from, learned); err != nil {
		return err
	}
	if x.o.Format == container.FormatJSON {
		return nil
	}
	return x.table(container.Member{Path: base + ".csv", Kind: container.KindTable, Result: name}, from, learned)
}

// rows writes rows as they are stored. learned is told their columns; nil: nobody is.
func (x *export) rows(m container.Member, from pages, learned *jsonrow.Columns) (int64, error) {
	var rows int64
	written, err := x.zip.Member(m, x.f.Created, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, exportBuffer)
		var err error
		rows, err = x.each(from, m.Path, func(line []byte) error {
			if learned != nil {
				learned.Learn(line)
			}
			_, err := out.Write(append(line[:len(line):len(line)], '\n'))
			return err
		})
		return errors.Join(err, out.Flush())
	})
	if err != nil {
		return 0, err
	}
	written.Rows = rows
	return rows, nil
}

func (x *export) table(m container.Member, from pages, learned *jsonrow.Columns) error {
	var rows int64
	csv := jsonrow.NewCSV(learned, x.o.Bare)
	written, err := x.zip.Member(m, x.f.Created, func(w io.Writer) error {
		var err error
		rows, err = x.each(from, "", func(line []byte) error {
			csv.Row(line)
			if len(csv.Out) < exportBuffer {
				return nil
			}
			_, err := w.Write(csv.Out)
			csv.Out = csv.Out[:0]
			return err
		})
		if err != nil {
			return err
		}
		_, err = w.Write(csv.Out)
		return err
	})
	if err != nil {
		return err
	}
	written.Rows = rows
	if csv.Unlisted > 0 {
		x.zip.Problem(m.Path, "%d cells of further columns", csv.Unlisted)
	}
	return nil
}

// each goes over rows in their order. What is missing of them is told of the member at
// path; empty: it was told before.
func (x *export) each(from pages, path string, row func([]byte) error) (rows int64, err error) {
	for p := (flows.Page{Limit: pageRows}); ; {
		page, err := from(p)
		if err != nil {
			return rows, err
		}
		if path != "" {
			x.faults(path, page, p.Cursor == "")
		}
		for _, r := range page.Rows {
			if err := row(r.Line); err != nil {
				return rows, err
			}
		}
		rows += int64(len(page.Rows))
		if p.Cursor = page.Next; p.Cursor == "" {
			return rows, nil
		}
	}
}

// faults notes what a page tells; of the whole set only the first one's word is taken.
func (x *export) faults(path string, page *filestore.RowsPage, first bool) {
	for _, h := range page.Holes {
		x.zip.Problem(path, "rows %d to %d are missing", h.Rows.Start, h.Rows.End-1)
	}
	if !first {
		return
	}
	for _, c := range page.Conflicts {
		x.zip.Problem(path, "rows %d to %d came twice with different bytes", c.FirstRow, c.FirstRow+c.Rows-1)
	}
	for _, d := range page.Damage {
		if d.Kind != filestore.DamageTorn { // written just now, or by a node that was killed: nobody was told of those rows
			x.zip.Problem(path, "%d bytes of %s at %d cannot be used: %s", d.Bytes, d.Path, d.Offset, d.Kind)
		}
	}
}
