package endpoint

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// maxCSVRecord is the most bytes that one record may take before its quotes count
// as broken.
const maxCSVRecord = 1 << 20

// maxCSVReparse bounds how often one record is looked at again, so that crafted
// quotes cost no more than honest ones.
const maxCSVReparse = 64

// A csvReader takes records from foreign CSV. It forgives what encoding/csv
// refuses: bare quotes inside a field, rows of any length, NUL bytes. A record
// whose quotes make no sense is skipped, line by line, and counted.
type csvReader struct {
	in      *bufio.Reader
	comma   byte
	comment byte // 0: none

	pushed [][]byte // lines given back, the next one first
	broken int      // lines that were skipped
	eof    bool
}

func newCSVReader(in io.Reader, comma, comment byte) *csvReader {
	if comma == 0 {
		comma = ','
	}
	return &csvReader{in: bufio.NewReaderSize(in, 64<<10), comma: comma, comment: comment}
}

// read returns the next record. The error is io.EOF at the end, or what reading
// the source gave.
func (r *csvReader) read() ([]string, error) {
	for {
		first, err := r.line()
		if err != nil {
			return nil, err
		}
		if r.skips(first) {
			continue
		}
		if bytes.IndexByte(first, '"') < 0 {
			return r.split(first), nil
		}
		cells, ok, err := r.quoted(first)
		if err != nil {
			return nil, err
		}
		if ok {
			return cells, nil
		}
		r.broken++
	}
}

func (r *csvReader) skips(line []byte) bool {
	body := bytes.TrimRight(line, "\r\n")
	return len(body) == 0 || r.comment != 0 && body[0] == r.comment
}

// split cuts a line without quotes.
func (r *csvReader) split(line []byte) []string {
	return strings.Split(string(bytes.TrimRight(line, "\r\n")), string(rune(r.comma)))
}

// quoted reads a record that has quotes, taking more lines as an open quote asks
// for them. When it makes no sense the further lines are given back.
func (r *csvReader) quoted(first []byte) (cells []string, ok bool, err error) {
	record := first // line gave us a copy, it may grow
	var more [][]byte
	var state csvState
	for range maxCSVReparse {
		cells, state = parseCSV(record, r.comma)
		if state != csvOpen || len(record) > maxCSVRecord {
			break
		}
		// Inside an open cell only a line with an odd number of quotes can close it.
		for closes := false; !closes && len(record) <= maxCSVRecord; {
			line, err := r.line()
			if errors.Is(err, io.EOF) {
				r.pushed = append(more, r.pushed...)
				return nil, false, nil
			}
			if err != nil {
				return nil, false, err
			}
			more = append(more, line)
			record = append(record, line...)
			closes = bytes.Count(line, []byte{'"'})%2 == 1
		}
	}
	if state != csvDone {
		r.pushed = append(more, r.pushed...)
		return nil, false, nil
	}
	return cells, true, nil
}

// line returns the next line with its end, a copy. A line longer than
// maxCSVRecord is cut there; the rest of it counts as broken and is passed over.
func (r *csvReader) line() ([]byte, error) {
	if len(r.pushed) > 0 {
		line := r.pushed[0]
		r.pushed = r.pushed[1:]
		return line, nil
	}
	if r.eof {
		return nil, io.EOF
	}
	var line []byte
	cut := false
	for {
		part, err := r.in.ReadSlice('\n')
		if room := maxCSVRecord - len(line); len(part) > room {
			part, cut = part[:max(room, 0)], true
		}
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if cut {
			r.broken++
		}
		if errors.Is(err, io.EOF) {
			r.eof = true
			if len(line) == 0 {
				return nil, io.EOF
			}
			return line, nil
		}
		return line, err
	}
}

type csvState uint8

const (
	csvDone   csvState = iota
	csvOpen            // a quote is still open at the end
	csvBroken          // text behind a closing quote
)

// parseCSV cuts one record that may hold quoted cells.
func parseCSV(record []byte, comma byte) ([]string, csvState) {
	var cells []string
	for {
		if len(record) > 0 && record[0] == '"' {
			cell, rest, state := quotedCell(record[1:])
			if state != csvDone {
				return nil, state
			}
			cells = append(cells, cell)
			rest = bytes.TrimRight(rest, "\r\n")
			if len(rest) == 0 {
				return cells, csvDone
			}
			if rest[0] != comma {
				return nil, csvBroken
			}
			record = rest[1:]
			continue
		}
		i := bytes.IndexByte(record, comma)
		if i < 0 {
			return append(cells, string(bytes.TrimRight(record, "\r\n"))), csvDone
		}
		cells = append(cells, string(record[:i]))
		record = record[i+1:]
	}
}

// quotedCell reads up to the closing quote; a doubled quote is one of the text.
func quotedCell(s []byte) (cell string, rest []byte, state csvState) {
	var text []byte
	for {
		i := bytes.IndexByte(s, '"')
		if i < 0 {
			return "", nil, csvOpen
		}
		text = append(text, s[:i]...)
		s = s[i+1:]
		if len(s) == 0 || s[0] != '"' {
			return string(text), s, csvDone
		}
		text = append(text, '"')
		s = s[1:]
	}
}

// csvValue gives a cell its value: integers and floats become numbers.
func csvValue(cell string) any {
	if cell == "" || cell[0] > '9' || len(cell) > 40 {
		return cell // cheap way out for most text
	}
	if n, err := strconv.ParseInt(cell, 10, 64); err == nil {
		return n
	}
	if strings.Trim(cell, "0123456789+-.eE") != "" {
		return cell // hexadecimal floats, digits with underscores, Inf
	}
	if f, err := strconv.ParseFloat(cell, 64); err == nil {
		return f
	}
	return cell
}
