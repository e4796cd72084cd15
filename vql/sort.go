package vql

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"errors"
	"io"
	"math"
	"math/big"
	"slices"
	"strings"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

// sorter is ORDER BY: stable, equal keys in reverse input order with DESC, by
// external merge beyond Limits.SpillBytes.
type sorter struct{ session *session }

// Sort implements the engine's sorter, for queries that are left to the engine. Its feeder does not watch its
// context, so input is always read to its end.
func (s sorter) Sort(ctx context.Context, inner types.Scope, input <-chan types.Row, key string, desc bool) <-chan types.Row {
	return generate(ctx, inner, func(emit Emit) error {
		defer drain(input)
		m := &merger{scope: scopeOf(inner), desc: desc}
		defer m.close()
		for row := range input {
			if ctx.Err() != nil {
				continue
			}
			if err := m.add(row, m.scope.keyOf(ctx, row, key)); err != nil {
				m.scope.Log(LevelError, "ORDER BY: %v", err)
				return err
			}
		}
		return m.emit(ctx, dictRows(emit))
	})
}

// keyOf is the value that a row sorts by; ok is false when it lacks the column.
func (s *Scope) keyOf(ctx context.Context, row types.Row, column string) sortKey {
	v, ok := s.inner.Associative(row, column)
	if !ok {
		return sortKey{class: classMissing}
	}
	return makeKey(s, s.force(ctx, v))
}

// The classes of keys, in their order.
const (
	classMissing = iota
	classText
	classNumber
	classTime
	classRest
)

// sortKey is a key in the form it is compared in.
type sortKey struct {
	class int
	text  string
	value any // number or the rest
	time  time.Time
}

func makeKey(s *Scope, v any) sortKey {
	if p, changed := plain(v); changed {
		v = p
	}
	switch t := v.(type) {
	case string:
		return sortKey{class: classText, text: t}
	case []byte:
		return sortKey{class: classText, text: string(t)}
	case *Path:
		return sortKey{class: classText, text: t.String()}
	case time.Time:
		return sortKey{class: classTime, time: t}
	case *time.Time:
		if t != nil {
			return sortKey{class: classTime, time: *t}
		}
	}
	if IsNull(v) && !isList(v) {
		return sortKey{class: classText}
	}
	if _, ok := toFloat(v); ok {
		return sortKey{class: classNumber, value: v}
	}
	return sortKey{class: classRest, value: s.Real(s.session.context(), v)}
}

func (s *Scope) compareKeys(a, b *sortKey) int {
	if c := cmp.Compare(a.class, b.class); c != 0 {
		return c
	}
	switch a.class {
	case classText:
		return strings.Compare(a.text, b.text)
	case classNumber:
		return compareNumbers(a.value, b.value)
	case classTime:
		return a.time.Compare(b.time)
	case classRest:
		switch {
		case s.inner.Lt(a.value, b.value):
			return -1
		case s.inner.Lt(b.value, a.value):
			return 1
		}
	}
	return 0
}

// compareNumbers compares exactly, whatever the types; NaN comes first.
func compareNumbers(a, b any) int {
	x, xFloat := a.(float64)
	y, yFloat := b.(float64)
	if xFloat && yFloat {
		return cmp.Compare(x, y)
	}
	if !xFloat && !yFloat {
		return compareIntegers(a, b)
	}
	if xFloat {
		return -compareIntFloat(b, x)
	}
	return compareIntFloat(a, y)
}

func compareIntegers(a, b any) int {
	i, iBig := a.(uint64)
	j, jBig := b.(uint64)
	iBig, jBig = iBig && i > math.MaxInt64, jBig && j > math.MaxInt64
	switch {
	case iBig && jBig:
		return cmp.Compare(i, j)
	case iBig:
		return 1
	case jBig:
		return -1
	}
	m, _ := toInt(a)
	n, _ := toInt(b)
	return cmp.Compare(m, n)
}

func compareIntFloat(i any, f float64) int {
	switch {
	case math.IsNaN(f):
		return 1
	case math.IsInf(f, 1):
		return -1
	case math.IsInf(f, -1):
		return 1
	}
	var x big.Float
	if u, ok := i.(uint64); ok {
		x.SetUint64(u)
	} else {
		n, _ := toInt(i)
		x.SetInt64(n)
	}
	return x.Cmp(big.NewFloat(f))
}

// item is one row with its key and its place in the input.
type item struct {
	key  sortKey
	row  any
	seq  uint64
	from int // the run it came from
}

// merger sorts items in memory and in runs on disk.
type merger struct {
	scope *Scope
	desc  bool
	items []item
	bytes int64
	seq   uint64
	file  *spillFile
	runs  [][2]int64 // from and to
}

func (m *merger) close() {
	if m.file != nil {
		m.file.close()
	}
}

