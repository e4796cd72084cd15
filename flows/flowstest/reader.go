package flowstest

import (
	"context"
	"strings"

	"raptorpack/filestore"
)

// ReadRows returns all rows of a set that a filter takes, in one page.
func (d *Disk) ReadRows(_ context.Context, set filestore.Set, q filestore.RowsQuery) (*filestore.RowsPage, error) {
	page := &filestore.RowsPage{}
	seen := map[filestore.Stream]filestore.Intervals{}
	for _, a := range d.Appends(set) {
		e := a.Extent
		if !takes(q.RowsFilter, e) {
			continue
		}
		have := seen[e.Stream()]
		for i, line := range strings.Split(strings.TrimSuffix(string(a.Lines), "\n"), "\n") {
			n := e.FirstRow + int64(i)
			if have.Has(n, n+1) {
				continue
			}
			have.Add(n, n+1)
			page.Rows = append(page.Rows, filestore.Row{Client: e.Client, Flow: e.Flow, Name: e.Name, Number: n, Line: []byte(line)})
		}
		seen[e.Stream()] = have
	}
	page.Total = int64(len(page.Rows))
	return page, nil
}

// CoverageBy reports which rows of a set are there. A Disk holds what is durable
// and not who wrote it, so all of it counts.
func (d *Disk) CoverageBy(_ context.Context, set filestore.Set, filter filestore.RowsFilter, _ func(string) bool) (*filestore.Coverage, error) {
	out := &filestore.Coverage{Streams: map[filestore.Stream]filestore.StreamCoverage{}}
	for _, a := range d.Appends(set) {
		if takes(filter, a.Extent) {
			c := out.Streams[a.Extent.Stream()]
			c.Rows.Add(a.Extent.FirstRow, a.Extent.FirstRow+a.Extent.Rows)
			out.Streams[a.Extent.Stream()] = c
		}
	}
	return out, nil
}

func takes(f filestore.RowsFilter, e filestore.Extent) bool {
	return (f.Client.IsZero() || f.Client == e.Client) && (f.Flow.IsZero() || f.Flow == e.Flow) && (f.Name == "" || f.Name == e.Name)
}
