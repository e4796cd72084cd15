package endpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

const (
	// evtxBudget bounds the work on a chunk: elements, values and, for each 64
	// bytes, text. Honest chunks take some ten thousand. Templates may be used
	// again and again, so that 64 KiB could hold any amount of XML.
	evtxBudget = 1 << 20
	// maxEvtxDepth bounds elements, templates and values in each other.
	maxEvtxDepth = 64
	// maxXMLName bounds a name, in characters.
	maxXMLName = 1024
)

var (
	errEvtxBudget = errors.New("it holds more than an event log chunk can")
	errEvtxDepth  = errors.New("elements are nested too deeply")
	errEvtxShort  = errors.New("the record ends too soon")
)

// evtxChunk parses the binary XML of one chunk.
type evtxChunk struct {
	data      []byte
	budget    int
	templates map[int]*xmlTemplate // by place
}

// xmlTemplate is a template's content, or why it has none.
type xmlTemplate struct {
	items []xmlItem
	err   error
}

// xmlItem is a piece of content: one of text, element, substitution, instance.
type xmlItem struct {
	text     string
	element  *xmlElement
	instance *xmlInstance
	value    int // of a substitution, -1 for none
}

type xmlElement struct {
	name       string
	attributes []xmlAttribute
	items      []xmlItem
}

type xmlAttribute struct {
	name  string
	items []xmlItem
}

// xmlInstance is a template with values.
type xmlInstance struct {
	template *xmlTemplate
	values   []xmlValue
}

// xmlCursor reads a part of a chunk; reading past its end gives zeros and sets bad.
type xmlCursor struct {
	data    []byte // the chunk up to the end of the part
	at      int
	depends bool // elements begin with a dependency id
	bad     bool
}

var zeros [16]byte

func (c *xmlCursor) take(n int) []byte {
	if n < 0 || n > len(c.data)-c.at {
		c.bad, c.at = true, len(c.data)
		return zeros[:min(max(n, 0), len(zeros))]
	}
	c.at += n
	return c.data[c.at-n : c.at]
}

func (c *xmlCursor) u8() int  { return int(c.take(1)[0]) }
func (c *xmlCursor) u16() int { return int(binary.LittleEndian.Uint16(c.take(2))) }
func (c *xmlCursor) u32() int { return int(binary.LittleEndian.Uint32(c.take(4))) }

// text reads n characters of UTF-16.
func (c *xmlCursor) text(n int) string {
	if 2*n > len(c.data)-c.at {
		c.bad, c.at = true, len(c.data)
		return ""
	}
	return decodeUTF16(c.take(2 * n))
}

// decodeUTF16 decodes little endian text up to the zeros at its end.
func decodeUTF16(data []byte) string {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[2*i:])
	}
	for len(units) > 0 && units[len(units)-1] == 0 {
		units = units[:len(units)-1]
	}
	return string(utf16.Decode(units))
}

func (k *evtxChunk) part(from, to int, depends bool) *xmlCursor {
	to = min(max(to, 0), len(k.data))
	return &xmlCursor{data: k.data[:to], at: min(max(from, 0), to), depends: depends}
}

// spend takes from the budget.
func (k *evtxChunk) spend(n int) error {
	if k.budget -= n; k.budget < 0 {
		return errEvtxBudget
	}
	return nil
}

// The tokens of binary XML. The bit 0x40 says that more data follow.
const (
	tokenEnd = iota
	tokenOpen
	tokenCloseStart
	tokenCloseEmpty
	tokenCloseElement
	tokenText
	tokenAttribute
	tokenCDATA
	tokenCharacter
	tokenEntity
	tokenPITarget
	tokenPIData
	tokenTemplate
	tokenSubstitution
	tokenOptional
	tokenFragment
	tokenMore = 0x40
)

// items reads content up to its end.
func (k *evtxChunk) items(c *xmlCursor, depth int) ([]xmlItem, error) {
	var out []xmlItem
	for c.at < len(c.data) {
		token := c.u8()
		if token == tokenEnd {
			break
		}
		item, ok, err := k.item(c, token, depth)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, item)
		}
	}
	if c.bad {
		return nil, errEvtxShort
	}
	return out, nil
}

