package endpoint

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"raptorpack/vql"
)

// errXML means that a document nests too deep or has no element.
var errXML = errors.New("bad XML")

const (
	maxXMLDepth = 1000
	maxXMLSize  = 64 << 20
	maxXMLNodes = 1 << 20 // elements and attributes: each takes some hundred bytes
)

type parseXMLArgs struct {
	File     *vql.Path `vql:"file,required" doc:"The file to parse."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
}

var parseXMLFunction = vql.NewFunction(vql.Spec{
	Name: "parse_xml", Permission: "FILESYSTEM_READ",
	Doc: "Parses an XML document into nested dicts: attributes have the prefix Attr, text beside them is #text.",
}, func(ctx context.Context, scope *vql.Scope, args *parseXMLArgs) (vql.Value, error) {
	data, err := readAt(ctx, scope, args.Accessor, args.File, 0, maxXMLSize+1)
	if err != nil {
		return nil, err
	}
	if len(data) > maxXMLSize {
		return nil, fmt.Errorf("%w: more than %d bytes", errXML, maxXMLSize)
	}
	return decodeXML(ctx, scope, data)
})

// decodeXML forgives what the standard decoder can forgive: unknown entities and
// elements that are not closed.
func decodeXML(ctx context.Context, scope *vql.Scope, data []byte) (*vql.Dict, error) {
	d := xml.NewDecoder(bytes.NewReader(utf8Text(data)))
	d.Strict = false
	d.CharsetReader = charset
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: no element", errXML)
		}
		if err != nil {
			return nil, err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		v, err := (&xmlDecoder{Decoder: d, ctx: ctx, scope: scope}).element(start, 0)
		if err != nil {
			return nil, err
		}
		out := vql.NewDict()
		out.Set(start.Name.Local, v)
		return out, nil
	}
}

// xmlDecoder makes values of elements and counts them.
type xmlDecoder struct {
	*xml.Decoder
	ctx      context.Context // of the call, for whose time it lives
	scope    *vql.Scope
	nodes    int
	elements int
}

// count charges an op for every thousand elements.
func (d *xmlDecoder) count(start xml.StartElement) error {
	if d.nodes += 1 + len(start.Attr); d.nodes > maxXMLNodes {
		return fmt.Errorf("%w: more than %d elements and attributes", errXML, maxXMLNodes)
	}
	if d.elements++; d.elements%1000 == 0 {
		return d.scope.Charge(d.ctx)
	}
	return nil
}

// element gives the value of an element: its text alone, or a dict.
func (d *xmlDecoder) element(start xml.StartElement, depth int) (any, error) {
	if depth > maxXMLDepth {
		return nil, fmt.Errorf("%w: nests deeper than %d", errXML, maxXMLDepth)
	}
	if err := d.count(start); err != nil {
		return nil, err
	}
	out := vql.NewDict()
	for _, a := range start.Attr {
		out.Set("Attr"+a.Name.Local, a.Value)
	}
	var text strings.Builder
	for {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			v, err := d.element(t, depth+1)
			if err != nil {
				return nil, err
			}
			addElement(out, t.Name.Local, v)
		case xml.CharData:
			text.Write(t)
		case xml.EndElement:
			content := strings.TrimSpace(text.String())
			if out.Len() == 0 {
				return content, nil
			}
			if content != "" {
				out.Set("#text", content)
			}
			return out, nil
		}
	}
}

// xmlList holds elements of one name, apart from lists that are values.
type xmlList = []any

// addElement adds a child; the second of a name makes a list.
func addElement(d *vql.Dict, name string, v any) {
	have, ok := d.Get(name)
	if !ok {
		d.Set(name, v)
		return
	}
	list, ok := have.(xmlList)
	if !ok {
		list = xmlList{have}
	}
	d.Update(name, append(list, v))
}

// utf8Text turns UTF-16 text, as Windows writes it, into UTF-8.
func utf8Text(data []byte) []byte {
	if len(data) < 4 {
		return data
	}
	big := data[0] == 0xfe && data[1] == 0xff
	if !big && (data[0] != 0xff || data[1] != 0xfe) {
		return bytes.TrimPrefix(data, []byte("\ufeff"))
	}
	units := make([]uint16, 0, len(data)/2)
	for i := 2; i+1 < len(data); i += 2 {
		lo, hi := data[i], data[i+1]
		if big {
			lo, hi = hi, lo
		}
		units = append(units, uint16(lo)|uint16(hi)<<8)
	}
	return []byte(string(utf16.Decode(units)))
}

// charset reads what a document says about its encoding. UTF-16 has been turned
// before; other encodings of bytes are read as Latin-1, which keeps every byte.
func charset(label string, input io.Reader) (io.Reader, error) {
	label = strings.ToLower(label)
	if strings.HasPrefix(label, "utf") || label == "us-ascii" {
		return input, nil
	}
	data, err := io.ReadAll(io.LimitReader(input, maxXMLSize))
	if err != nil {
		return nil, err
	}
	text := make([]rune, len(data))
	for i, b := range data {
		text[i] = rune(b)
	}
	return strings.NewReader(string(text)), nil
}
