package endpoint

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// errGlob means that a glob expression stands for more alternatives than
// maxGlobAlternatives.
var errGlob = errors.New("bad glob")

const (
	// defaultGlobDepth is how deep ** goes when it names no depth.
	defaultGlobDepth = 30

	// maxGlobAlternatives bounds what braces may multiply out to.
	maxGlobAlternatives = 4096
)

// A globPart matches one component of a path, or, when deep is above zero, up to
// that many components of any name.
type globPart struct {
	literal string    // the name itself; used when tokens is nil
	tokens  []globTok // wildcards and runs of text
	deep    int
	fold    bool // letters match in either case
}

type globTokKind uint8

const (
	tokText globTokKind = iota
	tokAny              // *
	tokOne              // ?
	tokClass
)

type globTok struct {
	kind   globTokKind
	text   string
	ranges []runeRange
	negate bool
}

type runeRange struct{ lo, hi rune }

// expandBraces multiplies out {a,b} alternatives, nested ones too, also across
// separators. A brace without a comma, as in {GUID}, or without a partner is text.
func expandBraces(pattern string) ([]string, error) {
	return appendBraces(nil, "", pattern)
}

func appendBraces(out []string, done, rest string) ([]string, error) {
	start, end, commas := firstBrace(rest)
	for start >= 0 && len(commas) == 0 || start >= 0 && end < 0 {
		done += rest[:start+1]
		rest = rest[start+1:]
		start, end, commas = firstBrace(rest)
	}
	if start < 0 {
		if len(out) >= maxGlobAlternatives {
			return nil, fmt.Errorf("%w: more than %d alternatives", errGlob, maxGlobAlternatives)
		}
		return append(out, done+rest), nil
	}
	from := start + 1
	for _, to := range append(commas, end) {
		// The alternative may hold braces itself, so it goes back in front of the rest.
		var err error
		out, err = appendBraces(out, done+rest[:start], rest[from:to]+rest[end+1:])
		if err != nil {
			return nil, err
		}
		from = to + 1
	}
	return out, nil
}

// firstBrace finds the first brace outside of a bracket class, its partner and
// the commas between them. start is -1 without a brace, end -1 without a partner.
func firstBrace(s string) (start, end int, commas []int) {
	start, end = -1, -1
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '[':
			if n := classEnd(s[i:]); n > 0 {
				i += n
			}
		case '{':
			if depth == 0 {
				start = i
			}
			depth++
		case ',':
			if depth == 1 {
				commas = append(commas, i)
			}
		case '}':
			if depth == 0 {
				continue // a lone closing brace is text
			}
			if depth--; depth == 0 {
				return start, i, commas
			}
		}
	}
	return start, end, commas
}

// classEnd returns the place of the bracket that closes the class s begins with,
// or 0 when none does. A bracket right after the opening one is a member.
func classEnd(s string) int {
	i := 1
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		i++
	}
	for first := i; i < len(s); i++ {
		if s[i] == ']' && i > first {
			return i
		}
		if s[i] == '/' {
			return 0
		}
	}
	return 0
}

// compilePart reads one component of a pattern.
func compilePart(text string, fold bool) globPart {
	if depth, ok := recursiveDepth(text); ok {
		return globPart{deep: depth}
	}
	var tokens []globTok
	wild := false
	var run []byte
	flush := func() {
		if len(run) > 0 {
			tokens = append(tokens, globTok{kind: tokText, text: string(run)})
			run = nil
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '*':
			flush()
			wild = true
			if len(tokens) == 0 || tokens[len(tokens)-1].kind != tokAny {
				tokens = append(tokens, globTok{kind: tokAny})
			}
		case '?':
			flush()
			wild = true
			tokens = append(tokens, globTok{kind: tokOne})
		case '[':
			end := classEnd(text[i:])
			if end == 0 {
				run = append(run, c) // an open bracket is text, as in a shell
				continue
			}
			flush()
			wild = true
			tokens = append(tokens, compileClass(text[i+1:i+end]))
			i += end
		default:
			run = append(run, c)
		}
	}
	flush()
	if !wild {
		return globPart{literal: text, fold: fold}
	}
	if fold {
		for i := range tokens {
			tokens[i].text = strings.ToLower(tokens[i].text)
		}
	}
	return globPart{tokens: tokens, fold: fold, literal: text}
}

// recursiveDepth tells whether the component is ** or **N, and how deep it goes.
func recursiveDepth(text string) (int, bool) {
	digits, ok := strings.CutPrefix(text, "**")
	if !ok {
		return 0, false
	}
	if digits == "" {
		return defaultGlobDepth, true
	}
	depth, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || depth == 0 {
		return 0, false
	}
	return int(depth), true
}

func compileClass(body string) globTok {
	tok := globTok{kind: tokClass}
	if body != "" && (body[0] == '!' || body[0] == '^') {
		tok.negate = true
		body = body[1:]
	}
	members := []rune(body)
	for i := 0; i < len(members); i++ {
		r := runeRange{members[i], members[i]}
		if i+2 < len(members) && members[i+1] == '-' {
			r.hi = members[i+2]
			i += 2
		}
		tok.ranges = append(tok.ranges, r)
	}
	return tok
}

// isLiteral tells whether the part stands for exactly one name.
func (p *globPart) isLiteral() bool { return p.deep == 0 && p.tokens == nil }

