package hunts

import (
	"encoding/binary"
	"math"
	"strconv"

	"raptorpack/internal/jsonrow"
)

// Sort keys are bytes that order as the values do.
const (
	keyNull byte = iota
	keyFalse
	keyTrue
	keyNumber
	keyText
	keyNested
)

// maxSortKey is how much of a text or nested value counts.
const maxSortKey = 1 << 10

// sortKey appends the key of a column's value; nil is a row without that column.
func sortKey(dst, value []byte) []byte {
	if len(value) == 0 {
		return append(dst, keyNull)
	}
	switch value[0] {
	case 'n':
		return append(dst, keyNull)
	case 'f':
		return append(dst, keyFalse)
	case 't':
		return append(dst, keyTrue)
	case '"':
		return shortKey(dst, jsonrow.Text(append(dst, keyText), value))
	case '{', '[':
		return shortKey(dst, append(append(dst, keyNested), value...))
	}
	return numberKey(append(dst, keyNumber), value)
}

// shortKey cuts a key that begins behind dst.
func shortKey(dst, key []byte) []byte { return key[:min(len(key), len(dst)+1+maxSortKey)] }

// numberKey appends a number: the nearest float64, so that its bytes order, and how
// far a whole number lies from that, since beyond 2^53 several share one.
func numberKey(dst, value []byte) []byte {
	number, err := strconv.ParseFloat(string(value), 64)
	if err != nil && !math.IsInf(number, 0) { // no JSON, but a place among numbers all the same
		number = 0
	}
	bits := math.Float64bits(number + 0) // -0 is 0
	if bits>>63 != 0 {
		bits = ^bits
	} else {
		bits |= 1 << 63
	}
	dst = binary.BigEndian.AppendUint64(dst, bits)
	return binary.BigEndian.AppendUint16(dst, uint16(rounded(value, number)+1<<15))
}

// rounded returns how much a whole number of at most 64 bits exceeds its float64.
// That may be 2^64, which is 0 here as there.
func rounded(value []byte, number float64) int64 {
	digits, negative := value, value[0] == '-'
	if negative {
		digits = digits[1:]
	}
	whole, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil || whole < 1<<53 {
		return 0
	}
	nearest := uint64(0)
	if number = math.Abs(number); number < 1<<64 {
		nearest = uint64(number)
	}
	off := int64(whole - nearest)
	if negative {
		return -off
	}
	return off
}
