package filestore

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	defaultPageRows  = 1000
	defaultPageBytes = 8 << 20
	cursorVersion    = 1
	cursorWithDay    = 2       // pins of the day before follow
	maxCursor        = 1 << 20 // bytes, as text
)

func (r *Reader) page(ctx context.Context, set Set, q RowsQuery) (*RowsPage, error) {
	orDefault(&q.Limit, defaultPageRows)
	orDefault(&q.MaxBytes, defaultPageBytes)
	var start int64
	var at *pins
	if q.Cursor != "" {
		var err error
		if start, at, err = parseCursor(q.Cursor); err != nil {
			return nil, err
		}
	}
	if q.From < 0 || q.From > MaxRow {
		return nil, fmt.Errorf("from row %d: %w", q.From, ErrBadCursor)
	}
	v, err := r.view(ctx, set, q.RowsFilter, at)
	if err != nil {
		return nil, err
	}
	page := &RowsPage{From: min(start+q.From, v.total), Total: v.total, Conflicts: v.conflicts(), Damage: v.damage}
	w := walker{r: r, v: v}
	defer w.close(ctx)
	var bytesSoFar int64
	next := page.From
	err = w.walk(ctx, page.From, func(row Row) error {
		row.Line = bytes.Clone(row.Line) // else it would keep its whole member
		page.Rows = append(page.Rows, row)
		bytesSoFar += int64(len(row.Line))
		if next++; len(page.Rows) >= q.Limit || bytesSoFar >= q.MaxBytes {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	page.Holes, page.Damage = w.holes, append(page.Damage[:len(page.Damage):len(page.Damage)], w.damage...)
	if next += w.unread; next < v.total {
		page.Next = v.cursor(next)
	}
	r.metrics.rows.Add(float64(len(page.Rows)))
	return page, nil
}

// errEnough ends a walk early.
var errEnough = errors.New("enough rows")

// walker goes over a view's rows in order.
type walker struct {
	r *Reader
	v *view

	files   map[int]*Handle
	members []inflated // the last ones, newest first

	holes  []Hole
	damage []Damage
	unread int64 // rows passed over because they cannot be read

	byName map[Stream]*streamView // made by stream
}

// inflated is a member's plain bytes.
type inflated struct {
	file, member int
	plain        []byte
	err          error
}

// maxInflated bounds how many inflated members a walk keeps: batches of one
// stream may lie in several.
const maxInflated = 8

// maxOpenReads bounds how many segments a walk keeps open.
const maxOpenReads = 64

// walk calls found for each row from a place on, until it returns an error.
func (w *walker) walk(ctx context.Context, from int64, found func(Row) error) error {
	stream, at, skip := w.v.seek(from)
	for ; stream < len(w.v.streams); stream++ {
		s := w.v.streams[stream]
		for ; at < len(s.spans); at++ {
			if skip == 0 {
				w.gapBefore(s, at)
			}
			if err := w.span(ctx, s, s.spans[at], skip, found); err != nil {
				return err
			}
			skip = 0
		}
		at = 0
	}
	return nil
}

// gapBefore notes the hole in front of a span.
func (w *walker) gapBefore(s *streamView, at int) {
	var end int64
	if at > 0 {
		end = s.spans[at-1].first + s.spans[at-1].rows
	}
	if first := s.spans[at].first; end < first {
		w.holes = append(w.holes, Hole{s.stream, Interval{end, first}})
	}
}

// span calls found for a span's rows but the first skip ones. What cannot be
// read is a hole, and told as damage.
func (w *walker) span(ctx context.Context, s *streamView, p span, skip int64, found func(Row) error) error {
	f := &w.v.files[p.file]
	e := f.members[p.member].Extents[p.extent]
	plain, err := w.plain(ctx, p)
	var lines []byte
	if err == nil {
		lines, err = cutExtent(plain, e)
	}
	if errors.Is(err, ErrDamaged) {
		w.broken(s, p, skip, err)
		return nil
	}
	if err != nil {
		return err
	}
	number := e.FirstRow
	for ; number < p.first+skip; number++ {
		lines = lines[bytes.IndexByte(lines, '\n')+1:]
	}
	for ; number < p.first+p.rows; number++ {
		end := bytes.IndexByte(lines, '\n')
		row := Row{s.stream.Client, s.stream.Flow, s.stream.Name, number, lines[:end:end]}
		if err := found(row); err != nil {
			return err
		}
		lines = lines[end+1:]
	}
	return nil
}

func (w *walker) broken(s *streamView, p span, skip int64, err error) {
	w.holes = append(w.holes, Hole{s.stream, Interval{p.first + skip, p.first + p.rows}})
	w.unread += p.rows - skip
	f := &w.v.files[p.file]
	m := f.members[p.member]
	for _, d := range w.damage {
		if d.Path == f.path && d.Offset == m.Offset {
			return
		}
	}
	w.damage = append(w.damage, Damage{f.path, m.Offset, m.Length, DamageMember, err})
	w.r.metrics.damage.WithLabelValues(string(DamageMember)).Inc()
}

// plain inflates a span's member, unless it is one of the last.
func (w *walker) plain(ctx context.Context, p span) ([]byte, error) {
	for _, m := range w.members {
		if m.file == p.file && m.member == p.member {
			return m.plain, m.err
		}
	}
	h, err := w.open(ctx, p.file)
	if err != nil {
		return nil, err
	}
	plain, err := readMember(ctx, h, w.v.files[p.file].members[p.member])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err == nil || errors.Is(err, ErrDamaged) {
		if len(w.members) == maxInflated {
			w.members = w.members[:maxInflated-1]
		}
		w.members = append([]inflated{{p.file, p.member, plain, err}}, w.members...)
	}
	return plain, err
}

func (w *walker) open(ctx context.Context, file int) (*Handle, error) {
	if h := w.files[file]; h != nil {
		return h, nil
	}
	if len(w.files) >= maxOpenReads {
		w.close(ctx)
	}
	h, err := w.r.store.OpenFile(ctx, w.v.files[file].path)
	if err != nil {
		return nil, err
	}
	if w.files == nil {
		w.files = make(map[int]*Handle)
	}
	w.files[file] = h
	return h, nil
}

func (w *walker) close(ctx context.Context) {
	for _, h := range w.files {
		h.discard(ctx)
	}
	w.files = nil
}

// cursor pins the view's segments and a place among its rows.
func (v *view) cursor(next int64) string {
	b := []byte{cursorVersion}
	if len(v.earlier) > 0 {
		b[0] = cursorWithDay
	}
	b = binary.AppendUvarint(b, uint64(next))
	b = appendPins(b, v.files)
	if len(v.earlier) > 0 {
		b = appendPins(b, v.earlier)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func appendPins(b []byte, files []fileView) []byte {
	b = binary.AppendUvarint(b, uint64(len(files)))
	for _, f := range files {
		name := segmentName(f.id.incarnation(), f.id.part)
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, uint64(f.valid))
	}
	return b
}

// parseCursor reads a cursor, which may have been through a browser.
func parseCursor(text string) (next int64, at *pins, err error) {
	bad := fmt.Errorf("read cursor: %w", ErrBadCursor)
	if len(text) > maxCursor {
		return 0, nil, bad
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 || b[0] != cursorVersion && b[0] != cursorWithDay {
		return 0, nil, bad
	}
	d := indexDecoder{b: b[1:]}
	next = int64(d.number(MaxRow))
	at = &pins{set: d.pins()}
	if b[0] == cursorWithDay {
		at.earlier = d.pins()
	}
	if d.bad || len(d.b) != 0 {
		return 0, nil, bad
	}
	return next, at, nil
}

func (d *indexDecoder) pins() []pin {
	count := d.number(uint64(len(d.b)) / 2)
	out := make([]pin, 0, count)
	for range count {
		name := string(d.take(d.number(255)))
		length := int64(d.number(1 << 62))
		_, ok := parseSegmentName(name)
		d.bad = d.bad || !ok
		out = append(out, pin{name, length})
	}
	return out
}
