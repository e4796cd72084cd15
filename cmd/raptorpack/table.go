package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strings"
	"unicode"

	"github.com/tidwall/gjson"
)

// harmless keeps foreign text from commanding the terminal: control characters,
// invisible ones and those that turn the writing direction become visible.
func harmless(s string) string {
	if !strings.ContainsFunc(s, harmful) && strings.ToValidUTF8(s, "") == s {
		return s
	}
	var out strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\t':
			out.WriteString(`\t`)
		case r == '\r':
			out.WriteString(`\r`)
		case !harmful(r):
			out.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&out, `\x%02x`, r)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// harmlessLines is harmless for text of several lines; all but the first are set in, so
// that they cannot pass for lines of ours.
func harmlessLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = harmless(line)
	}
	return strings.Join(lines, "\n    ")
}

func harmful(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == 0x2028 || r == 0x2029
}

// wide are the ranges whose characters take two places on a terminal.
var wide = &unicode.RangeTable{R16: []unicode.Range16{
	{Lo: 0x1100, Hi: 0x115f, Stride: 1},
	{Lo: 0x2e80, Hi: 0x303e, Stride: 1},
	{Lo: 0x3041, Hi: 0xa4cf, Stride: 1},
	{Lo: 0xac00, Hi: 0xd7a3, Stride: 1},
	{Lo: 0xf900, Hi: 0xfaff, Stride: 1},
	{Lo: 0xfe30, Hi: 0xfe6f, Stride: 1},
	{Lo: 0xff00, Hi: 0xff60, Stride: 1},
	{Lo: 0xffe0, Hi: 0xffe6, Stride: 1},
}, R32: []unicode.Range32{
	{Lo: 0x1f300, Hi: 0x1f64f, Stride: 1},
	{Lo: 0x1f900, Hi: 0x1f9ff, Stride: 1},
	{Lo: 0x20000, Hi: 0x3fffd, Stride: 1},
}}

func runeWidth(r rune) int {
	switch {
	case unicode.Is(unicode.Mn, r):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// width is how many places a text takes.
func width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func padded(s string, to int) string { return s + strings.Repeat(" ", max(0, to-width(s))) }

// cut shortens a text to a number of places, with a mark where it was cut.
func cut(s string, to int) string {
	if width(s) <= to {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n > to-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// table prints rows under their heading. Columns of later batches keep their
// order; widths are those of the batch.
func (p *printer) table(cells [][]gjson.Result) {
	if len(p.columns) == 0 {
		return
	}
	var lines [][]string
	if !p.open {
		heading := make([]string, len(p.columns))
		for i, c := range p.columns {
			heading[i] = harmless(c.title)
		}
		lines = append(lines, heading)
	}
	for _, row := range cells {
		line := make([]string, len(row))
		for i, v := range row {
			line[i] = harmless(p.columns[i].cell(v))
		}
		lines = append(lines, line)
	}
	widths := p.widths(lines)
	for i, line := range lines {
		p.tableLine(line, widths, i == 0 && !p.open)
	}
	p.open = true
}

func (p *printer) tableLine(line []string, widths []int, heading bool) {
	var out strings.Builder
	for i, cell := range line {
		if p.width > 0 {
			cell = cut(cell, widths[i])
		}
		if i < len(line)-1 {
			cell = padded(cell, widths[i]) + "  "
		}
		out.WriteString(cell)
	}
	text := strings.TrimRight(out.String(), " ")
	if heading && p.colour {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	p.write([]byte(text), []byte{'\n'})
}

// widths gives each column its widest cell, and on a terminal takes from the
// widest ones until a line fits.
func (p *printer) widths(lines [][]string) []int {
	out := make([]int, len(p.columns))
	total := 2 * (len(out) - 1)
	for i := range out {
		for _, line := range lines {
			out[i] = max(out[i], width(line[i]))
		}
		total += out[i]
	}
	const narrowest = 6
	for over := total - p.width; p.width > 0 && over > 0; over-- {
		widest := 0
		for i := range out {
			if out[i] > out[widest] {
				widest = i
			}
		}
		if out[widest] <= narrowest {
			break
		}
		out[widest]--
	}
	return out
}

// csv prints rows as RFC 4180 has them.
func (p *printer) csv(cells [][]gjson.Result) {
	var out bytes.Buffer
	writer := csv.NewWriter(&out)
	record := make([]string, len(p.columns))
	if !p.open && len(p.columns) > 0 {
		for i, c := range p.columns {
			record[i] = formulaSafe(c.title)
		}
		_ = writer.Write(record) // a buffer takes everything
		p.open = true
	}
	for _, row := range cells {
		for i, v := range row {
			record[i] = csvCell(v)
		}
		_ = writer.Write(record)
	}
	writer.Flush()
	p.write(out.Bytes())
}

// csvCell is a value in a CSV file. Numbers stay numbers; a text that a
// spreadsheet would take for a formula gets an apostrophe in front.
func csvCell(v gjson.Result) string {
	if v.Type == gjson.Number {
		return v.Raw
	}
	return formulaSafe(text(v))
}

func formulaSafe(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n|%＝＋－＠", []rune(s)[0]) {
		return "'" + s
	}
	return s
}
