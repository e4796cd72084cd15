package vql

import "www.velocidex.com/golang/vfilter/types"

// sizeSample is how many elements of a long array are measured.
const sizeSample = 64

// payload is what an interface value takes beside itself.
func payload(v any) int64 {
	switch t := v.(type) {
	case nil, bool, types.Null:
		return 0
	case int64, int, uint64, float64:
		return 8
	case string:
		return 16 + int64(len(t))
	}
	return sizeOf(v)
}

// sizeOf estimates the bytes a value takes in memory.
func sizeOf(v any) int64 { return sizeAt(v, 0) }

func sizeAt(v any, depth int) int64 {
	const word = 16
	if depth > maxCodecDepth {
		return word
	}
	switch t := v.(type) {
	case string:
		return word + int64(len(t))
	case []byte:
		return word + int64(len(t))
	case *record:
		total := int64(0)
		for _, v := range t.values {
			total += word + payload(v)
		}
		return total
	case *Dict:
		total := int64(200)
		for _, item := range t.Items() {
			total += int64(len(item.Key)) + 100 + sizeAt(item.Value, depth+1)
		}
		return total
	case []any:
		total := int64(24)
		for _, item := range t[:min(len(t), sizeSample)] {
			total += word + sizeAt(item, depth+1)
		}
		if len(t) > sizeSample {
			total = total / sizeSample * int64(len(t))
		}
		return total
	case []string:
		total := int64(24)
		for _, item := range t {
			total += word + int64(len(item))
		}
		return total
	case nil, bool, int64, int, uint64, float64, types.Null:
		return word
	}
	return 128
}
