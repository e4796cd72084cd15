package hunts

import "math"

// maxBuckets bounds a timeline. When it is full, the buckets become twice as wide.
const maxBuckets = 360

// Bucket is how the sizes of the sets changed in some minutes. Adding up the buckets
// from the beginning gives the sizes at each time, at the end the present ones.
type Bucket struct {
	Minute int64       // of the ledger's time, since 1970
	Change [sets]int32 // by Set
}

// timeline is a hunt's curve: buckets in order of time, without the empty ones. All
// of it follows from the entries, also when it is made coarser.
type timeline struct {
	width   int64 // minutes of a bucket
	buckets []Bucket
}

// add notes that a set changed in a minute. The ledger's time never goes back.
func (t *timeline) add(minute int64, s Set, n int32) {
	begin := minute - minute%t.width
	last := len(t.buckets) - 1
	if last >= 0 && t.buckets[last].Minute >= begin {
		t.buckets[last].Change[s] += n
		return
	}
	t.buckets = append(t.buckets, Bucket{Minute: begin})
	t.buckets[last+1].Change[s] = n
	if len(t.buckets) > maxBuckets {
		t.widen()
	}
}

// widen merges buckets until half of them would do.
func (t *timeline) widen() {
	for len(t.buckets) > maxBuckets/2 && t.width < math.MaxInt32 {
		t.width *= 2
		merged := t.buckets[:0]
		for _, b := range t.buckets {
			b.Minute -= b.Minute % t.width
			if n := len(merged); n > 0 && merged[n-1].Minute == b.Minute {
				for s, change := range b.Change {
					merged[n-1].Change[s] += change
				}
				continue
			}
			merged = append(merged, b)
		}
		t.buckets = merged
	}
}
