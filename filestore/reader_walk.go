package filestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Batch is a run of rows of one stream that lie together.
type Batch struct {
	Stream   int    // its number in the Pinned
	Place    int64  // of the first row
	FirstRow int64  // its number in its stream
	Rows     int64  // at least 1
	Lines    []byte // the JSON lines with their ends; valid until found returns
}

// Walked says what a walk met.
type Walked struct {
	Members int      // inflated
	Bytes   int64    // plain bytes of those
	Unread  int64    // rows passed over because they cannot be read
	Holes   []Hole   // of those, the first maxWalkHoles
	Damage  []Damage // one for each member
}

// maxWalkHoles bounds how many holes a walk lists; all are counted.
const maxWalkHoles = 1000

// walkAhead is how many members are inflated while one is looked at. A member has
// about a MiB, so a walk holds a few MiB; a row of 64 MiB makes that more.
const walkAhead = 2

// Walk calls found for the rows of those streams that take accepts (nil: all), from
// a place on, as they are stored. An error of found ends it and is returned as it
// is. What cannot be read is passed over and told.
func (p *Pinned) Walk(ctx context.Context, from int64, take func(stream int) bool, found func(Batch) error) (*Walked, error) {
	first, skip := p.seek(from)
	at := first
	next := func() (lo, hi int) {
		for ; at < len(p.order); at = hi {
			lo, hi = at, p.memberEnd(at)
			if take == nil || slices.ContainsFunc(p.order[lo:hi], func(o placed) bool { return take(int(o.stream)) }) {
				at = hi
				return lo, hi
			}
		}
		return 0, 0
	}
	w := pinWalk{p: p, next: next}
	err := w.run(ctx, func(m *ahead) error {
		for i := m.lo; i < m.hi; i++ {
			behind := int64(0)
			if i == first {
				behind = skip
			}
			if take != nil && !take(int(p.order[i].stream)) {
				continue
			}
			if err := w.span(m, i, behind, found); err != nil {
				return err
			}
		}
		return nil
	})
	return &w.told, err
}

// At returns the rows at some places, in the order of places; those that cannot be
// read have no Line. Members are inflated once each.
func (p *Pinned) At(ctx context.Context, places []int64) ([]Row, *Walked, error) {
	out := make([]Row, len(places))
	byPlace := make([]int, len(places))
	for i := range byPlace {
		byPlace[i] = i
	}
	slices.SortFunc(byPlace, func(a, b int) int { return int(places[a] - places[b]) })
	wanted := byPlace
	next := func() (lo, hi int) {
		if len(wanted) == 0 || places[wanted[0]] >= p.v.total {
			return 0, 0
		}
		lo, _ = p.seek(places[wanted[0]])
		hi = p.memberEnd(lo)
		end := p.order[hi-1].place + p.v.at(p.order[hi-1]).rows
		for len(wanted) > 0 && places[wanted[0]] < end {
			wanted = wanted[1:]
		}
		return lo, hi
	}
	w := pinWalk{p: p, next: next}
	rest := byPlace
	err := w.run(ctx, func(m *ahead) error {
		for i := m.lo; i < m.hi && len(rest) > 0; i++ {
			from, to := p.order[i].place, p.order[i].place+p.v.at(p.order[i]).rows
			if places[rest[0]] >= to {
				continue
			}
			err := w.span(m, i, 0, func(b Batch) error {
				lines, at := b.Lines, from
				for ; len(rest) > 0 && places[rest[0]] < to; rest = rest[1:] {
					lines, at = cutRowsAfter(lines, places[rest[0]]-at), places[rest[0]]
					out[rest[0]] = p.row(b, at, lines)
				}
				return nil
			})
			if err != nil {
				return err
			}
			for len(rest) > 0 && places[rest[0]] < to { // it could not be read
				rest = rest[1:]
			}
		}
		return nil
	})
	return out, &w.told, err
}

func (p *Pinned) row(b Batch, place int64, lines []byte) Row {
	s := p.v.streams[b.Stream].stream
	line := bytes.Clone(lines[:bytes.IndexByte(lines, '\n')]) // else it would keep its whole member
	return Row{s.Client, s.Flow, s.Name, b.FirstRow + place - b.Place, line}
}

// cutRowsAfter leaves out the first rows of lines.
func cutRowsAfter(lines []byte, rows int64) []byte {
	for ; rows > 0; rows-- {
		lines = lines[bytes.IndexByte(lines, '\n')+1:]
	}
	return lines
}

// memberEnd is the end of the spans that lie in the same member as one.
func (p *Pinned) memberEnd(at int) int {
	first := p.v.at(p.order[at])
	for at++; at < len(p.order); at++ {
		if s := p.v.at(p.order[at]); s.file != first.file || s.member != first.member {
			break
		}
	}
	return at
}

