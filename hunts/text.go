package hunts

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
)

// maxOrdinal bounds what a text may make us keep: 67 million clients of an org.
const maxOrdinal = 1<<26 - 1

// Sets are written as text, so that the same set is the same bytes whatever library
// keeps it: runs, each with the gap before it and how many follow its first one.
// "0+2,2" is 0, 1, 2, 5; "7" is 7 alone.

func textOf(set *roaring.Bitmap) string {
	var b strings.Builder
	var scratch [24]byte
	next := uint64(0)
	for first, end := range set.Ranges() { // end excluded
		begin := uint64(first)
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		out := strconv.AppendUint(scratch[:0], begin-next, 10)
		if end-begin > 1 {
			out = strconv.AppendUint(append(out, '+'), end-begin-1, 10)
		}
		b.Write(out)
		next = end
	}
	return b.String()
}

func setOfText(text string) (*roaring.Bitmap, error) {
	set := roaring.New()
	if text == "" {
		return set, nil
	}
	next := uint64(0)
	for run := range strings.SplitSeq(text, ",") {
		gap, more, long := strings.Cut(run, "+")
		skip, err := number(gap)
		if err != nil {
			return nil, err
		}
		follow := uint64(0)
		if long {
			if follow, err = number(more); err != nil {
				return nil, err
			}
		}
		begin := next + skip
		if next = begin + follow + 1; next > maxOrdinal+1 {
			return nil, fmt.Errorf("clients beyond %d: %w", maxOrdinal, ErrInvalid)
		}
		set.AddRange(begin, next)
	}
	return set, nil
}

func number(digits string) (uint64, error) {
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%.20q in a set: %w", digits, ErrInvalid)
	}
	return n, nil
}
