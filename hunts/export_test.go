package hunts

import "github.com/RoaringBitmap/roaring/v2"

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
var Column = column

// Text is a value as people read it.
func Text(value []byte) string { return string(text(nil, value)) }
