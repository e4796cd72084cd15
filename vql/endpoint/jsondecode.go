package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"raptorpack/vql"
)

// errJSON means that the text is not JSON or nests deeper than maxJSONDepth.
var errJSON = errors.New("bad JSON")

// maxJSONDepth is far above what real documents nest and far below what would
// trouble the stack.
const maxJSONDepth = 500

// decodeJSON reads one JSON document, keeping the order of keys. Whole numbers
// become int64, or uint64 when they do not fit, others float64.
func decodeJSON(data []byte) (any, error) {
	if !json.Valid(data) {
		return nil, fmt.Errorf("%w: %w", errJSON, jsonSyntax(data))
	}
	d := jsonDecoder{data: data}
	return d.value(0)
}

// jsonSyntax asks the standard decoder what is wrong with data.
func jsonSyntax(data []byte) error {
	var v any
	err := json.Unmarshal(data, &v)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%s at offset %d", syntax.Error(), syntax.Offset)
	}
	return err
}

// A jsonDecoder walks a document that json.Valid has accepted.
type jsonDecoder struct {
	data []byte
	at   int
}

func (d *jsonDecoder) blank() {
	for d.at < len(d.data) {
		switch d.data[d.at] {
		case ' ', '\t', '\r', '\n':
			d.at++
		default:
			return
		}
	}
}

func (d *jsonDecoder) value(depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("%w: nests deeper than %d", errJSON, maxJSONDepth)
	}
	d.blank()
	switch d.data[d.at] {
	case '{':
		return d.object(depth)
	case '[':
		return d.array(depth)
	case '"':
		return d.text()
	case 't':
		d.at += len("true")
		return true, nil
	case 'f':
		d.at += len("false")
		return false, nil
	case 'n':
		d.at += len("null")
		return nil, nil
	}
	return d.number(), nil
}

func (d *jsonDecoder) object(depth int) (any, error) {
	out := vql.NewDict()
	d.at++
	for {
		d.blank()
		switch d.data[d.at] {
		case '}':
			d.at++
			return out, nil
		case ',':
			d.at++
			d.blank()
		}
		key, err := d.text()
		if err != nil {
			return nil, err
		}
		d.blank()
		d.at++ // the colon
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out.Set(key, v)
	}
}

func (d *jsonDecoder) array(depth int) (any, error) {
	out := []any{}
	d.at++
	for {
		d.blank()
		switch d.data[d.at] {
		case ']':
			d.at++
			return out, nil
		case ',':
			d.at++
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
}

func (d *jsonDecoder) text() (string, error) {
	start := d.at
	escaped := false
	for d.at++; d.data[d.at] != '"'; d.at++ {
		if d.data[d.at] == '\\' {
			escaped = true
			d.at++
		}
	}
	d.at++
	raw := d.data[start:d.at]
	if !escaped {
		return string(bytes.ToValidUTF8(raw[1:len(raw)-1], []byte("\ufffd"))), nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

func (d *jsonDecoder) number() any {
	start := d.at
	whole := true
	for d.at < len(d.data) {
		c := d.data[d.at]
		if c == '.' || c == 'e' || c == 'E' {
			whole = false
		} else if c != '-' && c != '+' && (c < '0' || c > '9') {
			break
		}
		d.at++
	}
	s := string(d.data[start:d.at])
	if whole {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		if n, err := strconv.ParseUint(s, 10, 64); err == nil {
			return n
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil { // out of range: the nearest we have
		return s
	}
	return f
}
