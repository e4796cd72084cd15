package filestore

import (
	"cmp"
	"context"
	"slices"
	"sort"
)

// view is a set merged: which extent serves which rows, over pinned segments.
type view struct {
	set     Set
	filter  RowsFilter
	files   []fileView
	earlier []fileView // of the day before, where the same event batches may lie
	streams []*streamView
	total   int64 // rows
	damage  []Damage
	storage *storage // how its spans lie
}

// streamView is one stream of a view.
type streamView struct {
	stream     Stream
	before     int64 // rows of the streams before it
	rows       int64
	spans      []span // in the order of row numbers; they do not overlap
	covered    Intervals
	conflicts  []Conflict
	duplicates int

	earlier Intervals // rows that the day before shows

	seen map[Interval]Place // where each batch was met first; nil: see first
	only Place              // of the first batch
	one  Interval

	firstSpan    [1]span     // where spans begins: most streams have one batch
	firstCovered [1]Interval // likewise covered
}

// span is a run of rows that one extent serves.
type span struct {
	first, rows int64
	file        int // in view.files
	member      int // in its members
	extent      int
}

// maxViews bounds how many merged views are kept, for paging through them.
const maxViews = 8

// maxKeptView bounds one kept view, in streams.
const maxKeptView = 400_000

// pin is how far a cursor looks into one segment.
type pin struct {
	name   string
	length int64
}

// pins are how far a cursor looks.
type pins struct{ set, earlier []pin }

// view merges a set, up to pinned lengths if any are given.
func (r *Reader) view(ctx context.Context, set Set, filter RowsFilter, at *pins) (*view, error) {
	files, damage, err := r.load(ctx, set)
	if err != nil {
		return nil, err
	}
	earlier, err := r.dayBefore(ctx, set)
	if err != nil {
		return nil, err
	}
	if at != nil {
		if files, err = pinned(files, at.set); err != nil {
			return nil, err
		}
		if earlier, err = pinned(earlier, at.earlier); err != nil {
			return nil, err
		}
	}
	if v := r.kept(set, filter, files, earlier); v != nil {
		again := *v
		again.damage = damage
		return &again, nil
	}
	v := &view{set: set, filter: filter, files: files, earlier: earlier, damage: damage, storage: new(storage)}
	v.merge()
	r.keep(v)
	return v, nil
}

// dayBefore are the segments of the day before a day of events, none for other
// sets: a client that had no answer before midnight sends the same batch again
// after it. What is damaged there is told to whoever reads that day.
func (r *Reader) dayBefore(ctx context.Context, set Set) ([]fileView, error) {
	before, ok := eventsBefore(set)
	if !ok {
		return nil, nil
	}
	files, _, err := r.load(ctx, before)
	return files, err
}

// pinned cuts the segments to what a cursor saw of them.
func pinned(files []fileView, pins []pin) ([]fileView, error) {
	out := make([]fileView, 0, len(pins))
	for _, p := range pins {
		at := slices.IndexFunc(files, func(f fileView) bool { return f.id == p.id() })
		if at < 0 || files[at].valid < p.length {
			return nil, ErrBadCursor
		}
		f := files[at]
		n := sort.Search(len(f.members), func(i int) bool { return f.members[i].Offset >= p.length })
		if n > 0 && f.members[n-1].Offset+f.members[n-1].Length != p.length || n == 0 && p.length != 0 {
			return nil, ErrBadCursor
		}
		f.members, f.valid = f.members[:n:n], p.length
		out = append(out, f)
	}
	return out, nil
}

func (p pin) id() segmentID {
	id, _ := parseSegmentName(p.name) // checked when the cursor was read
	return id
}

// kept returns a view that was merged from the same members.
func (r *Reader) kept(set Set, filter RowsFilter, files, earlier []fileView) *view {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, v := range r.views {
		if v.set == set && v.filter == filter && sameFiles(v.files, files) && sameFiles(v.earlier, earlier) {
			r.views = slices.Insert(slices.Delete(r.views, i, i+1), 0, v)
			return v
		}
	}
	return nil
}

func sameFiles(a, b []fileView) bool {
	return slices.EqualFunc(a, b, func(x, y fileView) bool {
		same := x.path == y.path && x.valid == y.valid && len(x.members) == len(y.members)
		return same && (len(x.members) == 0 || &x.members[0].Extents[0] == &y.members[0].Extents[0])
	})
}

