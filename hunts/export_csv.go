package hunts

import (
	"bytes"
	"slices"
	"strings"
)

// maxColumns bounds the columns of a CSV; cells of others are counted.
const maxColumns = 4096

// columns are those of a table, in the order in which they first came.
type columns struct {
	names  []string
	places map[string]int
	full   bool // a column had no room
}

func newColumns(names []string) *columns {
	c := &columns{places: make(map[string]int, len(names))}
	for _, name := range names {
		c.add(name)
	}
	return c
}

func (c *columns) add(name string) {
	if _, has := c.places[name]; has {
		return
	}
	if c.full = c.full || len(c.names) >= maxColumns; c.full {
		return
	}
	c.places[name] = len(c.names)
	c.names = append(c.names, name)
}

// learn adds the columns of a row.
func (c *columns) learn(line []byte) {
	f := fieldsOf(line)
	for next := 0; ; {
		key, _, ok := f.next()
		if !ok {
			return
		}
		if at := c.place(key, next); at >= 0 {
			next = at + 1
			continue
		}
		c.add(string(columnName(key)))
	}
}

// place finds a stored key, -1 if it is none of the columns. Keys mostly come in the
// order of the columns, so the one after the last is looked at first.
func (c *columns) place(key []byte, next int) int {
	if next < len(c.names) && string(key) == c.names[next] && bytes.IndexByte(key, '\\') < 0 {
		return next
	}
	if at, ok := c.places[string(columnName(key))]; ok {
		return at
	}
	return -1
}

func columnName(key []byte) []byte {
	if bytes.IndexByte(key, '\\') < 0 {
		return key
	}
	return unescape(nil, key)
}

// csvWriter turns stored rows into lines of RFC 4180. Numbers, true and false stand as
// they are, null and what is not there as nothing, lists and objects as their JSON.
type csvWriter struct {
	columns *columns
	bare    bool // no guard against formulas

	unlisted int64    // cells of columns that are not listed
	strange  []string // some of those columns

	out, value []byte
	cells      [][]byte
}

// maxStrange bounds how many names of unlisted columns are told.
const maxStrange = 20

func newCSVWriter(c *columns, bare bool) *csvWriter {
	w := &csvWriter{columns: c, bare: bare, cells: make([][]byte, len(c.names))}
	for i, name := range c.names {
		w.comma(i)
		w.text([]byte(name))
	}
	w.end()
	return w
}

// row appends a row's line to out.
func (w *csvWriter) row(line []byte) {
	clear(w.cells)
	f := fieldsOf(line)
	for next := 0; ; {
		key, value, ok := f.next()
		if !ok {
			break
		}
		at := w.columns.place(key, next)
		if at < 0 {
			w.pass(key)
			continue
		}
		if next = at + 1; w.cells[at] == nil { // of several the first counts
			w.cells[at] = value
		}
	}
	for i, value := range w.cells {
		w.comma(i)
		w.cell(value)
	}
	w.end()
}

func (w *csvWriter) pass(key []byte) {
	w.unlisted++
	if len(w.strange) < maxStrange {
		if name := string(columnName(key)); !slices.Contains(w.strange, name) {
			w.strange = append(w.strange, name)
		}
	}
}

func (w *csvWriter) comma(i int) {
	if i > 0 {
		w.out = append(w.out, ',')
	}
}

func (w *csvWriter) end() {
	if len(w.columns.names) == 1 && (len(w.out) == 0 || w.out[len(w.out)-1] == '\n') {
		w.out = append(w.out, '"', '"') // else an empty cell would be an empty line
	}
	w.out = append(w.out, '\r', '\n')
}

func (w *csvWriter) cell(value []byte) {
	switch {
	case value == nil || value[0] == 'n':
	case isString(value):
		w.value = text(w.value[:0], value)
		w.text(w.value)
	case value[0] == '{' || value[0] == '[':
		w.quote(value)
	default:
		w.out = append(w.out, value...)
	}
}

// text appends a text. One that a spreadsheet would take for a formula begins with an
// apostrophe, unless the writer is bare.
func (w *csvWriter) text(value []byte) {
	if len(value) == 0 {
		return
	}
	formula := !w.bare && strings.IndexByte("=+-@\t\r", value[0]) >= 0
	if !formula && !needsQuotes(value) {
		w.out = append(w.out, value...)
		return
	}
	if formula {
		w.value = append([]byte{'\''}, value...)
		value = w.value
	}
	if needsQuotes(value) {
		w.quote(value)
		return
	}
	w.out = append(w.out, value...)
}

func needsQuotes(value []byte) bool {
	for _, b := range value {
		if b == ',' || b == '"' || b == '\r' || b == '\n' {
			return true
		}
	}
	return false
}

func (w *csvWriter) quote(value []byte) {
	w.out = append(w.out, '"')
	for {
		at := bytes.IndexByte(value, '"')
		if at < 0 {
			break
		}
		w.out = append(append(w.out, value[:at]...), '"', '"')
		value = value[at+1:]
	}
	w.out = append(append(w.out, value...), '"')
}