// item reads what a token stands for; ok is false where that is nothing.
func (k *evtxChunk) item(c *xmlCursor, token, depth int) (item xmlItem, ok bool, err error) {
	if err := k.spend(1); err != nil {
		return item, false, err
	}
	if depth > maxEvtxDepth {
		return item, false, errEvtxDepth
	}
	item.value = -1
	switch token &^ tokenMore {
	case tokenFragment:
		c.take(3) // version and flags
		return item, false, nil
	case tokenOpen:
		item.element, err = k.element(c, token&tokenMore != 0, depth+1)
	case tokenTemplate:
		item.instance, err = k.instance(c, depth+1)
	case tokenText:
		c.u8() // always a string
		item.text = c.text(c.u16())
		err = k.spend(len(item.text) / 64)
	case tokenCDATA:
		item.text = c.text(c.u16())
		err = k.spend(len(item.text) / 64)
	case tokenCharacter:
		item.text = string(rune(c.u16()))
	case tokenEntity:
		item.text, err = k.entity(c)
	case tokenSubstitution, tokenOptional:
		item.value = c.u16()
		c.u8() // the type is told again with the value
	case tokenPITarget:
		_, err = k.name(c)
		return item, false, err
	case tokenPIData:
		c.text(c.u16())
		return item, false, nil
	default:
		return item, false, fmt.Errorf("unknown token %#x", token)
	}
	if err == nil && c.bad {
		err = errEvtxShort
	}
	return item, err == nil, err
}

var xmlEntities = map[string]string{"amp": "&", "lt": "<", "gt": ">", "quot": `"`, "apos": "'"}

func (k *evtxChunk) entity(c *xmlCursor) (string, error) {
	name, err := k.name(c)
	if text, ok := xmlEntities[name]; ok {
		return text, err
	}
	return "&" + name + ";", err
}

// element reads an element whose token has been read.
func (k *evtxChunk) element(c *xmlCursor, attributes bool, depth int) (*xmlElement, error) {
	if c.depends {
		c.u16()
	}
	c.u32() // its length, which we find out
	name, err := k.name(c)
	if err != nil {
		return nil, err
	}
	if attributes {
		c.u32() // their length
	}
	e := &xmlElement{name: name}
	started := false // behind the attributes
	for {
		token := c.u8()
		if c.bad {
			return nil, errEvtxShort
		}
		switch token &^ tokenMore {
		case tokenCloseStart:
			started = true
		case tokenCloseEmpty, tokenCloseElement:
			return e, nil
		case tokenEnd:
			return nil, errEvtxShort
		case tokenAttribute:
			name, err := k.name(c)
			if err != nil {
				return nil, err
			}
			e.attributes = append(e.attributes, xmlAttribute{name: name})
		default:
			item, ok, err := k.item(c, token, depth)
			if err != nil {
				return nil, err
			}
			e.add(item, ok, started)
		}
	}
}

// add puts content into the attribute that is open, or else into the element.
func (e *xmlElement) add(item xmlItem, ok, started bool) {
	switch {
	case !ok:
	case !started && len(e.attributes) > 0:
		a := &e.attributes[len(e.attributes)-1]
		a.items = append(a.items, item)
	default:
		e.items = append(e.items, item)
	}
}

// name reads a name, which stands here or elsewhere in the chunk.
func (k *evtxChunk) name(c *xmlCursor) (string, error) {
	place := c.u32()
	from := c
	if place != c.at {
		from = k.part(place, len(k.data), false)
	}
	from.take(6) // the next name of its hash, and the hash
	n := from.u16()
	if n > maxXMLName {
		return "", fmt.Errorf("a name of %d characters", n)
	}
	name := from.text(n)
	from.take(2) // a final zero
	if from.bad || c.bad {
		return "", errEvtxShort
	}
	return name, k.spend(1 + n/32)
}

// instance reads a template's number, where it stands, and its values.
func (k *evtxChunk) instance(c *xmlCursor, depth int) (*xmlInstance, error) {
	c.take(5) // a constant and the template's number
	place := c.u32()
	here := place == c.at
	template, end := k.template(place, depth)
	if here {
		c.take(end - c.at)
	}
	if template.err != nil {
		return nil, template.err
	}
	count := c.u32()
	if c.bad || count > (len(c.data)-c.at)/4 {
		return nil, errEvtxShort
	}
	type kind struct{ size, kind int }
	kinds := make([]kind, count)
	for i := range kinds {
		kinds[i] = kind{c.u16(), c.u8()}
		c.u8()
	}
	values := make([]xmlValue, count)
	for i, v := range kinds {
		from := c.at
		if c.take(v.size); c.bad {
			return nil, errEvtxShort
		}
		values[i] = xmlValue{kind: v.kind, from: from, to: c.at}
	}
	return &xmlInstance{template, values}, k.spend(count)
}

// template reads the template at a place, once, and tells where it ends.
func (k *evtxChunk) template(place, depth int) (*xmlTemplate, int) {
	head := k.part(place, len(k.data), false)
	head.take(20) // the next one of its hash, and its GUID
	size := head.u32()
	if head.bad || size > len(k.data)-head.at {
		return &xmlTemplate{err: errEvtxShort}, head.at
	}
	end := head.at + size
	if t, ok := k.templates[place]; ok {
		return t, end
	}
	t := &xmlTemplate{err: errEvtxDepth} // for one that holds itself
	k.templates[place] = t
	t.items, t.err = k.items(k.part(head.at, end, true), depth)
	return t, end
}
