package endpoint

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"raptorpack/vql"
)

// xmlValue is a value of a template's instance: its type and where it lies.
type xmlValue struct{ kind, from, to int }

const (
	xmlArray  = 0x80 // with this bit, a list of the type
	xmlNested = 0x21 // binary XML
)

var errNoEvent = errors.New("the record holds no event")

// event parses a record's XML into a row.
func (k *evtxChunk) event(from, to int) (*vql.Dict, error) {
	items, err := k.items(k.part(from, to, true), 0)
	if err != nil {
		return nil, err
	}
	v, err := k.content(items, nil, 0)
	if err != nil {
		return nil, err
	}
	fragment, _ := v.(*vql.Dict)
	if fragment == nil {
		return nil, errNoEvent
	}
	found, _ := fragment.Get("Event")
	event, ok := found.(*vql.Dict)
	if !ok {
		return nil, errNoEvent
	}
	return eventRow(event), nil
}

// eventRow gives each event the columns that queries ask for.
func eventRow(event *vql.Dict) *vql.Dict {
	row := vql.NewDict()
	for _, name := range []string{"System", "EventData", "UserData"} {
		if v, ok := event.Get(name); ok {
			row.Set(name, v)
		} else {
			row.Set(name, vql.NULL)
		}
	}
	for _, name := range event.Keys() {
		if _, ok := row.Get(name); !ok {
			v, _ := event.Get(name)
			row.Set(name, v)
		}
	}
	row.Set("Message", "")
	return row
}

// content is what items are together: elements make a dict, anything alone is
// itself, and pieces of text are joined. nil is nothing.
func (k *evtxChunk) content(items []xmlItem, values []xmlValue, depth int) (vql.Value, error) {
	if depth > maxEvtxDepth {
		return nil, errEvtxDepth
	}
	var elements *vql.Dict
	var texts []vql.Value
	for _, item := range items {
		v, err := k.piece(item, values, depth)
		if err != nil {
			return nil, err
		}
		inner, isElements := v.(*vql.Dict)
		switch {
		case v == nil:
		case !isElements:
			texts = append(texts, v)
		case elements == nil:
			elements = inner
		default:
			merge(elements, inner)
		}
	}
	text := joined(texts)
	if elements == nil {
		return text, nil
	}
	addField(elements, "Value", text)
	return elements, nil
}

// merge adds the elements of one dict to another.
func merge(d, more *vql.Dict) {
	for _, name := range more.Keys() {
		v, _ := more.Get(name)
		addField(d, name, v)
	}
}

// piece is the value of one item; an element is a dict of one key, so that a
// *vql.Dict is always made of elements.
func (k *evtxChunk) piece(item xmlItem, values []xmlValue, depth int) (vql.Value, error) {
	if item.element == nil {
		return k.simple(item, values, depth)
	}
	v, err := k.render(item.element, values, depth+1)
	if err != nil || v == nil {
		return nil, err
	}
	d := vql.NewDict()
	d.Set(item.element.name, v)
	return d, nil
}

// simple is the value of anything but an element.
func (k *evtxChunk) simple(item xmlItem, values []xmlValue, depth int) (vql.Value, error) {
	if err := k.spend(1 + len(item.text)/64); err != nil {
		return nil, err
	}
	switch {
	case item.instance != nil:
		return k.content(item.instance.template.items, item.instance.values, depth+1)
	case item.value < 0:
		return item.text, nil
	case item.value >= len(values):
		return nil, nil
	}
	return k.value(values[item.value], depth)
}

func joined(parts []vql.Value) vql.Value {
	switch len(parts) {
	case 0:
		return nil
	case 1:
		return parts[0]
	}
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprint(&b, p)
	}
	return b.String()
}

// addField sets a key; what has several values is a list. Nothing is left out.
func addField(d *vql.Dict, name string, v vql.Value) {
	if v == nil {
		return
	}
	before, ok := d.Get(name)
	if !ok {
		d.Set(name, v)
		return
	}
	if list, ok := before.(*evtxList); ok {
		list.values = append(list.values, v)
		return
	}
	d.Update(name, &evtxList{[]vql.Value{before, v}})
}

// evtxList gathers the values of a repeated element. It is apart from values that
// are lists by themselves.
type evtxList struct{ values []vql.Value }

// plain turns gathered lists into lists.
func plain(d *vql.Dict) *vql.Dict {
	for _, name := range d.Keys() {
		v, _ := d.Get(name)
		if list, ok := v.(*evtxList); ok {
			d.Update(name, list.values)
		}
	}
	return d
}

// render is an element as a dict of its attributes, elements and text, or as its
// text where it has nothing else.
func (k *evtxChunk) render(e *xmlElement, values []xmlValue, depth int) (vql.Value, error) {
	if err := k.spend(1); err != nil {
		return nil, err
	}
	d := vql.NewDict()
	for _, a := range e.attributes {
		if a.name == "xmlns" {
			continue
		}
		v, err := k.content(a.items, values, depth)
		if err != nil {
			return nil, err
		}
		addField(d, a.name, v)
	}
	if e.name == "EventData" && e.isNamedData() {
		return plain(d), k.namedData(d, e, values, depth)
	}
	inner, err := k.content(e.items, values, depth)
	if err != nil {
		return nil, err
	}
	if elements, ok := inner.(*vql.Dict); ok {
		merge(d, elements)
		return plain(d), nil
	}
	if !e.hasAttributes() && e.name != "EventID" {
		return inner, nil
	}
	addField(d, "Value", inner)
	return plain(d), nil
}

func (e *xmlElement) hasAttributes() bool {
	for _, a := range e.attributes {
		if a.name != "xmlns" {
			return true
		}
	}
	return false
}

