package vql

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

// errCodec means that a temporary file does not hold what was written.
var errCodec = errors.New("temporary file is damaged")

// Tags of the binary form of values. It lives in temporary files only and has no
// version.
const (
	tagNull = iota
	tagFalse
	tagTrue
	tagInt
	tagUint
	tagFloat
	tagString
	tagBytes
	tagTime
	tagDict
	tagList
	tagStrings
	tagPath
	tagObject
	tagInt8
	tagInt16
	tagInt32
	tagGoInt
	tagUint8
	tagUint16
	tagUint32
	tagNilList
)

// encoder appends values in binary.
type encoder struct {
	scope *Scope // evaluates members of host objects
	dst   []byte
}

func (e *encoder) uvarint(n uint64) { e.dst = binary.AppendUvarint(e.dst, n) }

func (e *encoder) text(tag byte, s string) {
	e.dst = append(e.dst, tag)
	e.raw(s)
}

func (e *encoder) raw(s string) {
	e.uvarint(uint64(len(s)))
	e.dst = append(e.dst, s...)
}

func (e *encoder) integer(tag byte, n int64) {
	e.dst = binary.AppendVarint(append(e.dst, tag), n)
}

// maxCodecDepth bounds recursion; deeper values are NULL.
const maxCodecDepth = 200

func (e *encoder) value(v any, depth int) {
	if depth > maxCodecDepth {
		v = nil
	}
	switch t := v.(type) {
	case nil, types.Null, *types.Null:
		e.dst = append(e.dst, tagNull)
	case bool:
		e.dst = append(e.dst, tagFalse)
		if t {
			e.dst[len(e.dst)-1] = tagTrue
		}
	case int64:
		e.integer(tagInt, t)
	case int:
		e.integer(tagGoInt, int64(t))
	case int32:
		e.integer(tagInt32, int64(t))
	case int16:
		e.integer(tagInt16, int64(t))
	case int8:
		e.integer(tagInt8, int64(t))
	case uint64:
		e.dst = append(e.dst, tagUint)
		e.uvarint(t)
	case uint32:
		e.integer(tagUint32, int64(t))
	case uint16:
		e.integer(tagUint16, int64(t))
	case uint8:
		e.integer(tagUint8, int64(t))
	case float64:
		e.dst = binary.LittleEndian.AppendUint64(append(e.dst, tagFloat), math.Float64bits(t))
	case string:
		e.text(tagString, t)
	case []byte:
		e.text(tagBytes, string(t))
	case time.Time:
		e.time(t)
	case *Dict:
		e.dict(t, depth)
	case *record:
		e.record(t, depth)
	case []any:
		e.list(t, depth)
	case []string:
		e.dst = append(e.dst, tagStrings)
		e.uvarint(uint64(len(t)))
		for _, s := range t {
			e.raw(s)
		}
	case *Path:
		e.path(t)
	case *spilledObject:
		e.text(tagObject, string(t.json))
		e.raw(t.text)
		e.dict(t.members, depth)
	default:
		e.other(v, depth)
	}
}

func (e *encoder) time(t time.Time) {
	b, err := t.MarshalBinary()
	if err != nil { // an offset with odd seconds: keep the instant
		b, _ = t.UTC().MarshalBinary()
	}
	e.text(tagTime, string(b))
}

func (e *encoder) dict(d *Dict, depth int) {
	items := d.Items()
	e.dst = append(e.dst, tagDict)
	e.uvarint(uint64(len(items)))
	for _, item := range items {
		e.raw(item.Key)
		e.value(item.Value, depth+1)
	}
}

// record is written as a dict is.
func (e *encoder) record(r *record, depth int) {
	e.dst = append(e.dst, tagDict)
	e.uvarint(uint64(len(r.names)))
	for i, name := range r.names {
		e.raw(name)
		e.value(r.values[i], depth+1)
	}
}

func (e *encoder) list(list []any, depth int) {
	if list == nil {
		e.dst = append(e.dst, tagNilList)
		return
	}
	e.dst = append(e.dst, tagList)
	e.uvarint(uint64(len(list)))
	for _, item := range list {
		e.value(item, depth+1)
	}
}

func (e *encoder) path(p *Path) {
	e.text(tagPath, p.syntax.Name())
	e.uvarint(uint64(len(p.parts)))
	for _, part := range p.parts {
		e.raw(part)
	}
	e.raw(p.accessor)
	e.raw(p.DelegatePath())
}

// other encodes lazy values by what they evaluate to, typed slices as arrays and
// host objects as what queries and output see of them.
func (e *encoder) other(v any, depth int) {
	scope := e.scope
	real := v
	if mayBeLazy(v) {
		real = scope.Real(scope.session.context(), v)
	}
	if mayBeLazy(real) || reflect.TypeOf(real) != reflect.TypeOf(v) {
		if _, stuck := real.(types.LazyRow); stuck {
			real = nil
		}
		e.value(real, depth+1)
		return
	}
	if _, ok := asSlice(v); ok {
		e.list(argList(v), depth)
		return
	}
	if p, changed := plain(v); changed {
		e.value(p, depth+1)
		return
	}
	e.object(v, depth)
}

func (e *encoder) object(v any, depth int) {
	members := NewDict()
	if depth < maxDepth {
		for _, name := range e.scope.Members(v) {
			if m, ok := e.scope.Member(v, name); ok {
				members.Set(name, m)
			}
		}
	}
	e.text(tagObject, string(AppendJSON(nil, v)))
	e.raw(fmt.Sprintf("%v", v))
	e.dict(members, maxDepth)
}

