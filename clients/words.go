package clients

import (
	"iter"
	"math/bits"
	"slices"
)

// segmentSize is how many clients the index takes together: as many as 16 bits
// number with two to spare, and sets of them fit into the processor's first cache.
const segmentSize = 1 << 14

// words is a set of clients of one segment, a bit each.
type words [segmentSize / 64]uint64

func (w *words) add(i int) { w[i/64] |= 1 << (i % 64) }

func (w *words) remove(i int) { w[i/64] &^= 1 << (i % 64) }

func (w *words) has(i int) bool { return w[i/64]&(1<<(i%64)) != 0 }

func (w *words) or(other *words) {
	for i := range w {
		w[i] |= other[i]
	}
}

func (w *words) and(other *words) {
	for i := range w {
		w[i] &= other[i]
	}
}

func (w *words) andNot(other *words) {
	for i := range w {
		w[i] &^= other[i]
	}
}

func (w *words) count() int {
	n := 0
	for _, word := range w {
		n += bits.OnesCount64(word)
	}
	return n
}

func (w *words) empty() bool { return *w == words{} }

// all yields the members in ascending order.
func (w *words) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, word := range w {
			for ; word != 0; word &= word - 1 {
				if !yield(i*64 + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

// set is a set of clients of one segment: few as a sorted list, many as bits. A
// set that readers may have is never changed; stamp tells whose it is.
type set struct {
	few   []uint16
	many  *words
	n     int
	stamp uint32
}

// mostFew is where a list takes as much memory as bits.
const mostFew = segmentSize / 16

// own returns the set to be changed by the holder of stamp.
func (s *set) own(stamp uint32) *set {
	if s.stamp == stamp {
		return s
	}
	mine := &set{few: slices.Clone(s.few), n: s.n, stamp: stamp}
	if s.many != nil {
		many := *s.many
		mine.many = &many
	}
	return mine
}

func (s *set) add(i int) {
	if s.many != nil {
		if !s.many.has(i) {
			s.many.add(i)
			s.n++
		}
		return
	}
	at, found := slices.BinarySearch(s.few, uint16(i))
	if found {
		return
	}
	if s.n++; s.n > mostFew {
		s.many = &words{}
		s.addTo(s.many)
		s.many.add(i)
		s.few = nil
		return
	}
	s.few = slices.Insert(s.few, at, uint16(i))
}

func (s *set) remove(i int) {
	if s.many != nil {
		if s.many.has(i) {
			s.many.remove(i)
			s.n--
		}
	} else if at, found := slices.BinarySearch(s.few, uint16(i)); found {
		s.few = slices.Delete(s.few, at, at+1)
		s.n--
	}
}

// addTo adds the members to w.
func (s *set) addTo(w *words) {
	if s.many != nil {
		w.or(s.many)
		return
	}
	for _, i := range s.few {
		w.add(int(i))
	}
}
