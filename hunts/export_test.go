package hunts

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/RoaringBitmap/roaring/v2"

	"raptorpack/internal/jsonrow"
)

// TextOf writes ordinals as a snapshot has them.
func TextOf(ordinals []uint32) string { return textOf(roaring.BitmapOf(ordinals...)) }

// SetOfText reads what TextOf wrote; nil for none.
func SetOfText(text string) ([]uint32, error) {
	set, err := setOfText(text)
	if err != nil || set.IsEmpty() {
		return nil, err
	}
	return set.ToArray(), nil
}

// Column finds a column of a row.
var Column = jsonrow.Column

// Text is a value as people read it.
func Text(value []byte) string { return string(jsonrow.Text(nil, value)) }

// SortKey is the key of a value.
func SortKey(value string) []byte { return sortKey(nil, []byte(value)) }

// SortNumbers sorts the places of numbers by these within so much memory.
func SortNumbers(dir string, memory int64, rows []int, descending bool) ([]int64, error) {
	s := newSorter(dir, &diskBudget{limit: 1 << 30}, memory, int64(len(rows)), descending)
	defer s.close()
	for i, n := range rows {
		if err := s.add([]byte(fmt.Sprint(n)), int64(i)); err != nil {
			return nil, err
		}
	}
	f, err := s.finish(context.Background())
	if err != nil {
		return nil, err
	}
	defer f.close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, f.written))
	out := make([]int64, len(data)/placeSize)
	for i := range out {
		out[i] = int64(binary.LittleEndian.Uint64(data[i*placeSize:]))
	}
	return out, err
}

// ScratchBytes is how much the temporary files of sorts take.
func (r *Results) ScratchBytes() int64 { return r.disk.used.Load() }

// Sorts counts the sorts that are known.
func (r *Results) Sorts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.jobs)
}

// CSVOf is a row as a file of its own.
func CSVOf(line []byte, bare bool) string {
	c := jsonrow.NewColumns(nil)
	c.Learn(line)
	w := jsonrow.NewCSV(c, bare)
	w.Row(line)
	return string(w.Out)
}
