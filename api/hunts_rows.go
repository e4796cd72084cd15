package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/container"
	"raptorpack/hunts"
	"raptorpack/users"
)

// HuntTables show and hand out the rows of hunts: *hunts.Results.
type HuntTables interface {
	Page(ctx context.Context, key hunts.Key, q hunts.Query) (*hunts.Table, error)
	Export(ctx context.Context, key hunts.Key, name string, w io.Writer, o hunts.ExportOptions) (*hunts.ExportReport, error)
	Zip(ctx context.Context, key hunts.Key, w io.Writer, o hunts.ZipOptions) (*hunts.Manifest, error)
	CancelSort(ctx context.Context, key hunts.Key, q hunts.Query) error
	ClientsThere(ctx context.Context, key hunts.Key, cursor string, limit int) ([]hunts.ClientLine, string, error)
}

// HuntRows is a page of the rows of all clients of a hunt.
type HuntRows struct {
	Rows
	Match   int64        `json:"match" doc:"rows that the filter takes; -1: not known, as not all were looked at"`
	Looked  *HuntLooked  `json:"looked,omitempty" doc:"how much a filter went through in this call; with next it goes on"`
	Sorting *HuntSorting `json:"sorting,omitempty" doc:"the table is being sorted: ask again with next"`
	Hidden  int64        `json:"hidden,omitempty" doc:"rows of clients or collections that were deleted"`
	Missing int64        `json:"missing,omitempty" doc:"rows that clients sent and that are not there or not readable"`
	Doubted int          `json:"conflicts,omitempty" doc:"batches that came twice with different content"`
}

// HuntLooked says how much a filter went through.
type HuntLooked struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"`
	Left  int64 `json:"left" doc:"rows behind those"`
}

// HuntSorting is how far a sort is.
type HuntSorting struct {
	Waiting bool  `json:"waiting" doc:"for other sorts"`
	Rows    int64 `json:"rows"`
	Of      int64 `json:"of"`
}

// HuntRowsIn asks for rows of a hunt.
type HuntRowsIn struct {
	HuntPath
	Name    string   `query:"name" doc:"the result, as Artifact or Artifact/Source; may be left out when there is only one"`
	Clients []string `query:"clients" doc:"only theirs, by commas"`
	Filter  string   `query:"filter" doc:"column=text, column~text, or a text that some value has in it"`
	Sort    string   `query:"sort" doc:"a column; with - in front of it descending"`
	From    int64    `query:"from" minimum:"0" doc:"rows to skip"`
	Limit   int      `query:"limit" minimum:"1" maximum:"10000" default:"200"`
	Cursor  string   `query:"cursor"`
}

// rowsOfHunt finds the hunt, and the result that is meant where a source has several.
func (s *Server) rowsOfHunt(ctx context.Context, needed users.Permission, p HuntPath, source hunts.Source, name string) (*hunts.Hunt, string, error) {
	if _, err := s.may(ctx, needed); err != nil {
		return nil, "", err
	}
	h, err := s.readHunt(ctx, p)
	if err != nil || source != hunts.ResultRows || name != "" {
		return h, name, err
	}
	if len(h.Results) != 1 {
		return nil, "", fmt.Errorf("say which result: %s: %w", strings.Join(h.Results, ", "), hunts.ErrInvalid)
	}
	return h, h.Results[0], nil
}

func (in *HuntRowsIn) query(source hunts.Source, name string) (hunts.Query, error) {
	column, descending := strings.CutPrefix(in.Sort, "-")
	which, err := parseClients(in.Clients)
	return hunts.Query{
		Source: source, Name: name, Clients: which, Filter: in.Filter, Sort: column, Descending: descending,
		From: in.From, Limit: in.Limit, Cursor: in.Cursor,
	}, err
}

func (s *Server) huntRows(source hunts.Source) func(context.Context, *HuntRowsIn) (*body[HuntRows], error) {
	return func(ctx context.Context, in *HuntRowsIn) (*body[HuntRows], error) {
		h, name, err := s.rowsOfHunt(ctx, users.ReadResults, in.HuntPath, source, in.Name)
		if err != nil {
			return nil, err
		}
		q, err := in.query(source, name)
		if err != nil {
			return nil, err
		}
		t, err := s.o.HuntTables.Page(ctx, h.Key, q)
		if err != nil {
			return nil, err
		}
		return &body[HuntRows]{s.showTable(h, t)}, nil
	}
}

func (s *Server) showTable(h *hunts.Hunt, t *hunts.Table) HuntRows {
	out := HuntRows{
		Rows:  Rows{Items: make([]json.RawMessage, len(t.Rows)), From: t.From, Next: t.Next, Total: t.Total, State: string(h.State), AsOf: s.asOf()},
		Match: t.Match, Hidden: t.Hidden, Missing: t.Missing, Doubted: len(t.Conflicts),
	}
	for i, row := range t.Rows {
		out.Items[i] = row.Line
	}
	for _, hole := range t.Holes {
		out.Holes = append(out.Holes, RowHole{hole.Rows.Start, hole.Rows.End})
	}
	for _, d := range t.Damage {
		out.Damage = append(out.Damage, RowDamage{Path: d.Path, Offset: d.Offset, Bytes: d.Bytes, Kind: string(d.Kind)})
	}
	if t.Looked != (hunts.Looked{}) {
		out.Looked = &HuntLooked{t.Looked.Rows, t.Looked.Bytes, t.Looked.Left}
	}
	if t.Sorting != nil {
		out.Sorting = &HuntSorting{t.Sorting.Waiting, t.Sorting.Rows, t.Sorting.Of}
	}
	return out
}

