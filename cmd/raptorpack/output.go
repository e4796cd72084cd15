package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/tidwall/gjson"
	"golang.org/x/term"
)

// column is one column of a table or CSV file: a heading and where its value
// lies in a row's JSON.
type column struct{ title, path string }

// cell is a value of the column for people: times, whose paths end in _ns, as 1.5s.
// CSV keeps the number.
func (c column) cell(v gjson.Result) string {
	if !strings.HasSuffix(c.path, "_ns") || v.Type != gjson.Number {
		return cell(v)
	}
	return processorTime(v.Int())
}

// processorTime prints nanoseconds for people, to three digits or so.
func processorTime(ns int64) string {
	d := time.Duration(ns)
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.String()
}

// printer writes rows in the form that the operator asked for. Rows go out as
// they come; tables and CSV look at the first hundred to know their columns.
type printer struct {
	format string
	out    *bufio.Writer
	width  int // of the terminal; 0: not one
	colour bool
	note   func(format string, args ...any)

	terminal bool // somebody looks on

	mu      sync.Mutex
	columns []column // fixed, or found
	fixed   bool
	held    [][]byte // rows that wait for the columns
	rows    int64
	open    bool // json: the bracket is out; table, csv: the heading is
	lost    map[string]bool
	err     error
}

const lookAhead = 100

// printer makes a printer; columns may be nil when the rows bring their own.
func (g *globals) printer(c *cobra.Command, columns ...column) (*printer, error) {
	p := &printer{out: bufio.NewWriterSize(c.OutOrStdout(), 32<<10), columns: columns, fixed: columns != nil, note: g.noter(c), lost: map[string]bool{}}
	file, ok := c.OutOrStdout().(*os.File)
	p.terminal = ok && term.IsTerminal(int(file.Fd()))
	if p.terminal {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil {
			p.width = width
		}
		_, plain := os.LookupEnv("NO_COLOR")
		p.colour = !plain
	}
	switch p.format = g.format; p.format {
	case "table", "json", "jsonl", "csv":
	case "":
		p.format = "jsonl"
		if p.terminal {
			p.format = "table"
		}
	default:
		return nil, fmt.Errorf("--format %q: expected table, json, jsonl or csv: %w", g.format, errUsage)
	}
	return p, nil
}

// noter prints what is not a result, on standard error.
func (g *globals) noter(c *cobra.Command) func(string, ...any) {
	return func(format string, args ...any) {
		if !g.quiet {
			fmt.Fprintln(c.ErrOrStderr(), harmlessLines(fmt.Sprintf(format, args...)))
		}
	}
}

// row takes one JSON object.
func (p *printer) row(line []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	p.rows++
	switch p.format {
	case "jsonl":
		p.write(compacted(line), []byte{'\n'})
	case "json":
		start := ",\n"
		if !p.open {
			start, p.open = "[\n", true
		}
		p.write([]byte(start), compacted(line))
	default:
		p.held = append(p.held, slices.Clone(line))
		if len(p.held) >= lookAhead || p.format == "csv" && p.open {
			p.release()
		}
	}
	return p.err
}

// value takes one Go value as a row.
func (p *printer) value(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode row: %w", err)
	}
	return p.row(line)
}

// flush puts out what is held back, for readers who look on.
func (p *printer) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.held) > 0 {
		p.release()
	}
	if p.err == nil {
		p.err = p.out.Flush()
	}
	return p.err
}

// close ends the output.
func (p *printer) close() error {
	p.mu.Lock()
	if p.format == "json" && p.err == nil {
		if !p.open {
			p.write([]byte("["))
		}
		p.write([]byte("\n]\n"))
	}
	if p.fixed && !p.open && (p.format == "table" || p.format == "csv") {
		p.release()
	}
	p.mu.Unlock()
	err := p.flush()
	if len(p.lost) > 0 {
		names := make([]string, 0, len(p.lost))
		for name := range p.lost {
			names = append(names, name)
		}
		slices.Sort(names)
		p.note("note: later rows have further columns, not shown in this format: %s (jsonl shows all)", strings.Join(names, ", "))
	}
	return err
}

