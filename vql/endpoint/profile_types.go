package endpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf16"

	"raptorpack/vql"
)

const (
	// defaultStringLength is how far a string without a length is searched for its
	// terminator.
	defaultStringLength = 1024
	maxStringLength     = 16 << 20

	// maxArray bounds arrays whatever max_count says.
	maxArray = 10_000_000
)

func sortedStrings(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return out
}

// nothing stands for a type that could not be compiled.
type nothing struct{}

func (nothing) read(*binaryStruct, int64) vql.Value { return vql.NULL }
func (nothing) size(*binaryStruct, int64) int64     { return 0 }

// fixedType is a value of so many bytes.
type fixedType struct {
	width  int64
	decode func([]byte) vql.Value
}

func (t fixedType) read(owner *binaryStruct, at int64) vql.Value {
	data := owner.from.bytes(at, t.width)
	if int64(len(data)) < t.width {
		return vql.NULL
	}
	return t.decode(data)
}

func (t fixedType) size(*binaryStruct, int64) int64 { return t.width }

var (
	little = binary.LittleEndian
	big    = binary.BigEndian
)

// plainTypes are the types without options.
var plainTypes = func() map[string]binaryType {
	m := map[string]binaryType{
		"uint8":     fixedType{1, func(b []byte) vql.Value { return uint64(b[0]) }},
		"uint16":    fixedType{2, func(b []byte) vql.Value { return uint64(little.Uint16(b)) }},
		"uint32":    fixedType{4, func(b []byte) vql.Value { return uint64(little.Uint32(b)) }},
		"uint64":    fixedType{8, func(b []byte) vql.Value { return little.Uint64(b) }},
		"int8":      fixedType{1, func(b []byte) vql.Value { return int64(int8(b[0])) }},
		"int16":     fixedType{2, func(b []byte) vql.Value { return int64(int16(little.Uint16(b))) }},
		"int32":     fixedType{4, func(b []byte) vql.Value { return int64(int32(little.Uint32(b))) }},
		"int64":     fixedType{8, func(b []byte) vql.Value { return int64(little.Uint64(b)) }},
		"uint16b":   fixedType{2, func(b []byte) vql.Value { return uint64(big.Uint16(b)) }},
		"uint32b":   fixedType{4, func(b []byte) vql.Value { return uint64(big.Uint32(b)) }},
		"uint64b":   fixedType{8, func(b []byte) vql.Value { return big.Uint64(b) }},
		"int16b":    fixedType{2, func(b []byte) vql.Value { return int64(int16(big.Uint16(b))) }},
		"int32b":    fixedType{4, func(b []byte) vql.Value { return int64(int32(big.Uint32(b))) }},
		"int64b":    fixedType{8, func(b []byte) vql.Value { return int64(big.Uint64(b)) }},
		"float32":   fixedType{4, func(b []byte) vql.Value { return float64(math.Float32frombits(little.Uint32(b))) }},
		"float64":   fixedType{8, func(b []byte) vql.Value { return math.Float64frombits(little.Uint64(b)) }},
		"float32be": fixedType{4, func(b []byte) vql.Value { return float64(math.Float32frombits(big.Uint32(b))) }},
		"float64be": fixedType{8, func(b []byte) vql.Value { return math.Float64frombits(big.Uint64(b)) }},
		"leb128":    leb128{},
		"sleb128":   leb128{signed: true},
		"char":      fixedType{1, func(b []byte) vql.Value { return string(b) }},
	}
	for name, same := range map[string]string{
		"uint8b": "uint8", "int8b": "int8", "byte": "uint8", "int": "int32",
		"uint16be": "uint16b", "uint32be": "uint32b", "uint64be": "uint64b",
		"int16be": "int16b", "int32be": "int32b", "int64be": "int64b",
		"short int": "int16", "unsigned char": "uint8", "unsigned short": "uint16",
		"unsigned int": "uint32", "unsigned long": "uint32", "unsigned long long": "uint64",
	} {
		m[name] = m[same]
	}
	return m
}()

// leb128 is a number of seven bits a byte, the last one without the high bit.
type leb128 struct{ signed bool }

