package vql

import (
	"sort"
	"strings"
)

// tokenKind is what the lexer found.
type tokenKind int

const (
	tokComment tokenKind = iota
	tokKeyword
	tokNumber
	tokIdent
	tokNegated
	tokOperator
	tokString
)

// token is one token of a text.
type token struct {
	kind  tokenKind
	text  string // as written
	word  string // keywords in upper case with one blank, else as text
	start int    // byte offset
}

func (t *token) end() int { return t.start + len(t.text) }

func (t *token) is(kind tokenKind, word string) bool { return t.kind == kind && t.word == word }

var keywords = map[string]bool{
	"EXPLAIN": true, "SELECT": true, "WHERE": true, "AND": true, "OR": true, "FROM": true,
	"NOT": true, "AS": true, "IN": true, "LIMIT": true, "NULL": true, "DESC": true,
	"TRUE": true, "FALSE": true, "LET": true,
}

// longestKeyword is the length of the longest single word of the keywords.
const longestKeyword = 7

var operators = []string{
	"<>", "!=", "<=", ">=", "=>", "=~", "-", "+", ":", "*", "/", "%", ",", ".",
	"(", ")", "=", "<", ">", "{", "}", "[", "]",
}

// lex splits a text into tokens; comments are tokens, white space is not. It
// follows the engine's lexer rule by rule.
func lex(text string) ([]token, error) {
	var out []token
	for i := 0; i < len(text); {
		if isSpace(text[i]) {
			i++
			continue
		}
		t, ok := lexOne(text, i)
		if !ok {
			return out, syntaxError(text, i, text[i:i+1], "%s", unlexable(text[i]))
		}
		out = append(out, t)
		i = t.end()
	}
	return out, nil
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' && c != '\v' }

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func lexOne(text string, i int) (token, bool) {
	rest := text[i:]
	make := func(kind tokenKind, n int) (token, bool) {
		return token{kind: kind, text: rest[:n], word: rest[:n], start: i}, true
	}
	if n := commentLength(rest); n > 0 {
		return make(tokComment, n)
	}
	if word, n := keyword(rest); n > 0 {
		return token{kind: tokKeyword, text: rest[:n], word: word, start: i}, true
	}
	if n := len(rest) - len(strings.TrimLeft(rest, "|")); n > 0 {
		return make(tokOperator, n)
	}
	if strings.HasPrefix(rest, "&&") {
		return make(tokOperator, 2)
	}
	if n := numberLength(rest); n > 0 {
		return make(tokNumber, n)
	}
	if n := identLength(rest); n > 0 {
		return make(tokIdent, n)
	}
	if rest[0] == '-' {
		if n := identLength(rest[1:]); n > 0 {
			return make(tokNegated, n+1)
		}
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			return make(tokOperator, len(op))
		}
	}
	if n := stringLength(rest); n > 0 {
		return make(tokString, n)
	}
	return token{}, false
}

func commentLength(rest string) int {
	switch {
	case strings.HasPrefix(rest, "/*"):
		if end := strings.Index(rest[2:], "*/"); end >= 0 {
			return end + 4
		}
	case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "//"):
		if end := strings.IndexByte(rest, '\n'); end >= 0 {
			return end
		}
		return len(rest)
	}
	return 0
}

func keyword(rest string) (string, int) {
	n := 0
	for n < len(rest) && isWord(rest[n]) {
		if n++; n > longestKeyword {
			return "", 0
		}
	}
	word := strings.ToUpper(rest[:n])
	if word != "GROUP" && word != "ORDER" {
		if keywords[word] {
			return word, n
		}
		return "", 0
	}
	m := n
	for m < len(rest) && isSpace(rest[m]) {
		m++
	}
	end := m + len("BY")
	if m == n || len(rest) < end || !strings.EqualFold(rest[m:end], "BY") || end < len(rest) && isWord(rest[end]) {
		return "", 0
	}
	return word + " BY", end
}

// numberLength matches -?(0x[0-9a-f]+|\d*\.?\d+([eE][-+]?\d+)?).
func numberLength(rest string) int {
	i := 0
	if strings.HasPrefix(rest, "-") {
		i = 1
	}
	if body := rest[i:]; len(body) > 2 && body[0] == '0' && (body[1] == 'x' || body[1] == 'X') && isHex(body[2]) {
		n := 3
		for n < len(body) && isHex(body[n]) {
			n++
		}
		return i + n
	}
	digits := i
	for digits < len(rest) && isDigit(rest[digits]) {
		digits++
	}
	end := digits
	if digits+1 < len(rest) && rest[digits] == '.' && isDigit(rest[digits+1]) {
		end = digits + 1
		for end < len(rest) && isDigit(rest[end]) {
			end++
		}
	}
	if end == i {
		return 0
	}
	return end + exponentLength(rest[end:])
}

func isHex(c byte) bool {
	return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func exponentLength(rest string) int {
	if len(rest) < 2 || rest[0] != 'e' && rest[0] != 'E' {
		return 0
	}
	i := 1
	if rest[i] == '-' || rest[i] == '+' {
		i++
	}
	n := i
	for n < len(rest) && isDigit(rest[n]) {
		n++
	}
	if n == i {
		return 0
	}
	return n
}

func identLength(rest string) int {
	if rest == "" {
		return 0
	}
	if rest[0] == '`' {
		if end := strings.IndexByte(rest[1:], '`'); end > 0 {
			return end + 2
		}
		return 0
	}
	if !isWord(rest[0]) || isDigit(rest[0]) {
		return 0
	}
	n := 1
	for n < len(rest) && isWord(rest[n]) {
		n++
	}
	return n
}

func stringLength(rest string) int {
	if strings.HasPrefix(rest, "'''") {
		if end := strings.Index(rest[3:], "'''"); end >= 0 {
			return end + 6
		}
	}
	quote := rest[0]
	if quote != '\'' && quote != '"' {
		return 0
	}
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case quote:
			return i + 1
		}
	}
	return 0
}

// position turns an offset into line and column.
func position(text string, offset int) Position {
	offset = min(offset, len(text))
	before := text[:offset]
	line := strings.Count(before, "\n") + 1
	return Position{Offset: offset, Line: line, Column: offset - strings.LastIndexByte(before, '\n')}
}

// lines are the offsets at which the lines of a text begin: position without
// counting from the start each time.
type lines []int

func linesOf(text string) lines {
	out := lines{0}
	for i := 0; i < len(text); i++ {
		if text[i] == '\n' {
			out = append(out, i+1)
		}
	}
	return out
}

func (l lines) position(offset int) Position {
	line := sort.SearchInts(l, offset+1)
	return Position{Offset: offset, Line: line, Column: offset - l[line-1] + 1}
}

// unlexable says why nothing of the language begins with a byte where it stands.
func unlexable(first byte) string {
	if strings.IndexByte("'\"`", first) >= 0 {
		return "the string or name that begins here has no end"
	}
	if first == ';' {
		return "statements stand one after the other, without a mark between them"
	}
	return "invalid character"
}
