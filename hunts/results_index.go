package hunts

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
)

// diskBudget bounds the bytes in the folder of temporary files.
type diskBudget struct {
	limit int64
	used  atomic.Int64
}

// take reserves bytes; false if there are not so many.
func (d *diskBudget) take(n int64) bool {
	if d.used.Add(n) <= d.limit {
		return true
	}
	d.used.Add(-n)
	return false
}

// tempFile is a file that has no name as soon as it is made, if the system permits
// that: nothing is left behind by a crash.
type tempFile struct {
	*os.File
	budget   *diskBudget
	makeRoom func() bool
	written  int64
	named    bool
}

func (s *sorter) tempFile() (*tempFile, error) {
	f, err := os.CreateTemp(s.dir, "raptorpack-sort-")
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	return &tempFile{File: f, budget: s.budget, makeRoom: s.makeRoom, named: os.Remove(f.Name()) != nil}, nil
}

// Write implements io.Writer within the budget.
func (t *tempFile) Write(p []byte) (int, error) {
	for !t.budget.take(int64(len(p))) {
		if t.makeRoom != nil && t.makeRoom() {
			continue
		}
		return 0, fmt.Errorf("%d bytes of temporary files are used up: %w", t.budget.limit, ErrTooLarge)
	}
	t.written += int64(len(p))
	return t.File.Write(p)
}

// close gives the file's space back.
func (t *tempFile) close() error {
	t.budget.used.Add(-t.written)
	t.written = 0
	err := t.File.Close()
	if t.named {
		err = errors.Join(err, os.Remove(t.Name()))
	}
	return err
}

// sorter orders places by keys: in memory as long as they fit, in sorted runs on disk
// beyond, which are merged in the end. Equal keys stay in the order of places.
type sorter struct {
	dir        string
	budget     *diskBudget
	descending bool
	makeRoom   func() bool // frees space on disk, false if there is none to free; nil: never

	keys    []byte
	entries []sortEntry
	bounds  [2]int // of both, before a run is written
	runs    []*tempFile
}

// sortEntry is one row: the first bytes of its key, which mostly decide, and where all
// of it lies.
type sortEntry struct {
	prefix uint64
	place  int64
	off, n uint32
}

const sortEntrySize = 24

// maxRuns is how many runs are merged at once. More are merged in steps.
const maxRuns = 64

// newSorter makes a sorter that holds memory bytes for at most rows rows.
func newSorter(dir string, budget *diskBudget, memory, rows int64, descending bool) *sorter {
	memory = min(memory, 4<<30) // offsets have 32 bits
	s := &sorter{dir: dir, budget: budget, descending: descending}
	s.bounds = [2]int{int(max(memory/2, 2*maxSortKey)), int(max(memory/2/sortEntrySize, 16))}
	s.keys = make([]byte, 0, min(int64(s.bounds[0]), rows*32+2*maxSortKey))
	s.entries = make([]sortEntry, 0, min(int64(s.bounds[1]), rows))
	return s
}

// add takes a row; its column's value is copied.
func (s *sorter) add(value []byte, place int64) error {
	at := len(s.keys)
	s.keys = sortKey(s.keys, value)
	key := s.keys[at:]
	s.entries = append(s.entries, sortEntry{prefixOf(key), place, uint32(at), uint32(len(key))})
	if len(s.keys)+2*maxSortKey > s.bounds[0] || len(s.entries) >= s.bounds[1] {
		return s.spill()
	}
	return nil
}

