package flows

import (
	"cmp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxErrorText bounds what is kept of an error a client reports, in bytes.
const maxErrorText = 2000

// shorten cuts text at a character so that it has at most limit bytes, and makes
// it valid UTF-8, which ledger messages must be.
func shorten(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
		for len(text) > 0 && !utf8.RuneStart(text[len(text)-1]) {
			text = text[:len(text)-1]
		}
		if r, size := utf8.DecodeLastRuneInString(text); r == utf8.RuneError && size <= 1 && len(text) > 0 {
			text = text[:len(text)-1]
		}
		text += "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

func plural(n int64, noun string) string {
	text := strconv.FormatInt(n, 10) + " " + noun
	if n != 1 {
		text += "s"
	}
	return text
}

func compareText(a, b string) int { return cmp.Compare(a, b) }

func compareKeys(a, b Key) int {
	return cmp.Or(compareText(a.Org.String(), b.Org.String()), compareText(a.Client.String(), b.Client.String()),
		compareText(a.Flow.String(), b.Flow.String()))
}
