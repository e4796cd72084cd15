package filestore

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Interval is the half-open range [Start, End) of rows or bytes.
type Interval struct{ Start, End int64 }

// Len is the number of rows or bytes, never negative.
func (i Interval) Len() int64 { return max(0, i.End-i.Start) }

// Intervals is a set of numbers as sorted, non-empty ranges that neither touch
// nor overlap. The zero value is empty. It is not safe for concurrent writing.
type Intervals []Interval

// Add puts [start, end) in. An empty range changes nothing.
func (s *Intervals) Add(start, end int64) {
	if end <= start {
		return
	}
	v := *s
	if n := len(v); n == 0 || v[n-1].End < start { // rows mostly come in order
		*s = append(v, Interval{start, end})
		return
	}
	// first: the first range that touches or follows; last: the first beyond.
	first, _ := slices.BinarySearchFunc(v, start, func(i Interval, at int64) int { return cmp.Compare(i.End, at) })
	last := first
	for last < len(v) && v[last].Start <= end {
		last++
	}
	if first < last {
		start, end = min(start, v[first].Start), max(end, v[last-1].End)
	}
	*s = slices.Replace(v, first, last, Interval{start, end})
}

// Union puts all of t in.
func (s *Intervals) Union(t Intervals) {
	for _, i := range t {
		s.Add(i.Start, i.End)
	}
}

// Len is the count of numbers in the set.
func (s Intervals) Len() int64 {
	var n int64
	for _, i := range s {
		n += i.Len()
	}
	return n
}

// Has reports whether all of [start, end) is in the set; an empty range is.
func (s Intervals) Has(start, end int64) bool {
	if end <= start {
		return true
	}
	at, _ := slices.BinarySearchFunc(s, start, func(i Interval, at int64) int { return cmp.Compare(i.End, at+1) })
	return at < len(s) && s[at].Start <= start && end <= s[at].End
}

// Contiguous reports whether the set is exactly [0, n). It holds for the empty
// set and 0.
func (s Intervals) Contiguous(n int64) bool {
	if n == 0 {
		return len(s) == 0
	}
	return len(s) == 1 && s[0] == Interval{0, n}
}

// Holes returns what of [0, n) is not in the set.
func (s Intervals) Holes(n int64) Intervals { return s.Missing(0, n) }

// Missing returns what of [start, end) is not in the set.
func (s Intervals) Missing(start, end int64) Intervals {
	var out Intervals
	at, _ := slices.BinarySearchFunc(s, start, func(i Interval, at int64) int { return cmp.Compare(i.End, at) })
	for _, i := range s[at:] {
		if i.Start >= end {
			break
		}
		if start < i.Start {
			out = append(out, Interval{start, i.Start})
		}
		start = max(start, i.End)
	}
	if start < end {
		out = append(out, Interval{start, end})
	}
	return out
}

// Clone returns a copy that shares nothing.
func (s Intervals) Clone() Intervals { return slices.Clone(s) }

// String prints the ranges as "0-99 200-299", ends included.
func (s Intervals) String() string {
	parts := make([]string, len(s))
	for k, i := range s {
		parts[k] = fmt.Sprintf("%d-%d", i.Start, i.End-1)
	}
	return strings.Join(parts, " ")
}
