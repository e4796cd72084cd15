package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"raptorpack/vql"
)

// errRow means that a stored line is not one JSON object within bounds.
var errRow = errors.New("not a JSON object")

// maxRowDepth is far above what results nest and far below what would trouble the
// stack.
const maxRowDepth = 500

// decodeRow reads a stored row: keys keep their order, whole numbers stay whole,
// texts stay texts even where they look like times.
func decodeRow(line []byte) (*vql.Dict, error) {
	v, err := decodeJSON(line)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRow, err)
	}
	row, ok := v.(*vql.Dict)
	if !ok {
		return nil, errRow
	}
	return row, nil
}

var errMore = errors.New("there is more behind it")

// decodeJSON reads one JSON value of any kind, as decodeRow reads a row.
func decodeJSON(text []byte) (vql.Value, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errMore
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxRowDepth {
		return nil, fmt.Errorf("nests deeper than %d", maxRowDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return decodeObject(d, depth)
		}
		return decodeList(d, depth)
	case json.Number:
		return number(t.String())
	case nil:
		return vql.NULL, nil
	}
	return token, nil
}

func decodeObject(d *json.Decoder, depth int) (any, error) {
	out := vql.NewDict()
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("key %v is no text", key)
		}
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		out.Set(name, v)
	}
	_, err := d.Token() // the end
	return out, err
}

func decodeList(d *json.Decoder, depth int) (any, error) {
	out := []any{}
	for d.More() {
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := d.Token() // the end
	return out, err
}

func number(text string) (any, error) {
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i, nil
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return u, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("number %.40s: %w", text, err)
	}
	return f, nil
}
