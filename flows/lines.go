package flows

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
)

// ErrBadLine means that a line a client sent is not one JSON object within
// bounds. Trying again does not help.
var ErrBadLine = errors.New("not a JSON object on one line")

const (
	maxLine  = 8 << 20 // bytes of one row as stored
	maxDepth = 200     // nesting of one row
	maxChunk = 1 << 20 // bytes of one extent as stored; a longer row is an extent of its own
)

// reservedPrefix makes a client's column out of a name that only the server may
// use.
const reservedPrefix = "client_"

// chunk is a run of whole rows that fits into one extent.
type chunk struct {
	rows  int64
	lines []byte // each line ends with \n
}

// checkLines reads JSON lines. Every line must be one object. Without splice and
// without reserved names the chunks are parts of text itself; else they are
// copies in which splice (`"ClientId":"C.…"`, without a comma) stands first in
// each object and reserved names carry reservedPrefix. Rows of our own queries, on the
// server, may name clients and flows.
func checkLines(text, splice []byte, own bool) (chunks []chunk, rows int64, err error) {
	w := lineWriter{text: text, splice: splice, scan: scanner{own: own}}
	for at := 0; at < len(text); {
		end, err := w.scan.object(text, at)
		if err != nil {
			return nil, 0, fmt.Errorf("line %d, byte %d: %w", rows+1, end-at, err)
		}
		next := end
		for next < len(text) && blank(text[next]) {
			next++
		}
		if next < len(text) {
			if text[next] != '\n' {
				return nil, 0, fmt.Errorf("line %d: text after the object: %w", rows+1, ErrBadLine)
			}
			next++
		}
		if err := w.line(at, end, next); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", rows+1, err)
		}
		rows++
		at = next
	}
	return w.finish(), rows, nil
}

// lineWriter gathers checked lines into chunks. As long as nothing has to be
// changed it only moves bounds within text.
type lineWriter struct {
	text, splice []byte
	scan         scanner
	chunks       []chunk
	from, to     int    // unchanged lines of the open chunk, when out is empty
	out          []byte // changed copy of the open chunk
	rows         int64  // of the open chunk
}

// line adds the object text[at:end] whose line ends before next.
func (w *lineWriter) line(at, end, next int) error {
	changed := len(w.splice) > 0 || len(w.scan.reserved) > 0 || w.text[next-1] != '\n'
	size := next - at
	if changed {
		size = end - at + len(w.splice) + len(w.scan.reserved)*len(reservedPrefix) + 2
	}
	if size > maxLine {
		return fmt.Errorf("%d bytes: %w", size, ErrBadLine)
	}
	if len(w.out)+w.to-w.from+size > maxChunk {
		w.flush()
	}
	w.rows++
	if !changed && len(w.out) == 0 {
		if w.to == w.from {
			w.from = at
		}
		w.to = next
		return nil
	}
	if w.to > w.from {
		w.out = append(w.out, w.text[w.from:w.to]...)
	} else if w.out == nil {
		w.out = make([]byte, 0, min(maxChunk, len(w.text)-at+(len(w.splice)+2)*64))
	}
	w.from, w.to = 0, 0
	w.copyLine(at, end)
	return nil
}

func (w *lineWriter) copyLine(at, end int) {
	for blank(w.text[at]) {
		at++
	}
	at++ // the brace
	w.out = append(w.out, '{')
	if len(w.splice) > 0 {
		w.out = append(w.out, w.splice...)
		if !emptyObject(w.text[at:end]) {
			w.out = append(w.out, ',')
		}
	}
	for _, key := range w.scan.reserved {
		w.out = append(w.out, w.text[at:key]...)
		w.out = append(w.out, reservedPrefix...)
		at = key
	}
	w.out = append(w.out, w.text[at:end]...)
	w.out = append(w.out, '\n')
}

func (w *lineWriter) flush() {
	if w.rows == 0 {
		return
	}
	lines := w.out
	if len(lines) == 0 {
		lines = w.text[w.from:w.to:w.to]
	}
	w.chunks = append(w.chunks, chunk{rows: w.rows, lines: lines})
	w.from, w.to, w.out, w.rows = 0, 0, nil, 0
}

func (w *lineWriter) finish() []chunk {
	w.flush()
	return w.chunks
}

func blank(b byte) bool { return b == ' ' || b == '\t' || b == '\r' }

// emptyObject reports whether rest, which follows a brace of a checked object,
// closes it at once.
func emptyObject(rest []byte) bool {
	for _, b := range rest {
		if !blank(b) {
			return b == '}'
		}
	}
	return true
}

// scanner checks one object by RFC 8259 in one pass and without allocating.
type scanner struct {
	own      bool  // the server made the rows
	reserved []int // where reserved top-level names begin, after their quote
	kinds    [(maxDepth + 63) / 64]uint64
}

