package jsonrow

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// Fields goes over the columns of a stored row without decoding it. A row was
// checked when it was stored; what is malformed nevertheless ends the walk.
type Fields struct {
	line []byte
	at   int
}

// Of begins to go over the columns of a row. What is no object has none.
func Of(line []byte) Fields {
	f := Fields{line: line}
	f.blanks()
	if f.at < len(line) && line[f.at] == '{' {
		f.at++
	} else {
		f.at = len(line)
	}
	return f
}

// Next returns the bytes between a key's quotes, as stored, and its value's JSON.
func (f *Fields) Next() (key, value []byte, ok bool) {
	f.blanks()
	if f.at < len(f.line) && f.line[f.at] == ',' {
		f.at++
		f.blanks()
	}
	if f.at >= len(f.line) || f.line[f.at] != '"' {
		return nil, nil, false
	}
	start := f.at + 1
	if f.at = stringEnd(f.line, f.at); f.at < 0 {
		return f.end()
	}
	key = f.line[start : f.at-1]
	f.blanks()
	if f.at >= len(f.line) || f.line[f.at] != ':' {
		return f.end()
	}
	f.at++
	f.blanks()
	start = f.at
	if f.at = valueEnd(f.line, f.at); f.at <= start {
		return f.end()
	}
	return key, f.line[start:f.at], true
}

func (f *Fields) end() (key, value []byte, ok bool) {
	f.at = len(f.line)
	return nil, nil, false
}

func (f *Fields) blanks() {
	for f.at < len(f.line) && (f.line[f.at] == ' ' || f.line[f.at] == '\t' || f.line[f.at] == '\r') {
		f.at++
	}
}

// stringEnd returns the place behind the closing quote of the string that begins at
// a place, -1 if there is none.
func stringEnd(line []byte, at int) int {
	for at++; at < len(line); at++ {
		switch line[at] {
		case '"':
			return at + 1
		case '\\':
			at++
		}
	}
	return -1
}

// valueEnd returns the place behind the value that begins at a place, -1 if it does
// not end.
func valueEnd(line []byte, at int) int {
	if at >= len(line) {
		return -1
	}
	switch line[at] {
	case '"':
		return stringEnd(line, at)
	case '{', '[':
		return nestedEnd(line, at)
	}
	for at < len(line) && line[at] != ',' && line[at] != '}' && line[at] != ' ' {
		at++
	}
	return at
}

func nestedEnd(line []byte, at int) int {
	depth := 0
	for at < len(line) {
		switch line[at] {
		case '"':
			if at = stringEnd(line, at); at < 0 {
				return -1
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return at + 1
			}
		}
		at++
	}
	return -1
}

// Column finds a column by its name, of which case is ignored, and returns its
// value's JSON; nil if the row has none. Of several the first counts: what the server
// put in stands there.
func Column(line []byte, name string) []byte {
	f := Of(line)
	for {
		key, value, ok := f.Next()
		if !ok {
			return nil
		}
		if len(key) == len(name) && bytes.EqualFold(key, []byte(name)) {
			return value
		}
		if bytes.IndexByte(key, '\\') >= 0 && bytes.EqualFold(Unescape(nil, key), []byte(name)) {
			return value
		}
	}
}

// Text appends a value as people read it: a string decoded, anything else as its
// JSON with the escapes within decoded.
func Text(dst, value []byte) []byte {
	if isString(value) {
		value = value[1 : len(value)-1]
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return append(dst, value...)
	}
	return Unescape(dst, value)
}

func isString(value []byte) bool { return len(value) >= 2 && value[0] == '"' }

var simpleEscapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// Unescape appends text with the escapes of JSON decoded. What is none stays as it
// is.
func Unescape(dst, text []byte) []byte {
	for {
		at := bytes.IndexByte(text, '\\')
		if at < 0 || at+1 >= len(text) {
			return append(dst, text...)
		}
		dst = append(dst, text[:at]...)
		text = text[at:]
		switch c := simpleEscapes[text[1]]; {
		case c != 0:
			dst, text = append(dst, c), text[2:]
		case text[1] == 'u':
			r, size := unicodeEscape(text)
			dst, text = utf8.AppendRune(dst, r), text[size:]
		default:
			dst, text = append(dst, '\\'), text[1:]
		}
	}
}

// unicodeEscape decodes the escape, or the pair of surrogates, that text begins with,
// and says how long it is.
func unicodeEscape(text []byte) (rune, int) {
	r := hexRune(text)
	if r < 0 {
		return utf8.RuneError, 2
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if second := hexRune(text[6:]); second >= 0 {
		if both := utf16.DecodeRune(r, second); both != utf8.RuneError {
			return both, 12
		}
	}
	return utf8.RuneError, 6
}

// hexRune reads \uXXXX, -1 if that does not stand there.
func hexRune(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range text[2:6] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return -1
		}
	}
	return r
}