// match tells whether name fits. A recursive part fits any name.
func (p *globPart) match(name string) bool {
	switch {
	case p.deep > 0:
		return true
	case p.tokens == nil && p.fold:
		return strings.EqualFold(p.literal, name)
	case p.tokens == nil:
		return p.literal == name
	case p.fold:
		return matchTokens(p.tokens, strings.ToLower(name))
	}
	return matchTokens(p.tokens, name)
}

// matchTokens walks pattern and name together and, on a mismatch, goes back to the
// last star only, so that it takes at most len(tokens)*len(name) steps.
func matchTokens(tokens []globTok, name string) bool {
	if len(tokens) == 2 && tokens[0].kind == tokAny && tokens[1].kind == tokText { // *.exe
		return strings.HasSuffix(name, tokens[1].text)
	}
	t, n := 0, 0
	starT, starN := -1, 0
	for n < len(name) || t < len(tokens) {
		if t < len(tokens) {
			if tokens[t].kind == tokAny {
				starT, starN = t, n
				t++
				continue
			}
			if w := tokens[t].width(name[n:]); w >= 0 {
				t++
				n += w
				continue
			}
		}
		if starT < 0 || starN >= len(name) {
			return false
		}
		_, w := utf8.DecodeRuneInString(name[starN:])
		starN += w
		t, n = starT+1, starN
	}
	return true
}

// width tells how many bytes of s the token takes, or -1 when it does not fit.
func (k *globTok) width(s string) int {
	if k.kind == tokText {
		if strings.HasPrefix(s, k.text) {
			return len(k.text)
		}
		return -1
	}
	if s == "" {
		return -1
	}
	r, w := utf8.DecodeRuneInString(s)
	if k.kind == tokOne {
		return w
	}
	in := false
	for _, rr := range k.ranges {
		if rr.lo <= r && r <= rr.hi {
			in = true
			break
		}
	}
	if in == k.negate {
		return -1
	}
	return w
}

// A globPattern is one compiled alternative. source is the glob as the caller
// wrote it, which several alternatives share.
type globPattern struct {
	source string
	parts  []globPart
}

// newGlobPattern compiles the components of one alternative. Parts that follow one
// another as ** ** are one, so that a walk cannot multiply.
func newGlobPattern(source string, components []string, fold bool) *globPattern {
	p := &globPattern{source: source}
	for _, c := range components {
		part := compilePart(c, fold)
		if last := len(p.parts) - 1; part.deep > 0 && last >= 0 && p.parts[last].deep > 0 {
			p.parts[last].deep = min(p.parts[last].deep+part.deep, 1<<16)
			continue
		}
		p.parts = append(p.parts, part)
	}
	return p
}

// A cursor is a place in a pattern while the walk stands in some folder: parts[at]
// has to match the folder's entries. left counts the levels that a recursive part
// may still go down.
type cursor struct {
	pattern *globPattern
	at      int
	left    int
}

func startCursors(patterns []*globPattern) []cursor {
	var out []cursor
	for _, p := range patterns {
		if len(p.parts) > 0 {
			out = appendCursor(out, p, 0)
		}
	}
	return out
}

// appendCursor adds the place at of p and, as ** also stands for no folder at all,
// the place behind a recursive part.
func appendCursor(out []cursor, p *globPattern, at int) []cursor {
	out = addCursor(out, cursor{p, at, p.parts[at].deep})
	if p.parts[at].deep > 0 && at+1 < len(p.parts) {
		out = addCursor(out, cursor{p, at + 1, 0})
	}
	return out
}

// addCursor keeps one cursor for each place, the one that may go deepest.
func addCursor(out []cursor, c cursor) []cursor {
	for i := range out {
		if out[i].pattern == c.pattern && out[i].at == c.at {
			out[i].left = max(out[i].left, c.left)
			return out
		}
	}
	return append(out, c)
}

// step moves the cursors over one entry: which globs match it, and which cursors
// remain for its content when it is a folder.
func step(cursors []cursor, name string) (matched []string, below []cursor) {
	for _, c := range cursors {
		part := &c.pattern.parts[c.at]
		if !part.match(name) {
			continue
		}
		last := c.at+1 == len(c.pattern.parts)
		if last {
			matched = addOnce(matched, c.pattern.source)
		}
		switch {
		case part.deep > 0 && c.left > 1:
			below = addCursor(below, cursor{c.pattern, c.at, c.left - 1})
			if !last {
				below = addCursor(below, cursor{c.pattern, c.at + 1, 0})
			}
		case part.deep > 0 && !last:
			below = addCursor(below, cursor{c.pattern, c.at + 1, 0})
		case !last:
			below = appendCursor(below, c.pattern, c.at+1)
		}
	}
	return matched, below
}

func addOnce(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

// literalNames returns the names to look for when no cursor needs a listing, so
// that folders which may be entered but not listed still work.
func literalNames(cursors []cursor) ([]string, bool) {
	var names []string
	for _, c := range cursors {
		if !c.pattern.parts[c.at].isLiteral() {
			return nil, false
		}
		names = addOnce(names, c.pattern.parts[c.at].literal)
	}
	return names, true
}

// recursive tells whether any cursor goes on at any depth.
func recursive(cursors []cursor) bool {
	for _, c := range cursors {
		if c.pattern.parts[c.at].deep > 0 {
			return true
		}
	}
	return false
}