// pinWalk inflates members ahead of who looks at them, and gives them in order.
type pinWalk struct {
	p    *Pinned
	next func() (lo, hi int) // the spans of the next member; lo == hi: none

	told  Walked
	queue []*ahead // being inflated, oldest first; of one file
	spare []*ahead
	file  int
	h     *Handle
}

// ahead is a member that is being inflated.
type ahead struct {
	lo, hi int // its spans
	member Member
	done   chan struct{} // one element when plain and err are there
	plain  []byte
	err    error
}

// run gives all members to look, until one returns an error. It returns when no
// goroutine of it is left.
func (w *pinWalk) run(ctx context.Context, look func(*ahead) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() {
		cancel()
		running.Wait()
		if w.h != nil {
			w.h.discard(context.WithoutCancel(ctx))
		}
	}()
	more := true
	for {
		for more && len(w.queue) <= min(walkAhead, w.told.Members) { // who looks at a page needs one
			lo, hi := w.next()
			if more = lo < hi; !more {
				break
			}
			if err := w.begin(ctx, &running, lo, hi, look); err != nil {
				return err
			}
		}
		if len(w.queue) == 0 {
			return nil
		}
		if err := w.oldest(look); err != nil {
			return err
		}
	}
}

// begin starts to inflate a member. Those of another file are looked at first, as
// one file is open at a time.
func (w *pinWalk) begin(ctx context.Context, running *sync.WaitGroup, lo, hi int, look func(*ahead) error) error {
	s := w.p.v.at(w.p.order[lo])
	if w.h == nil || w.file != s.file {
		for len(w.queue) > 0 {
			if err := w.oldest(look); err != nil {
				return err
			}
		}
		if w.h != nil {
			w.h.discard(ctx)
			w.h = nil
		}
		h, err := w.p.r.store.OpenFile(ctx, w.p.v.files[s.file].path)
		if err != nil {
			return err
		}
		w.h, w.file = h, s.file
	}
	m := w.unused()
	m.lo, m.hi, m.member = lo, hi, w.p.v.files[s.file].members[s.member]
	w.queue = append(w.queue, m)
	h := w.h
	running.Go(func() {
		m.plain, m.err = readMemberTo(ctx, h, m.member, m.plain)
		m.done <- struct{}{}
	})
	return nil
}

func (w *pinWalk) unused() *ahead {
	if n := len(w.spare); n > 0 {
		m := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return m
	}
	return &ahead{done: make(chan struct{}, 1)} // never full: taken before it is used again
}

// oldest waits for the oldest member and lets it be looked at.
func (w *pinWalk) oldest(look func(*ahead) error) error {
	m := w.queue[0]
	<-m.done
	w.queue = append(w.queue[:0], w.queue[1:]...)
	if errors.Is(m.err, io.EOF) || errors.Is(m.err, io.ErrUnexpectedEOF) {
		m.err = fmt.Errorf("%w: %w", ErrDamaged, m.err)
	}
	if m.err != nil && !errors.Is(m.err, ErrDamaged) {
		return m.err
	}
	w.told.Members++
	w.told.Bytes += int64(len(m.plain))
	err := look(m)
	if cap(m.plain) > 2*MaxMemberBytes {
		m.plain = nil // the buffer of a long row
	}
	w.spare = append(w.spare, m)
	return err
}

// span calls found for a span but its first skip rows.
func (w *pinWalk) span(m *ahead, at int, skip int64, found func(Batch) error) error {
	o := w.p.order[at]
	s := w.p.v.at(o)
	e := m.member.Extents[s.extent]
	var lines []byte
	err := m.err
	if err == nil {
		lines, err = cutExtent(m.plain, e)
	}
	if err != nil {
		w.broken(o, m.member, skip, err)
		return nil
	}
	lines = cutRowsAfter(lines, s.first+skip-e.FirstRow)
	rows := s.rows - skip
	if s.first+s.rows < e.end() {
		lines = lines[:len(lines)-len(cutRowsAfter(lines, rows))]
	}
	return found(Batch{int(o.stream), o.place + skip, s.first + skip, rows, lines})
}

// broken tells of a span that cannot be read.
func (w *pinWalk) broken(o placed, m Member, skip int64, err error) {
	s := w.p.v.at(o)
	w.told.Unread += s.rows - skip
	if len(w.told.Holes) < maxWalkHoles {
		w.told.Holes = append(w.told.Holes, Hole{w.p.v.streams[o.stream].stream, Interval{s.first + skip, s.first + s.rows}})
	}
	path := w.p.v.files[s.file].path
	if n := len(w.told.Damage); n > 0 && w.told.Damage[n-1].Path == path && w.told.Damage[n-1].Offset == m.Offset {
		return
	}
	w.told.Damage = append(w.told.Damage, Damage{path, m.Offset, m.Length, DamageMember, err})
	w.p.r.metrics.damage.WithLabelValues(string(DamageMember)).Inc()
}