// section begins another result: tables and CSV get a heading of their own.
func (p *printer) section(name string) error {
	if err := p.flush(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.format != "table" && p.format != "csv" {
		return nil
	}
	if p.open {
		p.write([]byte{'\n'})
	}
	if p.format == "table" {
		p.write([]byte(harmless(name)), []byte{'\n'})
	}
	p.open, p.columns = false, nil
	return p.err
}

// tagged puts the name of a result into a row, where results are told apart by it.
func (p *printer) tagged(name string, line []byte) []byte {
	if p.format == "table" || p.format == "csv" || gjson.GetBytes(line, "_Source").Exists() {
		return line
	}
	text, err := json.Marshal(name)
	body := bytes.TrimSpace(line)
	if err != nil || len(body) < 2 || body[0] != '{' {
		return line
	}
	out := append([]byte(`{"_Source":`), text...)
	if rest := bytes.TrimSpace(body[1:]); rest[0] != '}' {
		out = append(out, ',')
	}
	return append(out, body[1:]...)
}

func (p *printer) write(parts ...[]byte) {
	for _, part := range parts {
		if p.err == nil {
			_, p.err = p.out.Write(part)
		}
	}
}

// release prints the held rows, knowing the columns by now.
func (p *printer) release() {
	rows := p.held
	p.held = nil
	if p.columns == nil {
		found := &columnSet{}
		for _, line := range rows {
			found.add(line)
		}
		p.columns = found.list
	}
	cells := make([][]gjson.Result, len(rows))
	for i, line := range rows {
		cells[i] = p.cells(line)
	}
	if p.format == "csv" {
		p.csv(cells)
		return
	}
	p.table(cells)
}

// cells picks a row's values, and notes columns that nobody will see.
func (p *printer) cells(line []byte) []gjson.Result {
	out := make([]gjson.Result, len(p.columns))
	if p.fixed {
		for i, c := range p.columns {
			out[i] = gjson.GetBytes(line, c.path)
		}
		return out
	}
	gjson.ParseBytes(line).ForEach(func(key, value gjson.Result) bool {
		at := slices.IndexFunc(p.columns, func(c column) bool { return c.title == key.String() })
		if at >= 0 {
			out[at] = value
		} else if len(p.lost) < 100 {
			p.lost[key.String()] = true
		}
		return true
	})
	return out
}

// columnSet unites the keys of rows in the order in which they come.
type columnSet struct {
	list  []column
	known map[string]bool
}

func (s *columnSet) add(line []byte) {
	if s.known == nil {
		s.known = map[string]bool{}
	}
	gjson.ParseBytes(line).ForEach(func(key, _ gjson.Result) bool {
		if name := key.String(); !s.known[name] {
			s.known[name] = true
			s.list = append(s.list, column{title: name})
		}
		return true
	})
}

// compacted is the row on one line.
func compacted(line []byte) []byte {
	if bytes.IndexByte(line, '\n') < 0 {
		return line
	}
	var out bytes.Buffer
	if json.Compact(&out, line) != nil {
		return bytes.ReplaceAll(line, []byte{'\n'}, []byte{' '})
	}
	return out.Bytes()
}

// text is a value as a cell shows it: strings plain, all else as JSON.
func text(v gjson.Result) string {
	switch v.Type {
	case gjson.Null:
		return ""
	case gjson.String:
		return v.String()
	}
	return v.Raw
}

// cell is a value in a table: lists of plain values without their brackets.
func cell(v gjson.Result) string {
	if !v.IsArray() || strings.ContainsAny(v.Raw[1:], "{[") {
		return text(v)
	}
	var parts []string
	v.ForEach(func(_, item gjson.Result) bool {
		parts = append(parts, text(item))
		return true
	})
	return strings.Join(parts, ", ")
}

// single prints one object: its fields in lines in a table, else as a row.
func (g *globals) single(c *cobra.Command, object []byte) error {
	p, err := g.printer(c)
	if err != nil {
		return err
	}
	switch p.format {
	case "json":
		var out bytes.Buffer
		if err := json.Indent(&out, object, "", "  "); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		fmt.Fprintln(&out)
		_, err := io.Copy(c.OutOrStdout(), &out)
		return err
	case "table":
		return fields(c.OutOrStdout(), object)
	}
	if err := p.row(object); err != nil {
		return err
	}
	return p.close()
}

// fields prints "name  value" lines, aligned.
func fields(w io.Writer, object []byte) error {
	out := bufio.NewWriter(w)
	longest := 0
	parsed := gjson.ParseBytes(object)
	parsed.ForEach(func(key, _ gjson.Result) bool {
		longest = max(longest, width(key.String()))
		return true
	})
	parsed.ForEach(func(key, value gjson.Result) bool {
		fmt.Fprintf(out, "%s  %s\n", padded(harmless(key.String()), longest), harmless(cell(value)))
		return true
	})
	return out.Flush()
}
