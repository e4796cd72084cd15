package hunts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"raptorpack/internal/jsonrow"
)

const maxFilter = 1 << 10 // bytes

// Filter chooses rows by a text. Case is ignored: that of all letters if the text has
// some beyond ASCII, else that of ASCII letters. The zero value takes every row. Not
// safe for concurrent use.
type Filter struct {
	column string // empty: any value
	whole  bool   // the value is the text, not just has it
	needle []byte // folded
	stored []byte // the needle as JSON writes it; what a row that matches has, but for odd escapes
	ascii  bool
	plain  bool // no quotes or controls, which could be JSON's own around values within a value

	folded, value, low []byte // scratch
}

// ParseFilter reads a filter. `column=text` takes rows whose column is that text,
// `column~text` those whose column has it in it; anything else, and anything in
// double quotes, rows of which some value has it in it. An empty text takes every
// row, `column=` those whose column is empty, null or not there. The error wraps
// ErrInvalid.
func ParseFilter(text string) (*Filter, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxFilter || !utf8.ValidString(text) {
		return nil, fmt.Errorf("filter is no text of at most %d bytes: %w", maxFilter, ErrInvalid)
	}
	f := &Filter{}
	if at := strings.IndexAny(text, "=~"); at > 0 && isColumn(text[:at]) {
		f.column, f.whole, text = strings.TrimSpace(text[:at]), text[at] == '=', strings.TrimSpace(text[at+1:])
	}
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	return f, f.setNeedle(text)
}

func (f *Filter) setNeedle(text string) error {
	f.ascii = isASCII(text)
	f.plain = !strings.ContainsFunc(text, func(r rune) bool { return r == '"' || r < ' ' })
	f.needle = f.fold(nil, []byte(text))
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		return fmt.Errorf("filter: %w: %w", ErrInvalid, err)
	}
	f.stored = f.fold(nil, out.Bytes()[1:out.Len()-2])
	return nil
}

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isColumn reports whether what stands before a comparison may be a column's name,
// and is not the beginning of a URL or a base64 text.
func isColumn(name string) bool {
	name = strings.TrimSpace(name)
	return name != "" && len(name) <= 200 && !strings.ContainsFunc(name, func(r rune) bool {
		return strings.ContainsRune(`"'\/:?&+{}[]()<>,;`, r) || r < ' '
	})
}

// All reports whether every row is taken.
func (f *Filter) All() bool { return f == nil || f.column == "" && len(f.needle) == 0 }

// Each calls found for each line of a batch that the filter takes, with its number
// among the lines from 0, until found returns false; it reports whether it came to
// the end.
func (f *Filter) Each(lines []byte, found func(number int64, line []byte) bool) bool {
	number, at := int64(0), 0
	every := f.All() || len(f.stored) == 0 || f.odd(lines)
	if !every {
		f.folded = foldASCII(f.folded[:0], lines)
	}
	for at < len(lines) {
		if !every { // to the next line that has the text somewhere
			hit := bytes.Index(f.folded[at:], f.stored)
			if hit < 0 {
				return true
			}
			skipped := lines[at : at+hit]
			number += int64(bytes.Count(skipped, []byte{'\n'}))
			at += bytes.LastIndexByte(skipped, '\n') + 1
		}
		end := at + bytes.IndexByte(lines[at:], '\n')
		if end < at {
			end = len(lines)
		}
		if f.Takes(lines[at:end]) && !found(number, lines[at:end]) {
			return false
		}
		at, number = end+1, number+1
	}
	return true
}

// odd reports whether lines may have the text in another form than the usual one, so
// that each line has to be decoded.
func (f *Filter) odd(lines []byte) bool {
	return !f.ascii || !f.plain || bytes.IndexByte(f.needle, '/') >= 0 && escaped(lines, '/') || escaped(lines, 'u')
}

// escaped reports whether a letter stands somewhere behind a backslash that is not
// itself escaped.
func escaped(lines []byte, letter byte) bool {
	mark := []byte{'\\', letter}
	for at := 0; ; {
		hit := bytes.Index(lines[at:], mark)
		if hit < 0 {
			return false
		}
		at += hit
		before := at
		for before > 0 && lines[before-1] == '\\' {
			before--
		}
		if (at-before)%2 == 0 {
			return true
		}
		at += 2
	}
}

// Takes reports whether the filter takes a row.
func (f *Filter) Takes(line []byte) bool {
	if f.All() {
		return true
	}
	if f.column != "" {
		return f.holds(jsonrow.Column(line, f.column))
	}
	for all := jsonrow.Of(line); ; {
		_, value, ok := all.Next()
		if !ok {
			return false
		}
		if f.holds(value) {
			return true
		}
	}
}

// holds compares one value.
func (f *Filter) holds(value []byte) bool {
	if f.whole && len(f.needle) == 0 && (value == nil || string(value) == "null") {
		return true
	}
	if value == nil {
		return false
	}
	f.value = jsonrow.Text(f.value[:0], value)
	f.low = f.fold(f.low[:0], f.value)
	if f.whole {
		return bytes.Equal(f.low, f.needle)
	}
	return bytes.Contains(f.low, f.needle)
}

func (f *Filter) fold(dst, text []byte) []byte {
	if f.ascii {
		return foldASCII(dst, text)
	}
	return append(dst, bytes.ToLower(text)...)
}

var lower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if i >= 'A' && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

// foldASCII appends text with ASCII letters in lower case.
func foldASCII(dst, text []byte) []byte {
	at := len(dst)
	dst = append(dst, text...)
	for i, c := range dst[at:] {
		dst[at+i] = lower[c]
	}
	return dst
}
