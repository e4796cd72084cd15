package client

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A protobuf string must be UTF-8. What comes from an endpoint (names of files,
// errors that quote them, output of programs) need not be.

// shortText is text for people to read: cut to limit bytes, and with U+FFFD for
// what is no UTF-8.
func shortText(text string, limit int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "..."
}

// plainName is a name for the wire. Bytes that are no UTF-8 are written as \xff,
// so that two such names stay two.
func plainName(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	var out strings.Builder
	for len(name) > 0 {
		r, size := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&out, `\x%02x`, name[0])
		} else {
			out.WriteString(name[:size])
		}
		name = name[size:]
	}
	return out.String()
}