// order is the total order of items: with desc reversed, except that rows
// without the column keep the order they came in.
func (m *merger) order(a, b *item) int {
	c := m.scope.compareKeys(&a.key, &b.key)
	if c == 0 {
		c = cmp.Compare(a.seq, b.seq)
		if a.key.class == classMissing {
			return c
		}
	}
	if m.desc {
		return -c
	}
	return c
}

func (m *merger) add(row any, key sortKey) error {
	m.items = append(m.items, item{key: key, row: row, seq: m.seq})
	m.seq++
	m.bytes += sizeOf(row) + 96 + int64(len(key.text))
	if m.bytes < m.scope.session.options.Limits.SpillBytes {
		return nil
	}
	return m.spill()
}

func (m *merger) sort() {
	slices.SortFunc(m.items, func(a, b item) int { return m.order(&a, &b) })
}

// spill writes the sorted items as a run.
func (m *merger) spill() error {
	if m.file == nil {
		file, err := m.scope.session.newSpill()
		if err != nil {
			return err
		}
		m.file = file
	}
	m.sort()
	from := m.file.size
	e := encoder{scope: m.scope}
	for i := range m.items {
		e.dst = e.dst[:0]
		e.item(&m.items[i])
		if _, err := m.file.append(e.dst); err != nil {
			return err
		}
	}
	clear(m.items)
	m.items, m.bytes = m.items[:0], 0
	m.runs = append(m.runs, [2]int64{from, m.file.size})
	return nil
}

func (e *encoder) item(it *item) {
	e.uvarint(it.seq)
	e.uvarint(uint64(it.key.class))
	switch it.key.class {
	case classText:
		e.raw(it.key.text)
	case classTime:
		e.time(it.key.time)
	case classNumber, classRest:
		e.value(it.key.value, 0)
	}
	e.value(it.row, 0)
}

func (d *decoder) item() item {
	it := item{seq: d.uvarint()}
	it.key.class = int(d.uvarint())
	switch it.key.class {
	case classText:
		it.key.text = d.raw()
	case classTime:
		it.key.time, _ = d.value(0).(time.Time)
	case classNumber, classRest:
		it.key.value = d.value(0)
	}
	it.row = d.value(0)
	return it
}

// emit hands all rows out in order. Rows that cannot be read back end them, with a
// log line.
func (m *merger) emit(ctx context.Context, emit Emit) error {
	m.sort()
	var refused error
	hand := func(row any) error {
		if refused = ctx.Err(); refused == nil {
			refused = emit(row)
		}
		return refused
	}
	err := m.merge(hand)
	if refused == nil && err != nil {
		m.scope.Log(LevelError, "ORDER BY: %v", err)
	}
	return refused
}

// merge hands out the rows of all runs and those in memory.
func (m *merger) merge(emit Emit) error {
	h := &runHeap{merger: m, readers: make([]*spillReader, len(m.runs))}
	if len(m.runs) > 0 {
		if err := m.file.flush(); err != nil {
			return err
		}
	}
	for i, run := range m.runs {
		h.readers[i] = m.file.section(run[0], run[1])
		if err := h.fill(i); err != nil {
			return err
		}
	}
	memory := m.items
	for h.Len() > 0 || len(memory) > 0 {
		if h.Len() == 0 || len(memory) > 0 && m.order(&memory[0], &h.items[0]) < 0 {
			row := memory[0].row
			memory[0] = item{}
			memory = memory[1:]
			if err := emit(row); err != nil {
				return err
			}
			continue
		}
		first, _ := heap.Pop(h).(item)
		if err := emit(first.row); err != nil {
			return err
		}
		if err := h.fill(first.from); err != nil {
			return err
		}
	}
	return nil
}

// runHeap holds the next item of each run.
type runHeap struct {
	merger  *merger
	readers []*spillReader
	items   []item
}

// fill pushes the next item of a run, if it has one.
func (h *runHeap) fill(run int) error {
	record, err := h.readers[run].next()
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	if err != nil {
		return err
	}
	d := decoder{src: bytes.Clone(record)}
	it := d.item()
	if d.err != nil {
		return d.err
	}
	it.from = run
	heap.Push(h, it)
	return nil
}

func (h *runHeap) Len() int           { return len(h.items) }
func (h *runHeap) Less(i, j int) bool { return h.merger.order(&h.items[i], &h.items[j]) < 0 }
func (h *runHeap) Swap(i, j int)      { h.items[i], h.items[j] = h.items[j], h.items[i] }

// Push implements heap.Interface.
func (h *runHeap) Push(x any) {
	if it, ok := x.(item); ok {
		h.items = append(h.items, it)
	}
}

// Pop implements heap.Interface.
func (h *runHeap) Pop() any {
	last := h.items[len(h.items)-1]
	h.items = h.items[:len(h.items)-1]
	return last
}