// object checks the object at text[at:] and returns the place after it. On an
// error the place is where it was found. A line feed inside is an error.
func (s *scanner) object(text []byte, at int) (int, error) {
	s.reserved = s.reserved[:0]
	at = skip(text, at)
	if at >= len(text) || text[at] != '{' {
		return at, ErrBadLine
	}
	depth := 0
	s.kinds[0] = 1
	at++
	// Each round stands where, in an object, a name or its end may come, and in
	// an array a value or its end.
	first := true
	for {
		at = skip(text, at)
		if at >= len(text) {
			return at, ErrBadLine
		}
		inObject := s.kinds[depth>>6]>>(depth&63)&1 == 1
		if c := text[at]; first && (inObject && c == '}' || !inObject && c == ']') {
			goto closed
		}
		if inObject {
			var ok bool
			if at, ok = s.name(text, at, depth == 0); !ok {
				return at, ErrBadLine
			}
		}
		if at >= len(text) {
			return at, ErrBadLine
		}
		switch c := text[at]; c {
		case '{', '[':
			if depth++; depth >= maxDepth {
				return at, fmt.Errorf("more than %d levels: %w", maxDepth, ErrBadLine)
			}
			bit := uint64(1) << (depth & 63)
			if c == '{' {
				s.kinds[depth>>6] |= bit
			} else {
				s.kinds[depth>>6] &^= bit
			}
			at++
			first = true
			continue
		case '"':
			end, _, ok := stringEnd(text, at+1)
			if !ok {
				return end, ErrBadLine
			}
			at = end + 1
		default:
			end, ok := scalarEnd(text, at)
			if !ok {
				return end, ErrBadLine
			}
			at = end
		}
	more:
		// A value has ended: a comma, or the end of what it stands in.
		at = skip(text, at)
		if at >= len(text) {
			return at, ErrBadLine
		}
		if text[at] == ',' {
			at++
			first = false
			continue
		}
		inObject = s.kinds[depth>>6]>>(depth&63)&1 == 1
		if c := text[at]; inObject && c != '}' || !inObject && c != ']' {
			return at, ErrBadLine
		}
	closed:
		at++
		if depth == 0 {
			return at, nil
		}
		depth--
		goto more
	}
}

// name checks a name and its colon and returns the place of the value.
func (s *scanner) name(text []byte, at int, top bool) (int, bool) {
	if text[at] != '"' {
		return at, false
	}
	end, escaped, ok := stringEnd(text, at+1)
	if !ok {
		return end, false
	}
	if top && s.isReserved(text[at:end+1], escaped) {
		s.reserved = append(s.reserved, at+1)
	}
	at = skip(text, end+1)
	if at >= len(text) || text[at] != ':' {
		return at, false
	}
	return skip(text, at+1), true
}

// isReserved judges a quoted name.
func (s *scanner) isReserved(quoted []byte, escaped bool) bool {
	if escaped {
		var plain string
		if json.Unmarshal(quoted, &plain) != nil {
			return false
		}
		return s.reservedName(plain)
	}
	return s.reservedName(string(quoted[1 : len(quoted)-1])) // the compiler does not copy here
}

func (s *scanner) reservedName(name string) bool {
	switch name {
	case "ClientId", "FlowId":
		return !s.own
	case "_ts", "_Source":
		return true
	}
	return false
}

func skip(text []byte, at int) int {
	for at < len(text) && blank(text[at]) {
		at++
	}
	return at
}

// stringEnd returns the place of the quote that ends the string whose content
// begins at at.
func stringEnd(text []byte, at int) (end int, escaped, ok bool) {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	for {
		// Eight bytes at once: which of them are a quote, a backslash or below
		// a blank? (Classic zero-byte test; exact for the lowest hit, which is
		// the only one used.)
		for at+8 <= len(text) {
			word := binary.LittleEndian.Uint64(text[at:])
			quote := word ^ ones*'"'
			slash := word ^ ones*'\\'
			hits := ((quote-ones)&^quote | (slash-ones)&^slash | (word-ones*0x20)&^word) & highs
			if hits != 0 {
				at += bits.TrailingZeros64(hits) >> 3
				break
			}
			at += 8
		}
		if at >= len(text) {
			return at, escaped, false
		}
		switch c := text[at]; {
		case c == '"':
			return at, escaped, true
		case c == '\\':
			escaped = true
			if at, ok = escapeEnd(text, at); !ok {
				return at, true, false
			}
		case c < 0x20:
			return at, escaped, false
		default:
			at++
		}
	}
}

// escapeEnd returns the place after the escape at at.
func escapeEnd(text []byte, at int) (int, bool) {
	if at+1 >= len(text) {
		return at, false
	}
	switch text[at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return at + 2, true
	case 'u':
		if at+6 > len(text) {
			return at, false
		}
		for _, c := range text[at+2 : at+6] {
			if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
				return at, false
			}
		}
		return at + 6, true
	}
	return at, false
}

// scalarEnd checks a number, true, false or null.
func scalarEnd(text []byte, at int) (int, bool) {
	switch text[at] {
	case 't':
		return literal(text, at, "true")
	case 'f':
		return literal(text, at, "false")
	case 'n':
		return literal(text, at, "null")
	}
	return numberEnd(text, at)
}

func literal(text []byte, at int, want string) (int, bool) {
	end := at + len(want)
	if end > len(text) || string(text[at:end]) != want {
		return at, false
	}
	return end, true
}

func numberEnd(text []byte, at int) (int, bool) {
	if at < len(text) && text[at] == '-' {
		at++
	}
	whole := digits(text, at)
	if whole == at || text[at] == '0' && whole > at+1 {
		return at, false
	}
	at = whole
	if at < len(text) && text[at] == '.' {
		end := digits(text, at+1)
		if end == at+1 {
			return at, false
		}
		at = end
	}
	if at < len(text) && (text[at] == 'e' || text[at] == 'E') {
		at++
		if at < len(text) && (text[at] == '+' || text[at] == '-') {
			at++
		}
		end := digits(text, at)
		if end == at {
			return at, false
		}
		at = end
	}
	return at, true
}

func digits(text []byte, at int) int {
	for at < len(text) && text[at] >= '0' && text[at] <= '9' {
		at++
	}
	return at
}
