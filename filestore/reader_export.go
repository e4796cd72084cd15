package filestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// ExportReport says what an export or a verification found.
type ExportReport struct {
	Rows      int64
	Bytes     int64 // lines with their ends
	Holes     []Hole
	Conflicts []Conflict
	Damage    []Damage
}

// Whole reports whether nothing is missing, doubtful or damaged between the
// rows there are. It cannot know of rows beyond the last.
func (e *ExportReport) Whole() bool {
	return len(e.Holes) == 0 && len(e.Conflicts) == 0 && len(e.Damage) == 0
}

// Export writes all rows that a filter takes as JSON lines, in the order of
// RowsPage, and reports what it met. The error is w's or the store's; damage is
// no error, it is in the report. Memory does not grow with the set's rows.
func (r *Reader) Export(ctx context.Context, set Set, filter RowsFilter, w io.Writer) (*ExportReport, error) {
	v, err := r.view(ctx, set, filter, nil)
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", set, err)
	}
	report := &ExportReport{Conflicts: v.conflicts()}
	walk := walker{r: r, v: v}
	defer walk.close(ctx)
	var line []byte
	err = walk.walk(ctx, 0, func(row Row) error {
		line = append(append(line[:0], row.Line...), '\n')
		n, err := w.Write(line)
		report.Bytes += int64(n)
		if err == nil {
			report.Rows++
		}
		return err
	})
	report.Holes = walk.holes
	report.Damage = append(v.damage[:len(v.damage):len(v.damage)], walk.damage...)
	r.metrics.rows.Add(float64(report.Rows))
	if err != nil {
		return report, fmt.Errorf("export %s: %w", set, err)
	}
	return report, nil
}

// Verify inflates every member of a set, those included whose rows are served
// from elsewhere, and checks all checksums and line counts. Batches that overlap
// without being equal are compared row by row where they do.
func (r *Reader) Verify(ctx context.Context, set Set) (*ExportReport, error) {
	report, err := r.Export(ctx, set, RowsFilter{}, io.Discard)
	if err != nil {
		return report, err
	}
	files, _, err := r.load(ctx, set)
	if err != nil {
		return report, fmt.Errorf("verify %s: %w", set, err)
	}
	v := &view{set: set, files: files}
	v.merge()
	walk := walker{r: r, v: v}
	defer walk.close(ctx)
	for f := range files {
		for m := range files[f].members {
			if err := walk.verify(ctx, f, m, report); err != nil {
				return report, fmt.Errorf("verify %s: %w", set, err)
			}
		}
	}
	return report, nil
}

// verify checks one member and compares its batches with what is served.
func (w *walker) verify(ctx context.Context, f, m int, report *ExportReport) error {
	plain, err := w.plain(ctx, span{file: f, member: m})
	member := w.v.files[f].members[m]
	for e := range member.Extents {
		extent := member.Extents[e]
		var lines []byte
		if err == nil {
			lines, err = cutExtent(plain, extent)
		}
		if err == nil {
			err = w.compare(ctx, Place{w.v.files[f].path, member.Offset, e, extent.CRC}, extent, lines, report)
		}
		if errors.Is(err, ErrDamaged) {
			report.add(Damage{w.v.files[f].path, member.Offset, member.Length, DamageMember, err})
			return nil
		}
		if err != nil {
			return err
		}
	}
	return err
}

// add notes damage that the report does not have.
func (e *ExportReport) add(d Damage) {
	for _, old := range e.Damage {
		if old.Path == d.Path && old.Offset == d.Offset {
			return
		}
	}
	e.Damage = append(e.Damage, d)
}

// compare holds a batch's rows against those that other batches serve in their
// place, and reports a conflict if one differs.
func (w *walker) compare(ctx context.Context, place Place, e Extent, lines []byte, report *ExportReport) error {
	s := w.stream(e.Stream())
	for _, p := range s.spans {
		from, to := max(p.first, e.FirstRow), min(p.first+p.rows, e.end())
		kept := w.v.files[p.file].members[p.member]
		own := w.v.files[p.file].path == place.Path && kept.Offset == place.Member && p.extent == place.Extent
		other := kept.Extents[p.extent]
		if from >= to || own || other.FirstRow == e.FirstRow && other.Rows == e.Rows {
			continue // served from here, or compared by its checksum already
		}
		plain, err := w.plain(ctx, p)
		if err != nil {
			return err
		}
		keptLines, err := cutExtent(plain, other)
		if err != nil {
			return err
		}
		if !bytes.Equal(cutRows(lines, from-e.FirstRow, to-from), cutRows(keptLines, from-other.FirstRow, to-from)) {
			served := Place{w.v.files[p.file].path, kept.Offset, p.extent, other.CRC}
			report.Conflicts = append(report.Conflicts, Conflict{s.stream, from, to - from, served, place})
		}
	}
	return nil
}

func (w *walker) stream(s Stream) *streamView {
	if w.byName == nil {
		w.byName = make(map[Stream]*streamView, len(w.v.streams))
		for _, v := range w.v.streams {
			w.byName[v.stream] = v
		}
	}
	return w.byName[s]
}

// cutRows returns count lines after the first skip ones.
func cutRows(lines []byte, skip, count int64) []byte {
	for ; skip > 0; skip-- {
		lines = lines[bytes.IndexByte(lines, '\n')+1:]
	}
	end := 0
	for ; count > 0; count-- {
		end += bytes.IndexByte(lines[end:], '\n') + 1
	}
	return lines[:end]
}
