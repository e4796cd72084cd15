package filestore_test

import (
	"testing"

	"pgregory.net/rapid"

	"raptorpack/filestore"
)

// Intervals must say the same as a plain set of numbers.
func TestIntervalsMatchASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 40
		var got filestore.Intervals
		model := map[int64]bool{}
		for range rapid.IntRange(0, 12).Draw(t, "adds") {
			start := rapid.Int64Range(0, limit-1).Draw(t, "start")
			end := rapid.Int64Range(0, limit).Draw(t, "end")
			got.Add(start, end)
			for n := start; n < end; n++ {
				model[n] = true
			}
		}
		if got.Len() != int64(len(model)) {
			t.Fatalf("%s has %d numbers, want %d", got, got.Len(), len(model))
		}
		for i := range got {
			if got[i].Len() == 0 || i > 0 && got[i-1].End >= got[i].Start {
				t.Fatalf("%v is not canonical", got)
			}
		}
		from := rapid.Int64Range(0, limit).Draw(t, "from")
		to := rapid.Int64Range(0, limit).Draw(t, "to")
		missing := map[int64]bool{}
		for _, hole := range got.Missing(from, to) {
			for n := hole.Start; n < hole.End; n++ {
				missing[n] = true
			}
		}
		all := true
		for n := from; n < to; n++ {
			all = all && model[n]
			if missing[n] == model[n] {
				t.Fatalf("%d of %s: missing %v", n, got, missing[n])
			}
		}
		if got.Has(from, to) != all {
			t.Fatalf("%s has [%d,%d): %v", got, from, to, !all)
		}
	})
}

func TestIntervalsContiguous(t *testing.T) {
	var s filestore.Intervals
	if !s.Contiguous(0) || s.Contiguous(1) {
		t.Error("the empty set is [0,0) and no other")
	}
	s.Add(0, 5)
	s.Add(5, 9)
	if !s.Contiguous(9) || s.Contiguous(8) || s.String() != "0-8" {
		t.Errorf("got %s", s)
	}
	s.Add(11, 12)
	if s.Contiguous(12) || s.Holes(12).String() != "9-10" {
		t.Errorf("got %s with holes %s", s, s.Holes(12))
	}
}