func (r *Reader) keep(v *view) {
	if len(v.streams) > maxKeptView {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.views = slices.Insert(r.views, 0, v)
	if len(r.views) > maxViews {
		r.views = slices.Delete(r.views, maxViews, len(r.views))
	}
}

// merge takes each row once. Batches are met in the order of (incarnation,
// offset), so the first that has a row serves it.
func (v *view) merge() {
	expect := 0
	v.extents(v.files, func(*Extent, span) { expect++ })
	streams := &streamTable{by: make(map[Stream]*streamView, min(expect, maxKeptView))}
	if len(v.earlier) > 0 {
		v.extents(v.files, func(e *Extent, _ span) { v.stream(streams, e) })
		v.extents(v.earlier, func(e *Extent, _ span) {
			if s := streams.by[e.Stream()]; s != nil && !e.Digest.IsZero() {
				s.earlier.Add(e.FirstRow, e.end())
			}
		})
	}
	v.extents(v.files, func(e *Extent, at span) {
		file := &v.files[at.file]
		v.stream(streams, e).meet(e, Place{file.path, file.members[at.member].Offset, at.extent, e.CRC}, at)
	})
	v.streams = slices.DeleteFunc(v.streams, func(s *streamView) bool { return len(s.spans) == 0 })
	for _, s := range v.streams {
		slices.SortFunc(s.spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
		s.before, s.rows = v.total, s.covered.Len()
		v.total += s.rows
		s.seen, s.earlier = nil, nil
	}
}

// streamTable finds streams while a view is merged, and makes many at once.
type streamTable struct {
	by   map[Stream]*streamView
	slab []streamView
}

func (t *streamTable) fresh(stream Stream) *streamView {
	if len(t.slab) == 0 {
		t.slab = make([]streamView, 64)
	}
	s := &t.slab[0]
	t.slab = t.slab[1:]
	s.stream, s.spans, s.covered = stream, s.firstSpan[:0], s.firstCovered[:0]
	t.by[stream] = s
	return s
}

// stream finds the stream of an extent; streams stand in the order they first came.
func (v *view) stream(all *streamTable, e *Extent) *streamView {
	s := all.by[e.Stream()]
	if s == nil {
		s = all.fresh(e.Stream())
		v.streams = append(v.streams, s)
	}
	return s
}

// extents calls found for each extent that the filter takes, in order.
func (v *view) extents(files []fileView, found func(*Extent, span)) {
	for f := range files {
		for m := range files[f].members {
			member := &files[f].members[m]
			for e := range member.Extents {
				if extent := &member.Extents[e]; v.filter.takes(extent) {
					found(extent, span{file: f, member: m, extent: e})
				}
			}
		}
	}
}

// meet takes from a batch what no batch before it has.
func (s *streamView) meet(e *Extent, place Place, at span) {
	identity := Interval{e.FirstRow, e.end()}
	if old, ok := s.met(identity, place); ok {
		s.again(e, old, place)
		return
	}
	if n := len(s.covered); len(s.earlier) == 0 && (n == 0 || s.covered[n-1].End <= e.FirstRow) {
		at.first, at.rows = e.FirstRow, e.Rows // as batches mostly come
		s.spans = append(s.spans, at)
		s.covered.Add(e.FirstRow, e.end())
		return
	}
	for _, fresh := range s.covered.Missing(e.FirstRow, e.end()) {
		for _, rows := range s.earlier.Missing(fresh.Start, fresh.End) {
			at.first, at.rows = rows.Start, rows.Len()
			s.spans = append(s.spans, at)
			s.covered.Add(rows.Start, rows.End)
		}
	}
}

// met returns where a batch of this identity was met first, or notes that it is
// here. Most streams have one batch and need no map.
func (s *streamView) met(identity Interval, place Place) (Place, bool) {
	if s.one == (Interval{}) {
		s.one, s.only = identity, place
		return Place{}, false
	}
	if s.one == identity {
		return s.only, true
	}
	if old, ok := s.seen[identity]; ok {
		return old, true
	}
	if s.seen == nil {
		s.seen = make(map[Interval]Place)
	}
	s.seen[identity] = place
	return Place{}, false
}

// again is a batch of an identity that was met before: the same bytes are
// dropped, others are kept in sight. Event batches of one digest are what the
// client sent once; they differ in the time at which each node took them.
func (s *streamView) again(e *Extent, kept, other Place) {
	if kept.CRC == other.CRC || !e.Digest.IsZero() {
		s.duplicates++
		return
	}
	for _, c := range s.conflicts {
		if c.FirstRow == e.FirstRow && c.Rows == e.Rows && c.Other.CRC == other.CRC {
			s.duplicates++
			return
		}
	}
	s.conflicts = append(s.conflicts, Conflict{s.stream, e.FirstRow, e.Rows, kept, other})
}

// seek returns the stream and span that serve the row at a place among all, and
// how many rows of the span come before it.
func (v *view) seek(from int64) (stream, spanAt int, skip int64) {
	stream = sort.Search(len(v.streams), func(i int) bool { return v.streams[i].before+v.streams[i].rows > from })
	if stream == len(v.streams) {
		return stream, 0, 0
	}
	skip = from - v.streams[stream].before
	for spanAt = range v.streams[stream].spans {
		rows := v.streams[stream].spans[spanAt].rows
		if skip < rows {
			break
		}
		skip -= rows
	}
	return stream, spanAt, skip
}

// conflicts of all streams, in their order.
func (v *view) conflicts() []Conflict {
	var out []Conflict
	for _, s := range v.streams {
		out = append(out, s.conflicts...)
	}
	return out
}