func (t leb128) decode(owner *binaryStruct, at int64) (value uint64, width int64, ok bool) {
	shift := uint(0)
	for _, b := range owner.from.bytes(at, 10) {
		width++
		value |= uint64(b&0x7f) << shift
		shift += 7
		if b&0x80 != 0 {
			continue
		}
		if t.signed && b&0x40 != 0 && shift < 64 {
			value |= math.MaxUint64 << shift
		}
		return value, width, true
	}
	return 0, width, false
}

func (t leb128) read(owner *binaryStruct, at int64) vql.Value {
	value, _, ok := t.decode(owner, at)
	switch {
	case !ok:
		return vql.NULL
	case t.signed:
		return int64(value)
	}
	return value
}

func (t leb128) size(owner *binaryStruct, at int64) int64 {
	_, width, _ := t.decode(owner, at)
	return width
}

// stringType is text up to a terminator or a length.
type stringType struct {
	length     number
	maximum    int64
	term       string
	termLambda vql.Lambda
	wide       bool
	bytes      bool
}

// find reads the text and tells how many bytes it takes with its terminator.
func (t *stringType) find(owner *binaryStruct, at int64) (text []byte, width int64) {
	data := owner.from.bytes(at, min(max(t.length.of(owner), 0), t.maximum))
	term := t.term
	if t.termLambda.Given() {
		term = fmt.Sprint(owner.call(t.termLambda))
	}
	mark, stride := []byte(term), 1
	if t.wide {
		mark, stride = encodeWide(term), 2
	}
	if len(mark) == 0 {
		return data, int64(len(data))
	}
	for i := 0; ; {
		j := bytes.Index(data[i:], mark)
		if j < 0 {
			return data, int64(len(data))
		}
		if i += j; i%stride == 0 {
			return data[:i], int64(i + len(mark))
		}
		i++
	}
}

func (t *stringType) read(owner *binaryStruct, at int64) vql.Value {
	text, _ := t.find(owner, at)
	if t.wide {
		text = []byte(decodeWide(text))
	}
	if t.bytes {
		return text
	}
	return string(text)
}

func (t *stringType) size(owner *binaryStruct, at int64) int64 {
	_, width := t.find(owner, at)
	return width
}

func encodeWide(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = little.AppendUint16(out, u)
	}
	return out
}

func decodeWide(data []byte) string {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = little.Uint16(data[2*i:])
	}
	return string(utf16.Decode(units))
}

// arrayType is elements one after the other.
type arrayType struct {
	element  binaryType
	count    number
	maximum  int64
	sentinel vql.Lambda
}

// each reads the elements; it ends early at the sentinel, at an element without a
// size and when the query has to stop. It returns the bytes they take.
func (t *arrayType) each(owner *binaryStruct, at int64, add func(vql.Value)) int64 {
	count := min(t.count.of(owner), t.maximum, maxArray)
	place := at
	for i := int64(0); i < count; i++ {
		if owner.from.scope.Charge(owner.from.ctx) != nil {
			break
		}
		v := t.element.read(owner, place)
		if t.sentinel.Given() && owner.from.scope.Truth(owner.call(t.sentinel, v)) {
			break
		}
		width := t.element.size(owner, place)
		if s, ok := structOf(v); ok {
			width = s.size()
		}
		if width <= 0 || place > math.MaxInt64-width {
			break
		}
		add(v)
		place += width
	}
	return place - at
}

func (t *arrayType) read(owner *binaryStruct, at int64) vql.Value {
	out := []vql.Value{}
	t.each(owner, at, func(v vql.Value) { out = append(out, v) })
	return out
}

func (t *arrayType) size(owner *binaryStruct, at int64) int64 {
	return t.each(owner, at, func(vql.Value) {})
}

// bitField is some bits of a number.
type bitField struct {
	inner      binaryType
	start, end int64
}

func (t *bitField) read(owner *binaryStruct, at int64) vql.Value {
	n, ok := asInt(t.inner.read(owner, at))
	if !ok {
		return vql.NULL
	}
	bits := uint64(n) >> uint64(t.start)
	if width := t.end - t.start; width < 64 {
		bits &= 1<<uint64(width) - 1
	}
	return int64(bits)
}

func (t *bitField) size(owner *binaryStruct, at int64) int64 { return t.inner.size(owner, at) }

// enumeration is a number with a name; unknown ones stay numbers.
type enumeration struct {
	inner binaryType
	names map[int64]string
}