// decoder reads values in binary.
type decoder struct {
	src []byte
	err error
}

func (d *decoder) fail() any {
	d.err, d.src = errCodec, nil
	return NULL
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.src)
	if size <= 0 {
		d.fail()
		return 0
	}
	d.src = d.src[size:]
	return n
}

func (d *decoder) varint() int64 {
	n, size := binary.Varint(d.src)
	if size <= 0 {
		d.fail()
		return 0
	}
	d.src = d.src[size:]
	return n
}

func (d *decoder) raw() string {
	n := d.uvarint()
	if n > uint64(len(d.src)) {
		d.fail()
		return ""
	}
	s := string(d.src[:n])
	d.src = d.src[n:]
	return s
}

// count reads a number of items, each of which takes a byte at least.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.src)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) value(depth int) any {
	if len(d.src) == 0 || depth > maxCodecDepth+20 {
		return d.fail()
	}
	tag := d.src[0]
	d.src = d.src[1:]
	switch tag {
	case tagNull:
		return NULL
	case tagFalse, tagTrue:
		return tag == tagTrue
	case tagUint:
		return d.uvarint()
	case tagFloat:
		if len(d.src) < 8 {
			return d.fail()
		}
		bits := binary.LittleEndian.Uint64(d.src)
		d.src = d.src[8:]
		return math.Float64frombits(bits)
	case tagString:
		return d.raw()
	case tagBytes:
		return []byte(d.raw())
	case tagDict:
		return d.dict(depth)
	case tagList, tagNilList, tagStrings:
		return d.list(tag, depth)
	}
	return d.rest(tag, depth)
}

func (d *decoder) rest(tag byte, depth int) any {
	switch tag {
	case tagTime:
		var t time.Time
		if t.UnmarshalBinary([]byte(d.raw())) != nil {
			return d.fail()
		}
		return t
	case tagPath:
		return d.path()
	case tagObject:
		o := &spilledObject{json: json.RawMessage(d.raw()), text: d.raw()}
		members, ok := d.value(depth + 1).(*Dict)
		if !ok {
			return d.fail()
		}
		o.members = members
		return o
	case tagInt:
		return d.varint()
	case tagGoInt:
		return int(d.varint())
	case tagInt8:
		return int8(d.varint())
	case tagInt16:
		return int16(d.varint())
	case tagInt32:
		return int32(d.varint())
	case tagUint8:
		return uint8(d.varint())
	case tagUint16:
		return uint16(d.varint())
	case tagUint32:
		return uint32(d.varint())
	}
	return d.fail()
}

func (d *decoder) dict(depth int) *Dict {
	out := NewDict()
	for n := d.count(); n > 0 && d.err == nil; n-- {
		key := d.raw()
		out.Set(key, d.value(depth+1))
	}
	return out
}

// record reads a record. Its names are the given ones when they are the same.
func (d *decoder) record(names []string) record {
	if len(d.src) == 0 || d.src[0] != tagDict {
		d.fail()
		return record{}
	}
	d.src = d.src[1:]
	n := d.count()
	own := len(names) != n
	r := record{names: names, values: make([]Value, 0, n)}
	if own {
		r.names = make([]string, 0, n)
	}
	for i := range n {
		size := d.count()
		name := d.src[:size]
		d.src = d.src[size:]
		if !own && r.names[i] != string(name) {
			r.names, own = slices.Clone(names[:i]), true
		}
		if own {
			r.names = append(r.names, string(name))
		}
		r.values = append(r.values, d.value(1))
		if d.err != nil {
			break
		}
	}
	return r
}

func (d *decoder) list(tag byte, depth int) any {
	if tag == tagNilList {
		return []any(nil)
	}
	n := d.count()
	if tag == tagStrings {
		out := make([]string, 0, n)
		for ; n > 0 && d.err == nil; n-- {
			out = append(out, d.raw())
		}
		return out
	}
	out := make([]any, 0, n)
	for ; n > 0 && d.err == nil; n-- {
		out = append(out, d.value(depth+1))
	}
	return out
}

func (d *decoder) path() any {
	name := d.raw()
	syntax, ok := SyntaxByName(name)
	if !ok {
		syntax = PathGeneric
	}
	p := &Path{syntax: syntax}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		p.parts = append(p.parts, d.raw())
	}
	p.accessor, p.text = d.raw(), d.raw()
	return p
}

// spilledObject is what is left of a host object after it was in a temporary
// file: its members, its JSON and its text.
type spilledObject struct {
	json    json.RawMessage
	text    string
	members *Dict
}

// MarshalJSON gives the JSON the object had.
func (o *spilledObject) MarshalJSON() ([]byte, error) { return o.json, nil }

// String gives the text the object had.
func (o *spilledObject) String() string { return o.text }

// AddColumn implements the engine's lazy row, by which it finds members; it takes
// no columns.
func (o *spilledObject) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return o
}

// Has reports whether the object had a member.
func (o *spilledObject) Has(name string) bool { _, ok := o.members.Get(name); return ok }

// Columns lists the object's members.
func (o *spilledObject) Columns() []string { return o.members.Keys() }

// Get returns a member.
func (o *spilledObject) Get(name string) (types.Any, bool) {
	if v, ok := o.members.Get(name); ok {
		return v, true
	}
	return NULL, false
}
