package filestore

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrBadName means that a file name is none that EscapeName makes. Trying again
// does not help.
var ErrBadName = errors.New("not an escaped name")

const (
	// maxChunk bounds one directory entry in bytes. What we add to a name (a
	// "~" and a number, ".idx", a temporary's suffix) fits into the 255 bytes
	// that filesystems allow.
	maxChunk = 200

	// emptyName stands for the empty name; "%" is never a name otherwise.
	emptyName = "%"

	// longerSuffix marks a chunk of a long name as not the last one.
	longerSuffix = "%+"

	upperHex = "0123456789ABCDEF"
)

// ownSuffixes are the endings of our own files beside foreign names. The dot of
// such an ending is escaped in foreign names, so the two never meet.
var ownSuffixes = [...]string{".idx", ".jsonl.gz"}

// EscapeName turns a foreign name (of an artifact, an accessor, a component of
// a client's path) into one relative path of one or more directory entries.
//
// Distinct names give distinct paths and UnescapeName gives the name back. No
// result is empty, absolute, hidden or holds "..": it cannot leave its folder.
// Entries have at most 200 bytes; a longer name becomes nested entries, all but
// the last ending in "%+". Printable text keeps its look: only "%", "~", path
// separators, what Windows refuses, invisible runes and invalid UTF-8 become
// %XX. "~" and a leading dot are ours.
func EscapeName(name string) string {
	if name == "" {
		return emptyName
	}
	if plainName(name) {
		return name
	}
	e := escaper{ownDot: ownSuffixDot(name)}
	for i := 0; i < len(name); {
		r, size := utf8.DecodeRuneInString(name[i:])
		e.add(name[i:i+size], r, i, i+size == len(name))
		i += size
	}
	return e.out.String()
}

// escaper collects the entries of one name.
type escaper struct {
	out    strings.Builder
	chunk  int // bytes in the entry being filled
	ownDot int // place of the dot that must be escaped, or -1
}

func (e *escaper) add(raw string, r rune, at int, last bool) {
	edge := (e.chunk == 0 && (r == '.' || r == ' ')) || (last && (r == '.' || r == ' '))
	if edge || at == e.ownDot || !keeps(r, len(raw)) {
		raw = percent(raw)
	}
	if e.chunk+len(raw) > maxChunk {
		e.out.WriteString(longerSuffix + "/")
		e.chunk = 0
		if raw == "." || raw == " " {
			raw = percent(raw)
		}
	}
	e.out.WriteString(raw)
	e.chunk += len(raw)
}

// keeps reports whether a rune may stand as it is.
func keeps(r rune, size int) bool {
	if r == utf8.RuneError && size == 1 {
		return false
	}
	if strings.ContainsRune(`%~/\:*?"<>|`, r) {
		return false
	}
	return unicode.IsPrint(r)
}

// plainName reports whether a name needs no look at its runes: the common case
// of artifact names and accessors.
func plainName(name string) bool {
	if len(name) > maxChunk || name[0] == '.' || name[len(name)-1] == '.' || ownSuffixDot(name) >= 0 {
		return false
	}
	for i := range len(name) {
		b := name[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !letter && b != '.' && b != '_' && b != '-' {
			return false
		}
	}
	return true
}

func ownSuffixDot(name string) int {
	for _, suffix := range ownSuffixes {
		at := len(name) - len(suffix)
		if at >= 0 && strings.EqualFold(name[at:], suffix) {
			return at
		}
	}
	return -1
}

func percent(raw string) string {
	out := make([]byte, 0, 3*len(raw))
	for i := range len(raw) {
		out = append(out, '%', upperHex[raw[i]>>4], upperHex[raw[i]&15])
	}
	return string(out)
}

// UnescapeName gives back the name that EscapeName was given. It accepts only
// what EscapeName makes and returns ErrBadName otherwise.
func UnescapeName(path string) (string, error) {
	if path == emptyName {
		return "", nil
	}
	chunks := strings.Split(path, "/")
	var name []byte
	for i, chunk := range chunks {
		if i < len(chunks)-1 {
			var ok bool
			if chunk, ok = strings.CutSuffix(chunk, longerSuffix); !ok {
				return "", fmt.Errorf("unescape %.80q: %w", path, ErrBadName)
			}
		}
		var ok bool
		if name, ok = unpercent(name, chunk); !ok {
			return "", fmt.Errorf("unescape %.80q: %w", path, ErrBadName)
		}
	}
	if EscapeName(string(name)) != path {
		return "", fmt.Errorf("unescape %.80q: %w", path, ErrBadName)
	}
	return string(name), nil
}

func unpercent(dst []byte, text string) ([]byte, bool) {
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			dst = append(dst, text[i])
			continue
		}
		if i+2 >= len(text) {
			return dst, false
		}
		hi, lo := strings.IndexByte(upperHex, text[i+1]), strings.IndexByte(upperHex, text[i+2])
		if hi < 0 || lo < 0 {
			return dst, false
		}
		dst = append(dst, byte(hi<<4|lo))
		i += 2
	}
	return dst, true
}
