package clients

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// pattern is what a value of a search asks of a text in lower case.
type pattern struct {
	text  []byte
	wild  bool // has wildcards: * for anything, ? for one character
	whole bool // else: the text is this; neither: it contains this
}

// newPattern tests by wildcards if the text has any, else by substring.
func newPattern(text string) pattern {
	return pattern{text: []byte(text), wild: strings.ContainsAny(text, "*?")}
}

// fits tests a text in lower case.
func (p pattern) fits(text []byte) bool {
	switch {
	case p.wild:
		return matches(p.text, text)
	case p.whole:
		return bytes.Equal(text, p.text)
	}
	return bytes.Contains(text, p.text)
}

// inText tests a text as it was written.
func (p pattern) inText(text string) bool {
	var scratch [64]byte
	return p.fits(appendLower(scratch[:0], text))
}

// part is something that every text which fits contains: the longest piece
// without wildcards.
func (p pattern) part() []byte {
	if !p.wild {
		return p.text
	}
	var longest []byte
	for piece := range bytes.FieldsFuncSeq(p.text, func(r rune) bool { return r == '*' || r == '?' }) {
		if len(piece) > len(longest) {
			longest = piece
		}
	}
	return longest
}

// around returns what a text that fits begins with, what it has in between, in this
// order, and what it ends with. Without a star, wildcards are all beginning.
func (p pattern) around() (begin []byte, middle [][]byte, end []byte) {
	pieces := bytes.Split(p.text, []byte("*"))
	switch last := len(pieces) - 1; {
	case !p.wild:
		return nil, pieces, nil
	case last == 0:
		return p.text, nil, nil
	default:
		return pieces[0], pieces[1:last], pieces[last]
	}
}

// matches reports whether wildcards match the whole text. Where only stars are
// left, it looks for the pieces between them; else it tries, and goes back to the
// star before, which takes the product of both lengths at worst.
func matches(wild, text []byte) bool {
	if bytes.IndexByte(wild, '?') < 0 {
		return piecesMatch(wild, text)
	}
	star, again := -1, 0 // place behind the star before, and what is tried there next
	w, t := 0, 0
	for t < len(text) {
		switch {
		case w < len(wild) && wild[w] == '*':
			star, again = w+1, t
			w++
		case w < len(wild) && wild[w] == '?':
			_, size := utf8.DecodeRune(text[t:])
			w, t = w+1, t+size
		case w < len(wild) && wild[w] == text[t]:
			w, t = w+1, t+1
		case star < 0:
			return false
		default:
			again++
			w, t = star, again
		}
	}
	return len(bytes.Trim(wild[w:], "*")) == 0
}

// piecesMatch matches a pattern whose only wildcards are stars.
func piecesMatch(wild, text []byte) bool {
	first := bytes.IndexByte(wild, '*')
	if first < 0 {
		return bytes.Equal(wild, text)
	}
	last := bytes.LastIndexByte(wild, '*')
	begin, middle, end := wild[:first], wild[first:last], wild[last+1:]
	if len(text) < len(begin)+len(end) || !bytes.HasPrefix(text, begin) || !bytes.HasSuffix(text, end) {
		return false
	}
	text = text[len(begin) : len(text)-len(end)]
	for len(middle) > 0 {
		middle = middle[1:] // a star
		piece := middle
		if next := bytes.IndexByte(middle, '*'); next >= 0 {
			piece = middle[:next]
		}
		at := bytes.Index(text, piece)
		if at < 0 {
			return false
		}
		text, middle = text[at+len(piece):], middle[len(piece):]
	}
	return true
}
