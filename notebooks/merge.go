package notebooks

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"time"
)

// Merge is a wish to read children of a super timeline by time.
type Merge struct {
	Key
	Timeline string
	Children []Child
	Start    time.Time // rows before it are left out; zero: none are

	// Charge is called for each piece of a child that is read, about a MiB; its error
	// ends the merge. Nil: nobody counts.
	Charge func(context.Context) error
}

// Row is a row of a child. Its JSON is valid until the callback returns.
type Row struct {
	At    time.Time
	Child *Child
	JSON  []byte // one object
}

// Missing tells of rows of a child that should be there and cannot be read.
type Missing struct {
	Child string
	Rows  int64
}

// Merge hands out rows in the order of their times, those of one time in the order of
// the children and of their rows. It holds about a MiB of each child. What is missing is
// told; an error of each ends it and is returned as it is, ErrGone means that files went
// away meanwhile.
func (f *Files) Merge(ctx context.Context, m Merge, each func(Row) error) ([]Missing, error) {
	if m.Charge == nil {
		m.Charge = func(context.Context) error { return nil }
	}
	var all []*cursor
	h := &cursorHeap{}
	for i := range m.Children {
		c, err := f.open(ctx, m.Key, m.Timeline, &m.Children[i], m.Start)
		if err != nil {
			return nil, fmt.Errorf("read timeline %.100q: %w", m.Children[i].Name, err)
		}
		all = append(all, c)
		if err := h.enter(ctx, c, i, m.Charge); err != nil {
			return nil, err
		}
	}
	rows, err := h.run(ctx, m.Charge, each)
	f.metrics.readRows.Add(float64(rows))
	return f.missing(all), err
}

func (f *Files) missing(all []*cursor) []Missing {
	var out []Missing
	for _, c := range all {
		if c.lost > 0 {
			out = append(out, Missing{c.child.Name, c.lost})
			f.metrics.missing.Add(float64(c.lost))
		}
	}
	return out
}

// cursorHeap holds the children that have rows left, the one whose row is next on top.
type cursorHeap struct{ items []ranked }

type ranked struct {
	*cursor
	rank int
}

// enter takes a child in that has a row.
func (h *cursorHeap) enter(ctx context.Context, c *cursor, rank int, charge func(context.Context) error) error {
	ok, err := c.next(ctx, charge)
	if err != nil {
		return fmt.Errorf("read timeline %.100q: %w", c.child.Name, err)
	}
	if ok {
		heap.Push(h, ranked{c, rank})
	}
	return nil
}

func (h *cursorHeap) run(ctx context.Context, charge func(context.Context) error, each func(Row) error) (rows int64, err error) {
	for h.Len() > 0 {
		top := h.items[0]
		if err := each(Row{top.at, top.child, top.row}); err != nil {
			return rows, err
		}
		rows++
		ok, err := top.next(ctx, charge)
		switch {
		case err != nil:
			return rows, fmt.Errorf("read timeline %.100q: %w", top.child.Name, err)
		case ok:
			heap.Fix(h, 0)
		default:
			heap.Pop(h)
		}
	}
	return rows, nil
}

func (h *cursorHeap) Len() int { return len(h.items) }

func (h *cursorHeap) Less(i, j int) bool {
	a, b := h.items[i], h.items[j]
	return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.rank, b.rank)) < 0
}

func (h *cursorHeap) Swap(i, j int) { h.items[i], h.items[j] = h.items[j], h.items[i] }

// Push implements heap.Interface.
func (h *cursorHeap) Push(x any) {
	if r, ok := x.(ranked); ok {
		h.items = append(h.items, r)
	}
}

// Pop implements heap.Interface.
func (h *cursorHeap) Pop() any {
	last := h.items[len(h.items)-1]
	h.items[len(h.items)-1] = ranked{} // lets go of its rows
	h.items = h.items[:len(h.items)-1]
	return last
}
