package notebooks

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// A line of a child is {"Timestamp":"<RFC 3339, UTC, up to nanoseconds>","Row":{…}}.
const (
	lineHead = `{"Timestamp":"`
	lineMid  = `","Row":`
)

// errLine means that a stored line is none that appendLine makes.
var errLine = errors.New("not a line of a timeline")

// appendLine writes a row as it is stored; row is one JSON object without line feeds.
func appendLine(dst []byte, at time.Time, row []byte) []byte {
	dst = append(dst, lineHead...)
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, lineMid...)
	dst = append(dst, row...)
	return append(dst, '}', '\n')
}

// parseLine reads a line without its line feed. The row is a part of it.
func parseLine(line []byte) (at time.Time, row []byte, err error) {
	rest, ok := bytes.CutPrefix(line, []byte(lineHead))
	if !ok {
		return at, nil, errLine
	}
	stamp, row, ok := bytes.Cut(rest, []byte(lineMid))
	if !ok {
		return at, nil, errLine
	}
	if row, ok = bytes.CutSuffix(row, []byte("}")); !ok || !object(row) {
		return at, nil, errLine
	}
	if at, err = time.Parse(time.RFC3339Nano, string(stamp)); err != nil {
		return at, nil, fmt.Errorf("%w: %w", errLine, err)
	}
	return at.UTC(), row, nil
}

// object tells whether a row may be one JSON object in one line; what is inside is for
// its readers.
func object(row []byte) bool {
	n := len(row)
	return n >= 2 && row[0] == '{' && row[n-1] == '}' && bytes.IndexByte(row, '\n') < 0
}

// Holds tells whether a time can be stored: of the years 1 to 9999, and not the zero
// time, which stands for none.
func Holds(at time.Time) bool {
	at = at.UTC()
	return !at.IsZero() && at.Year() >= 1 && at.Year() <= 9999
}