func (t *enumeration) read(owner *binaryStruct, at int64) vql.Value {
	n, ok := asInt(t.inner.read(owner, at))
	if !ok {
		return vql.NULL
	}
	if name, ok := t.names[n]; ok {
		return name
	}
	return n
}

func (t *enumeration) size(owner *binaryStruct, at int64) int64 { return t.inner.size(owner, at) }

// flags is a number whose bits have names.
type flags struct {
	inner binaryType
	names []string
	masks []uint64
}

func (t *flags) read(owner *binaryStruct, at int64) vql.Value {
	out := []vql.Value{}
	n, ok := asInt(t.inner.read(owner, at))
	if !ok {
		return out
	}
	for i, mask := range t.masks {
		if uint64(n)&mask != 0 {
			out = append(out, t.names[i])
		}
	}
	return out
}

func (t *flags) size(owner *binaryStruct, at int64) int64 { return t.inner.size(owner, at) }

// pointerType is eight bytes that say where in the file the target is.
type pointerType struct{ target binaryType }

func (t *pointerType) read(owner *binaryStruct, at int64) vql.Value {
	data := owner.from.bytes(at, 8)
	if len(data) < 8 {
		return vql.NULL
	}
	return t.target.read(owner, int64(little.Uint64(data)))
}

func (*pointerType) size(*binaryStruct, int64) int64 { return 8 }

// placedType is a value at a place of the file that a lambda gives.
type placedType struct {
	target binaryType
	offset number
}

func (t *placedType) read(owner *binaryStruct, _ int64) vql.Value {
	return t.target.read(owner, t.offset.of(owner))
}

func (t *placedType) size(owner *binaryStruct, _ int64) int64 {
	return t.target.size(owner, t.offset.of(owner))
}

// union is one of several types.
type union struct {
	selector vql.Lambda
	choices  map[string]binaryType
}

func (t *union) choose(owner *binaryStruct) binaryType {
	v := owner.call(t.selector)
	if vql.IsNull(v) {
		return nothing{}
	}
	if chosen, ok := t.choices[fmt.Sprint(v)]; ok {
		return chosen
	}
	if chosen, ok := t.choices["default"]; ok {
		return chosen
	}
	return nothing{}
}

func (t *union) read(owner *binaryStruct, at int64) vql.Value { return t.choose(owner).read(owner, at) }

func (t *union) size(owner *binaryStruct, at int64) int64 { return t.choose(owner).size(owner, at) }

// valueType is computed, not read.
type valueType struct {
	lambda   vql.Lambda
	constant vql.Value
}

func (t *valueType) read(owner *binaryStruct, _ int64) vql.Value {
	if t.lambda.Given() {
		return owner.call(t.lambda)
	}
	return t.constant
}

func (*valueType) size(*binaryStruct, int64) int64 { return 0 }

// timeType is a number that counts time.
type timeType struct {
	kind   string
	inner  binaryType
	factor int64
}

// windowsEpoch is the seconds from 1601, where Windows counts from, to 1970.
const windowsEpoch = 11_644_473_600

func (t *timeType) read(owner *binaryStruct, at int64) vql.Value {
	n, ok := asInt(t.inner.read(owner, at))
	if !ok {
		return vql.NULL
	}
	var out time.Time
	switch t.kind {
	case "WinFileTime":
		n /= t.factor
		out = time.Unix(n/10_000_000-windowsEpoch, n%10_000_000*100).UTC()
	case "FatTimestamp":
		out = fatTime(n)
	default:
		out = time.Unix(n/t.factor, n%t.factor*int64(time.Second)/max(t.factor, 1)).UTC()
	}
	if out.Year() < 0 || out.Year() > 9999 { // cannot be printed
		return vql.NULL
	}
	return out
}

// fatTime reads a date and a time of FAT, as DosDateTimeToFileTime describes them.
func fatTime(n int64) time.Time {
	date, clock := n&0xffff, n>>16&0xffff
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31),
		int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}

func (t *timeType) size(owner *binaryStruct, at int64) int64 { return t.inner.size(owner, at) }

// structType is a structure of the profile.
type structType struct{ def *structDef }

func (t structType) read(owner *binaryStruct, at int64) vql.Value {
	return wrapStruct(newStruct(owner.from, t.def, at, owner))
}

func (t structType) size(owner *binaryStruct, at int64) int64 {
	return newStruct(owner.from, t.def, at, owner).size()
}
