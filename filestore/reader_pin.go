package filestore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
)

// Pinned is a set at one moment: each segment up to the length that it had then.
// It has the rows in the order in which they were stored (by node, run, part and
// offset), so a walk inflates each member once, however many clients share it.
// Each row has a place in that order, from 0. Nothing is kept open. Safe for
// concurrent use.
type Pinned struct {
	r     *Reader
	v     *view
	order []placed
}

// placed is a span of the view in the order of storage.
type placed struct {
	place  int64 // of its first row
	stream int32 // in view.streams
	span   int32 // in its spans
}

// storage is the order in which a view's spans lie, made when it is first asked
// for. Copies of a view share it.
type storage struct {
	once  sync.Once
	order []placed
}

// Pin looks at a set as it is now, or as it was when a cursor of Pinned.Cursor was
// made, and returns the place in that cursor. A missing set is empty. A cursor that
// does not fit is ErrBadCursor.
func (r *Reader) Pin(ctx context.Context, set Set, filter RowsFilter, cursor string) (*Pinned, int64, error) {
	var place int64
	var at *pins
	if cursor != "" {
		var err error
		if place, at, err = parseCursor(cursor); err != nil {
			return nil, 0, fmt.Errorf("pin %s: %w", set, err)
		}
	}
	v, err := r.view(ctx, set, filter, at)
	if err != nil {
		return nil, 0, fmt.Errorf("pin %s: %w", set, err)
	}
	v.storage.once.Do(func() { v.storage.order = v.stored() })
	return &Pinned{r: r, v: v, order: v.storage.order}, place, nil
}

// stored lists all spans as they lie. Streams stand in the order they first came, so
// the spans of one member mostly come sorted already.
func (v *view) stored() []placed {
	base := make([]int, len(v.files)+1)
	for f := range v.files {
		base[f+1] = base[f] + len(v.files[f].members)
	}
	ends := make([]int, base[len(v.files)]+1)
	for _, s := range v.streams {
		for i := range s.spans {
			ends[base[s.spans[i].file]+s.spans[i].member+1]++
		}
	}
	for i := 1; i < len(ends); i++ {
		ends[i] += ends[i-1]
	}
	order := make([]placed, ends[len(ends)-1])
	next := slices.Clone(ends)
	for i, s := range v.streams {
		for k := range s.spans {
			at := base[s.spans[k].file] + s.spans[k].member
			order[next[at]] = placed{stream: int32(i), span: int32(k)}
			next[at]++
		}
	}
	for m := range len(ends) - 1 {
		v.sortMember(order[ends[m]:ends[m+1]])
	}
	var place int64
	for i := range order {
		order[i].place = place
		place += v.at(order[i]).rows
	}
	return order
}

func (v *view) sortMember(order []placed) {
	compare := func(a, b placed) int {
		x, y := v.at(a), v.at(b)
		return cmp.Or(cmp.Compare(x.extent, y.extent), cmp.Compare(x.first, y.first))
	}
	if !slices.IsSortedFunc(order, compare) {
		slices.SortFunc(order, compare)
	}
}

func (v *view) at(p placed) *span { return &v.streams[p.stream].spans[p.span] }

// Total is the number of rows that the set serves, holes not counted.
func (p *Pinned) Total() int64 { return p.v.total }

// Streams returns how many streams there are.
func (p *Pinned) Streams() int { return len(p.v.streams) }

// Stream returns the i-th stream, as they first came, and how many rows it has.
func (p *Pinned) Stream(i int) (Stream, int64) { return p.v.streams[i].stream, p.v.streams[i].rows }

// Damage lists what of the segments cannot be used.
func (p *Pinned) Damage() []Damage { return p.v.damage }

// Conflicts lists the batches that came twice with different bytes.
func (p *Pinned) Conflicts() []Conflict { return p.v.conflicts() }

// Holes lists ranges of row numbers that no segment has although later rows are
// there, at most limit of them, and counts the rows of all. Streams are taken by
// their number; nil takes all.
func (p *Pinned) Holes(take func(stream int) bool, limit int) (holes []Hole, rows int64) {
	for i, s := range p.v.streams {
		if len(s.covered) == 1 && s.covered[0].Start == 0 || take != nil && !take(i) {
			continue
		}
		for _, gap := range s.covered.Missing(0, s.covered[len(s.covered)-1].End) {
			rows += gap.Len()
			if len(holes) < limit {
				holes = append(holes, Hole{s.stream, gap})
			}
		}
	}
	return holes, rows
}

// Cursor names this moment and a place, for Pin.
func (p *Pinned) Cursor(place int64) string { return p.v.cursor(place) }

// Same reports whether both are the same set at the same moment, by the same filter.
func (p *Pinned) Same(q *Pinned) bool {
	return p.v.set == q.v.set && p.v.filter == q.v.filter && sameFiles(p.v.files, q.v.files) && sameFiles(p.v.earlier, q.v.earlier)
}

// seek returns the span that has a place, and how many of its rows come before it.
func (p *Pinned) seek(place int64) (at int, skip int64) {
	at = sort.Search(len(p.order), func(i int) bool { return p.order[i].place+p.v.at(p.order[i]).rows > place })
	if at == len(p.order) {
		return at, 0
	}
	return at, place - p.order[at].place
}

// Skip returns the place of the row that comes after the next count rows of those
// streams that take accepts, from a place on; the end if there are not so many.
// Nothing is read.
func (p *Pinned) Skip(place, count int64, take func(stream int) bool) int64 {
	if take == nil {
		return min(place+count, p.v.total)
	}
	at, skip := p.seek(place)
	for ; at < len(p.order); at, skip = at+1, 0 {
		o := p.order[at]
		if !take(int(o.stream)) {
			continue
		}
		if rows := p.v.at(o).rows - skip; count >= rows {
			count -= rows
			continue
		}
		return o.place + skip + count
	}
	return p.v.total
}

// Count counts the rows of those streams that take accepts, from a place on. Nothing
// is read.
func (p *Pinned) Count(place int64, take func(stream int) bool) int64 {
	at, skip := p.seek(place)
	var rows int64
	for _, o := range p.order[at:] {
		if take(int(o.stream)) {
			rows += p.v.at(o).rows - skip
		}
		skip = 0
	}
	return rows
}
