package vql

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// SyntaxError says where a text is no program.
type SyntaxError struct {
	Position
	Token   string // the offending token, "" at the end of the text
	Message string // what was found and what was expected
	Excerpt string // the offending line, and below it a caret at the place
}

// Error gives the place, the message and the offending line.
func (e *SyntaxError) Error() string {
	if e.Excerpt == "" {
		return e.brief()
	}
	return e.brief() + "\n" + e.Excerpt
}

// brief is Error without the line.
func (e *SyntaxError) brief() string {
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Message)
}

func syntaxError(text string, offset int, tok, format string, args ...any) *SyntaxError {
	return &SyntaxError{
		Position: position(text, offset), Token: tok, Message: fmt.Sprintf(format, args...),
		Excerpt: excerpt(text, offset),
	}
}

// excerptWidth is how many characters of a long line are shown, and excerptBefore
// how many of them before the place.
const (
	excerptWidth  = 100
	excerptBefore = 60
)

// excerpt shows the line of an offset with a caret below the place.
func excerpt(text string, offset int) string {
	offset = min(offset, len(text))
	from := strings.LastIndexByte(text[:offset], '\n') + 1
	line, _, _ := strings.Cut(text[from:], "\n")
	line = strings.TrimSuffix(line, "\r")
	if strings.TrimSpace(line) == "" {
		return ""
	}
	before := []rune(line[:min(offset-from, len(line))])
	after := []rune(line[min(offset-from, len(line)):])
	if len(before)+len(after) > excerptWidth && len(before) > excerptBefore {
		before = append([]rune("..."), before[len(before)-excerptBefore:]...)
	}
	if rest := excerptWidth - len(before); len(after) > rest {
		after = append(slices.Clone(after[:rest]), []rune("...")...)
	}
	return "    " + printable(before) + printable(after) + "\n    " + caretLine(before)
}

// printable shows control characters, which could move the caret or the terminal,
// as blanks, apart from tabs.
func printable(line []rune) string {
	out := slices.Clone(line)
	for i, r := range out {
		if r < ' ' && r != '\t' || r == 0x7f || r == utf8.RuneError {
			out[i] = ' '
		}
	}
	return string(out)
}

// caretLine keeps the tabs, so that the caret stands where the place does.
func caretLine(before []rune) string {
	out := slices.Clone(before)
	for i, r := range out {
		if r != '\t' {
			out[i] = ' '
		}
	}
	return string(out) + "^"
}

var unexpectedToken = regexp.MustCompile(`(?s)^unexpected token "(.*?)"(?: \(expected (.*)\))?$`)

// foundAndExpected puts the engine's message about a token into the language's
// words. tokens are those of the statement up to the place.
func foundAndExpected(message, tok string, atStart bool) string {
	m := unexpectedToken.FindStringSubmatch(message)
	if m == nil {
		return message
	}
	found := "the end of the text"
	if m[1] != "<EOF>" {
		if tok == "" {
			tok = m[1]
		}
		found = `"` + shorten(tok, 60) + `"`
	}
	expected := "a clause, the next statement or the end"
	switch {
	case atStart:
		expected = "LET, SELECT or EXPLAIN"
	case m[2] != "":
		expected = expectedNames(m[2])
	}
	return "found " + found + ", expected " + expected + hint(tok, expected)
}

// expectedNames are the engine's names of tokens in the language's words.
func expectedNames(list string) string {
	var out []string
	for _, name := range strings.Split(list, " | ") {
		switch name {
		case "<ident>", "<symbolident>":
			name = "a name"
		case "<number>":
			name = "a number"
		case "<string>", "<multilinestring>":
			name = "a string"
		default:
			name = strings.ToUpper(strings.Trim(name, `<>"`))
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return strings.Join(out, " or ")
}

// hint says what the most frequent mistakes need.
func hint(tok, expected string) string {
	switch {
	case len(tok) > 1 && tok[0] == '-':
		return "; a subtraction needs a blank after the minus"
	case strings.Contains(expected, "a name") && isKeyword(tok):
		return "; a keyword is a name only between backticks"
	case tok == "[":
		return "; arrays in expressions are written (1, 2)"
	}
	return ""
}

func isKeyword(tok string) bool { return keywords[strings.ToUpper(tok)] }