func (s *Server) cancelHuntSort(ctx context.Context, in *struct {
	Writing
	HuntRowsIn
},
) (*struct{}, error) {
	h, name, err := s.rowsOfHunt(ctx, users.ReadResults, in.HuntPath, hunts.ResultRows, in.Name)
	if err != nil {
		return nil, err
	}
	q, err := in.query(hunts.ResultRows, name)
	if err != nil {
		return nil, err
	}
	return &struct{}{}, s.o.HuntTables.CancelSort(ctx, h.Key, q)
}

type huntExportIn struct {
	HuntPath
	Name    string   `query:"name" doc:"the result; may be left out when there is only one"`
	Source  string   `query:"source" enum:"logs,uploads" doc:"the query logs, or the list of uploads, instead of a result"`
	Format  string   `query:"format" enum:"jsonl,csv" default:"jsonl"`
	Clients []string `query:"clients" doc:"only theirs, by commas"`
	Filter  string   `query:"filter"`
	Columns []string `query:"columns" doc:"of csv, by commas; left out: those that the first rows have"`
	Bare    bool     `query:"bare" doc:"of csv: texts that a spreadsheet would take for formulas stay as they are"`
}

func (s *Server) exportHunt(ctx context.Context, in *huntExportIn) (*huma.StreamResponse, error) {
	source := hunts.Source(in.Source)
	h, name, err := s.rowsOfHunt(ctx, users.PrepareResults, in.HuntPath, source, in.Name)
	if err != nil {
		return nil, err
	}
	which, err := parseClients(in.Clients)
	if err != nil {
		return nil, err
	}
	if _, err := hunts.ParseFilter(in.Filter); err != nil {
		return nil, err
	}
	o := hunts.ExportOptions{Source: source, Format: hunts.Format(in.Format), Clients: which, Filter: in.Filter, Columns: in.Columns, Bare: in.Bare}
	kind := "application/jsonl"
	if o.Format == hunts.CSV {
		kind = "text/csv; charset=utf-8"
	}
	file := fmt.Sprintf("%s-%s.%s", h.Hunt, strings.ReplaceAll(name+in.Source, "/", "."), in.Format)
	return s.handOut(file, kind, func(w io.Writer) (string, error) {
		report, err := s.o.HuntTables.Export(ctx, h.Key, name, w, o)
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(report)
		return string(text), err
	}), nil
}

func (s *Server) zipHunt(ctx context.Context, in *struct {
	HuntPath
	ZipIn
	RowsOnly bool `query:"rows_only" doc:"neither logs nor uploads"`
},
) (*huma.StreamResponse, error) {
	h, _, err := s.rowsOfHunt(ctx, users.PrepareResults, in.HuntPath, hunts.LogRows, "")
	if err != nil {
		return nil, err
	}
	o := hunts.ZipOptions{RowsOnly: in.RowsOnly, Bare: in.Bare, Expand: in.Expand}
	if in.Format != container.FormatCSV {
		o.Format = in.Format
	}
	return s.streamZip(h.Hunt.String()+".zip", in.Password, func(w io.Writer) (string, error) {
		manifest, err := s.o.HuntTables.Zip(ctx, h.Key, w, o)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf(`{"whole":%t,"members":%d,"problems":%d}`, manifest.Whole, len(manifest.Members), len(manifest.Problems)), nil
	}), nil
}

// reportTrailer is the trailer of a download that says what was written and what is
// missing; a download without it broke off.
const reportTrailer = "X-Raptorpack-Report"

// handOut streams a download. What is collected from clients is hostile, so it is never
// shown in place.
func (s *Server) handOut(file, kind string, write func(io.Writer) (report string, err error)) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", kind)
		hc.SetHeader("X-Content-Type-Options", "nosniff")
		hc.SetHeader("Content-Security-Policy", "sandbox")
		hc.SetHeader("Content-Disposition", attachment(file))
		report, err := write(hc.BodyWriter())
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				s.log.Warn("download broke off", "file", file, "err", err)
			}
			panic(http.ErrAbortHandler) // so that nobody takes it for whole
		}
		hc.SetHeader(http.TrailerPrefix+reportTrailer, report)
	}}
}

func (s *Server) huntRowRoutes() {
	const one = "/hunts/{hunt}"
	get(s, one+"/results", "huntResults", "Page through the rows of all clients of a hunt", s.huntRows(hunts.ResultRows))
	get(s, one+"/logs", "huntLogs", "Page through the query logs of all clients of a hunt", s.huntRows(hunts.LogRows))
	get(s, one+"/uploads", "huntUploads", "Page through the finished uploads of a hunt", s.huntRows(hunts.UploadRows))
	register(s, http.MethodDelete, one+"/results/sort", "cancelHuntSort", "Cancel the sort of a table", s.cancelHuntSort)
	get(s, one+"/export", "exportHunt", "Download a table of a hunt as JSON lines or CSV", s.exportHunt)
	get(s, one+"/zip", "zipHunt", "Download all of a hunt as one zip with a manifest of hashes", s.zipHunt)
}