// isNamedData reports whether all there is are elements <Data Name="...">.
func (e *xmlElement) isNamedData() bool {
	for _, item := range e.items {
		if item.element == nil || item.element.name != "Data" || len(item.element.attributes) != 1 || item.element.attributes[0].name != "Name" {
			return false
		}
	}
	return len(e.items) > 0
}

// namedData sets the data of an event by their names; a datum that has no value is
// NULL, because the message counts them.
func (k *evtxChunk) namedData(d *vql.Dict, e *xmlElement, values []xmlValue, depth int) error {
	for _, item := range e.items {
		name, err := k.content(item.element.attributes[0].items, values, depth)
		if err != nil {
			return err
		}
		v, err := k.content(item.element.items, values, depth)
		if err != nil {
			return err
		}
		if v == nil {
			v = vql.NULL
		}
		addField(d, fmt.Sprint(name), v)
		if err := k.spend(1); err != nil {
			return err
		}
	}
	plain(d)
	return nil
}

// value decodes a value; nil is none.
func (k *evtxChunk) value(v xmlValue, depth int) (vql.Value, error) {
	data := k.data[v.from:v.to]
	if err := k.spend(1 + len(data)/64); err != nil {
		return nil, err
	}
	switch {
	case v.kind == xmlNested:
		items, err := k.items(k.part(v.from, v.to, false), depth+1)
		if err != nil {
			return nil, err
		}
		return k.content(items, nil, depth+1)
	case v.kind == xmlArray|0x01:
		return splitUTF16(data), nil
	case v.kind&xmlArray != 0:
		return arrayValue(v.kind&^xmlArray, data), nil
	}
	return scalarValue(v.kind, data), nil
}

// splitUTF16 is a list of texts that each end in a zero.
func splitUTF16(data []byte) []vql.Value {
	out := []vql.Value{}
	text := decodeUTF16(data)
	if text == "" {
		return out
	}
	for part := range strings.SplitSeq(text, "\x00") {
		out = append(out, part)
	}
	return out
}

// fixedSizes are the lengths of the types that arrays are made of.
var fixedSizes = map[int]int{
	0x03: 1, 0x04: 1, 0x05: 2, 0x06: 2, 0x07: 4, 0x08: 4, 0x09: 8, 0x0a: 8, 0x0b: 4, 0x0c: 8, 0x0d: 4,
	0x0f: 16, 0x11: 8, 0x12: 16, 0x14: 4, 0x15: 8,
}

func arrayValue(kind int, data []byte) vql.Value {
	size, ok := fixedSizes[kind]
	if !ok {
		return strings.ToUpper(hex.EncodeToString(data))
	}
	out := []vql.Value{}
	for len(data) >= size {
		out = append(out, scalarValue(kind, data[:size]))
		data = data[size:]
	}
	return out
}

// scalarValue decodes one value. Numbers that do not have the length of their type,
// and types that we do not know, are shown as hex.
func scalarValue(kind int, data []byte) vql.Value {
	if size, ok := fixedSizes[kind]; ok && len(data) != size {
		return strings.ToUpper(hex.EncodeToString(data))
	}
	le := binary.LittleEndian
	switch kind {
	case 0x00:
		return nil
	case 0x01:
		return decodeUTF16(data)
	case 0x02, 0x27, 0x28:
		return strings.TrimRight(string(data), "\x00")
	case 0x03:
		return int64(int8(data[0]))
	case 0x04:
		return int64(data[0])
	case 0x05:
		return int64(int16(le.Uint16(data)))
	case 0x06:
		return int64(le.Uint16(data))
	case 0x07:
		return int64(int32(le.Uint32(data)))
	case 0x08, 0x14:
		return int64(le.Uint32(data))
	case 0x09:
		return int64(le.Uint64(data))
	case 0x0a, 0x15:
		return le.Uint64(data)
	case 0x0b:
		return float64(math.Float32frombits(le.Uint32(data)))
	case 0x0c:
		return math.Float64frombits(le.Uint64(data))
	case 0x0d:
		return le.Uint32(data) != 0
	case 0x0f:
		return guidText(data)
	case 0x10:
		return pointerValue(data)
	case 0x11:
		return filetimeSeconds(le.Uint64(data))
	case 0x12:
		return systemTime(data)
	case 0x13:
		return sidText(data)
	}
	return strings.ToUpper(hex.EncodeToString(data))
}

func pointerValue(data []byte) vql.Value {
	switch len(data) {
	case 4:
		return int64(binary.LittleEndian.Uint32(data))
	case 8:
		return binary.LittleEndian.Uint64(data)
	}
	return strings.ToUpper(hex.EncodeToString(data))
}

func guidText(data []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", le.Uint32(data), le.Uint16(data[4:]), le.Uint16(data[6:]), data[8:10], data[10:])
}

// filetimeSeconds turns 100 ns since 1601 into seconds since 1970.
func filetimeSeconds(t uint64) float64 { return (float64(t) - 116444736e9) / 1e7 }

func systemTime(data []byte) time.Time {
	field := func(i int) int { return int(binary.LittleEndian.Uint16(data[2*i:])) }
	return time.Date(field(0), time.Month(field(1)), field(3), field(4), field(5), field(6), field(7)*1e6, time.UTC)
}

// sidText prints a security identifier.
func sidText(data []byte) string {
	if len(data) < 8 || len(data) != 8+4*int(data[1]) {
		return strings.ToUpper(hex.EncodeToString(data))
	}
	authority := uint64(0)
	for _, b := range data[2:8] {
		authority = authority<<8 | uint64(b)
	}
	text := fmt.Sprintf("S-%d-%d", data[0], authority)
	for at := 8; at < len(data); at += 4 {
		text += fmt.Sprintf("-%d", binary.LittleEndian.Uint32(data[at:]))
	}
	return text
}
