package jsonrow

import (
	"bytes"
	"slices"
	"strings"
)

// maxColumns bounds the columns of a CSV; cells of others are counted.
const maxColumns = 4096

// Columns are those of a table, in the order in which they first came.
type Columns struct {
	Names  []string
	places map[string]int
	full   bool // a column had no room
}

// NewColumns makes a list of columns that begins with some.
func NewColumns(names []string) *Columns {
	c := &Columns{places: make(map[string]int, len(names))}
	for _, name := range names {
		c.add(name)
	}
	return c
}

func (c *Columns) add(name string) {
	if _, has := c.places[name]; has {
		return
	}
	if c.full = c.full || len(c.Names) >= maxColumns; c.full {
		return
	}
	c.places[name] = len(c.Names)
	c.Names = append(c.Names, name)
}

// Learn adds the columns of a row.
func (c *Columns) Learn(line []byte) {
	f := Of(line)
	for next := 0; ; {
		key, _, ok := f.Next()
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
func (c *Columns) place(key []byte, next int) int {
	if next < len(c.Names) && string(key) == c.Names[next] && bytes.IndexByte(key, '\\') < 0 {
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
	return Unescape(nil, key)
}

// CSV turns stored rows into lines of RFC 4180. Numbers, true and false stand as
// they are, null and what is not there as nothing, lists and objects as their JSON.
type CSV struct {
	columns *Columns
	bare    bool // no guard against formulas

	Unlisted int64    // cells of columns that are not listed
	Strange  []string // some of those columns

	Out   []byte // whole lines; who takes them sets it to Out[:0]
	value []byte
	cells [][]byte
}

// maxStrange bounds how many names of unlisted columns are told.
const maxStrange = 20

// NewCSV makes a writer whose Out begins with the line of names. With bare, texts that
// a spreadsheet would take for formulas stay as they are.
func NewCSV(c *Columns, bare bool) *CSV {
	w := &CSV{columns: c, bare: bare, cells: make([][]byte, len(c.Names))}
	for i, name := range c.Names {
		w.comma(i)
		w.text([]byte(name))
	}
	w.end()
	return w
}

// Row appends a row's line to out.
func (w *CSV) Row(line []byte) {
	clear(w.cells)
	f := Of(line)
	for next := 0; ; {
		key, value, ok := f.Next()
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

func (w *CSV) pass(key []byte) {
	w.Unlisted++
	if len(w.Strange) < maxStrange {
		if name := string(columnName(key)); !slices.Contains(w.Strange, name) {
			w.Strange = append(w.Strange, name)
		}
	}
}

func (w *CSV) comma(i int) {
	if i > 0 {
		w.Out = append(w.Out, ',')
	}
}

func (w *CSV) end() {
	if len(w.columns.Names) == 1 && (len(w.Out) == 0 || w.Out[len(w.Out)-1] == '\n') {
		w.Out = append(w.Out, '"', '"') // else an empty cell would be an empty line
	}
	w.Out = append(w.Out, '\r', '\n')
}

func (w *CSV) cell(value []byte) {
	switch {
	case value == nil || value[0] == 'n':
	case isString(value):
		w.value = Text(w.value[:0], value)
		w.text(w.value)
	case value[0] == '{' || value[0] == '[':
		w.quote(value)
	default:
		w.Out = append(w.Out, value...)
	}
}

// text appends a text. One that a spreadsheet would take for a formula begins with an
// apostrophe, unless the writer is bare.
func (w *CSV) text(value []byte) {
	if len(value) == 0 {
		return
	}
	formula := !w.bare && strings.IndexByte("=+-@\t\r", value[0]) >= 0
	if !formula && !needsQuotes(value) {
		w.Out = append(w.Out, value...)
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
	w.Out = append(w.Out, value...)
}

func needsQuotes(value []byte) bool {
	for _, b := range value {
		if b == ',' || b == '"' || b == '\r' || b == '\n' {
			return true
		}
	}
	return false
}

func (w *CSV) quote(value []byte) {
	w.Out = append(w.Out, '"')
	for {
		at := bytes.IndexByte(value, '"')
		if at < 0 {
			break
		}
		w.Out = append(append(w.Out, value[:at]...), '"', '"')
		value = value[at+1:]
	}
	w.Out = append(append(w.Out, value...), '"')
}