// prefixOf are the first eight bytes, as a number that orders as they do.
func prefixOf(key []byte) uint64 {
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

func (s *sorter) order() {
	slices.SortFunc(s.entries, func(a, b sortEntry) int {
		by := cmp.Compare(a.prefix, b.prefix)
		if by == 0 {
			by = bytes.Compare(s.keys[a.off:a.off+a.n], s.keys[b.off:b.off+b.n])
		}
		return cmp.Or(s.turn(by), cmp.Compare(a.place, b.place))
	})
}

func (s *sorter) turn(by int) int {
	if s.descending {
		return -by
	}
	return by
}

// spill writes what is in memory as a run.
func (s *sorter) spill() error {
	s.order()
	f, err := s.tempFile()
	if err != nil {
		return err
	}
	s.runs = append(s.runs, f)
	w := bufio.NewWriterSize(f, 1<<18)
	for _, e := range s.entries {
		if err := writeEntry(w, s.keys[e.off:e.off+e.n], e.place); err != nil {
			return err
		}
	}
	s.keys, s.entries = s.keys[:0], s.entries[:0]
	return w.Flush()
}

func writeEntry(w *bufio.Writer, key []byte, place int64) error {
	var head [10]byte
	binary.LittleEndian.PutUint16(head[:], uint16(len(key)))
	binary.LittleEndian.PutUint64(head[2:], uint64(place))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(key)
	return err
}

// finish returns the file of all places in order, eight bytes each. The sorter is
// used up.
func (s *sorter) finish(ctx context.Context) (*tempFile, error) {
	if len(s.runs) > 0 {
		if err := s.spill(); err != nil {
			return nil, err
		}
		s.keys, s.entries = nil, nil
	}
	for len(s.runs) > maxRuns {
		some := s.runs[:maxRuns]
		merged, err := s.merge(ctx, some, writeEntry)
		if err != nil {
			return nil, err
		}
		s.closeRuns(maxRuns)
		s.runs = append(s.runs, merged)
	}
	if len(s.runs) > 0 {
		return s.merge(ctx, s.runs, writePlace)
	}
	return s.places()
}

func writePlace(w *bufio.Writer, _ []byte, place int64) error {
	_, err := w.Write(binary.LittleEndian.AppendUint64(w.AvailableBuffer(), uint64(place)))
	return err
}

// places writes what never left the memory.
func (s *sorter) places() (*tempFile, error) {
	s.order()
	f, err := s.tempFile()
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 1<<18)
	for _, e := range s.entries {
		if err = writePlace(w, nil, e.place); err != nil {
			break
		}
	}
	if err = errors.Join(err, w.Flush()); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// close gives back what a sort that failed has made.
func (s *sorter) close() error { return s.closeRuns(len(s.runs)) }

func (s *sorter) closeRuns(n int) (err error) {
	for _, run := range s.runs[:n] {
		err = errors.Join(err, run.close())
	}
	s.runs = slices.Clone(s.runs[n:])
	return err
}

// merge makes one file of runs.
func (s *sorter) merge(ctx context.Context, runs []*tempFile, write func(*bufio.Writer, []byte, int64) error) (*tempFile, error) {
	f, err := s.tempFile()
	if err != nil {
		return nil, err
	}
	if err := s.mergeTo(ctx, f, runs, write); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (s *sorter) mergeTo(ctx context.Context, f *tempFile, runs []*tempFile, write func(*bufio.Writer, []byte, int64) error) error {
	m := merger{turn: s.turn}
	for _, run := range runs {
		r := &runReader{r: bufio.NewReaderSize(io.NewSectionReader(run, 0, run.written), 1<<17)}
		switch err := r.next(); {
		case err == nil:
			m.runs = append(m.runs, r)
		case !errors.Is(err, io.EOF):
			return err
		}
	}
	heap.Init(&m)
	w := bufio.NewWriterSize(f, 1<<18)
	for n := 0; len(m.runs) > 0; n++ {
		if n%(1<<14) == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		first := m.runs[0]
		if err := write(w, first.key, first.place); err != nil {
			return err
		}
		switch err := first.next(); {
		case err == nil:
			heap.Fix(&m, 0)
		case errors.Is(err, io.EOF):
			heap.Pop(&m)
		default:
			return err
		}
	}
	return w.Flush()
}

// runReader goes over one run.
type runReader struct {
	r     *bufio.Reader
	key   []byte
	place int64
}

// next reads an entry; io.EOF after the last.
func (r *runReader) next() error {
	var head [10]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return err
	}
	n := int(binary.LittleEndian.Uint16(head[:]))
	r.place = int64(binary.LittleEndian.Uint64(head[2:]))
	r.key = slices.Grow(r.key[:0], n)[:n]
	if _, err := io.ReadFull(r.r, r.key); err != nil {
		return fmt.Errorf("read run: %w", io.ErrUnexpectedEOF)
	}
	return nil
}

// merger is a heap of runs by their next entries.
type merger struct {
	runs []*runReader
	turn func(int) int
}

// Len implements heap.Interface.
func (m *merger) Len() int { return len(m.runs) }

// Less implements heap.Interface.
func (m *merger) Less(i, j int) bool {
	a, b := m.runs[i], m.runs[j]
	return cmp.Or(m.turn(bytes.Compare(a.key, b.key)), cmp.Compare(a.place, b.place)) < 0
}

// Swap implements heap.Interface.
func (m *merger) Swap(i, j int) { m.runs[i], m.runs[j] = m.runs[j], m.runs[i] }

// Push implements heap.Interface; runs are only taken away.
func (m *merger) Push(x any) { m.runs = append(m.runs, x.(*runReader)) }

// Pop implements heap.Interface.
func (m *merger) Pop() any {
	last := len(m.runs) - 1
	r := m.runs[last]
	m.runs = m.runs[:last]
	return r
}
