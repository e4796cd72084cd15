package vql

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/utils"
)

const (
	// maxProgram is the longest program in bytes, and maxStatement the longest
	// statement: the engine's printer takes time by the square of it.
	maxProgram   = 16 << 20
	maxStatement = 1 << 20
	// maxTokens is how many tokens a statement may have; from printTokens its normal
	// form is made of the tokens.
	maxTokens   = 100_000
	printTokens = 4_000
	// maxNesting is how deep brackets and NOTs may nest, maxLambdaNesting the same
	// in lambdas. The engine's parser, its printer and its evaluation recurse;
	// without a bound a text of a few hundred kilobytes ends the process by stack
	// overflow. See stack.go for the product with recursive definitions.
	maxNesting       = 150
	maxLambdaNesting = 20
	// maxLambda is the longest lambda text in bytes.
	maxLambda = 64 << 10
)

// Parse parses a program of one or more statements. A mistake anywhere gives a
// *SyntaxError and no program.
func Parse(text string) (*Program, error) {
	if len(text) > maxProgram {
		return nil, syntaxError(text, maxProgram, "", "the program is longer than %d bytes", maxProgram)
	}
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	p, places := &Program{text: text}, linesOf(text)
	var code []token
	for _, t := range tokens {
		if t.kind == tokComment {
			p.comments = append(p.comments, Comment{Text: t.text, Start: places.position(t.start)})
			continue
		}
		code = append(code, t)
	}
	if len(code) == 0 {
		return nil, syntaxError(text, len(text), "", "there is no statement")
	}
	for _, part := range splitStatements(code) {
		stmt, err := parseStatement(text, places, part)
		if err != nil {
			return nil, err
		}
		p.statements = append(p.statements, stmt)
	}
	return p, nil
}

// nestingOf measures how deep brackets and NOTs nest.
func nestingOf(text string, code []token, limit int) (deepest int, err error) {
	depth, nots := 0, 0
	for _, t := range code {
		switch {
		case t.is(tokKeyword, "NOT"):
			nots++
		case t.kind == tokOperator && strings.Contains("([{", t.word):
			depth++
		case t.kind == tokOperator && strings.Contains(")]}", t.word):
			depth--
		default:
			nots = 0
		}
		if deepest = max(deepest, depth+nots); deepest > limit {
			return deepest, syntaxError(text, t.start, t.text, "nested more than %d deep", limit)
		}
	}
	return deepest, nil
}

// splitStatements cuts at each LET outside brackets, and at each SELECT or
// EXPLAIN there that does not belong to a LET or an EXPLAIN before it.
func splitStatements(code []token) [][]token {
	var out [][]token
	depth, begin := 0, 0
	for i, t := range code {
		switch {
		case t.kind == tokOperator && strings.Contains("([{", t.word):
			depth++
		case t.kind == tokOperator && strings.Contains(")]}", t.word):
			depth--
		case depth == 0 && i > begin && startsStatement(code, i):
			out = append(out, code[begin:i])
			begin = i
		}
	}
	return append(out, code[begin:])
}

func startsStatement(code []token, i int) bool {
	if code[i].is(tokKeyword, "LET") {
		return true
	}
	if !code[i].is(tokKeyword, "SELECT") && !code[i].is(tokKeyword, "EXPLAIN") {
		return false
	}
	before := &code[i-1]
	return !before.is(tokKeyword, "EXPLAIN") && !before.is(tokOperator, "=") && !before.is(tokOperator, "<=")
}

func parseStatement(text string, places lines, code []token) (stmt *Statement, err error) {
	start, end := code[0].start, code[len(code)-1].end()
	part := text[start:end]
	if len(part) > maxStatement || len(code) > maxTokens {
		return nil, syntaxError(text, start, "", "the statement is longer than %d bytes or %d tokens", maxStatement, maxTokens)
	}
	nesting, err := nestingOf(text, code, maxNesting)
	if err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			stmt, err = nil, syntaxError(text, start, "", "the parser gave up: %v", r)
		}
	}()
	parsed, err := vfilter.Parse(part)
	if err != nil {
		return nil, located(text, start, part, err)
	}
	kind := Kind(parsed.Type())
	switch kind {
	case "LAZY_LET":
		kind = KindLet
	case "MATERIALIZED_LET":
		kind = KindMaterialise
	case KindSelect, KindExplain:
	default:
		return nil, syntaxError(text, start, code[0].text, "not a statement")
	}
	stmt = &Statement{
		Kind: kind, Name: unquoteIdent(parsed.Let), Text: part, parsed: parsed, nesting: nesting,
		Start: places.position(start), End: places.position(end),
		Normal: normalForm(parsed, code), CallSites: callSites(places, code),
	}
	for _, p := range parsed.LetParameters {
		if p.Name != nil {
			stmt.Parameters = append(stmt.Parameters, Parameter{Name: unquoteIdent(*p.Name)})
		} else if p.DefaultArg != nil {
			stmt.Parameters = append(stmt.Parameters, Parameter{Name: unquoteIdent(p.DefaultArg.Left), Default: true})
		}
	}
	rewrite(parsed)
	return stmt, nil
}

func normalForm(parsed *vfilter.VQL, code []token) string {
	if len(code) > printTokens || unprintable(parsed) {
		return joinTokens(code)
	}
	return vfilter.FormatToString(printScope, parsed)
}

// unprintable reports whether the engine's printer forgets the backticks that a
// parameter's name needs.
func unprintable(parsed *vfilter.VQL) bool {
	for _, p := range parsed.LetParameters {
		if p.Name != nil && strings.HasPrefix(*p.Name, "`") || p.DefaultArg != nil && strings.HasPrefix(p.DefaultArg.Left, "`") {
			return true
		}
	}
	return false
}

// joinTokens is a normal form of tokens, one blank between any two.
func joinTokens(code []token) string {
	words := make([]string, len(code))
	for i, t := range code {
		words[i] = t.word
	}
	return strings.Join(words, " ")
}

// printScope is where texts are printed; nothing is evaluated in it.
var printScope = vfilter.NewScope()

func unquoteIdent(s string) string { return utils.Unquote_ident(s) }

var errorPlace = regexp.MustCompile(`^(?s:.*?)(\d+):(\d+): (.*)$`)

// located gives an engine's error its place in the whole text.
func located(text string, start int, part string, err error) *SyntaxError {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	type causer interface{ Cause() error }
	for c, ok := err.(causer); ok; c, ok = err.(causer) { //nolint:errorlint // walking the chain by hand
		err = c.Cause()
	}
	m := errorPlace.FindStringSubmatch(err.Error())
	if m == nil {
		return syntaxError(text, start, "", "%v", err)
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	offset := offsetOf(part, line, column)
	tok := ""
	if t, ok := lexOne(part+" ", offset); ok && offset < len(part) {
		tok = t.text
	}
	return syntaxError(text, start+offset, tok, "%s", foundAndExpected(m[3], tok, offset == 0))
}

// offsetOf finds a line and a column that counts characters.
func offsetOf(text string, line, column int) int {
	offset := 0
	for ; line > 1; line-- {
		next := strings.IndexByte(text[offset:], '\n')
		if next < 0 {
			return len(text)
		}
		offset += next + 1
	}
	for ; column > 1 && offset < len(text); column-- {
		_, size := utf8.DecodeRuneInString(text[offset:])
		offset += size
	}
	return offset
}

// Reformat lays a program out as the pretty printer does. A comment that the printer
// would lose is an error.
func Reformat(text string) (string, error) {
	before, err := Parse(text)
	if err != nil {
		return "", err
	}
	out, err := pretty(text)
	if err != nil {
		return "", err
	}
	last := before.statements[len(before.statements)-1].End.Offset
	for _, c := range before.comments {
		if c.Start.Offset >= last { // the printer drops what stands behind all
			out += c.Text + "\n"
		}
	}
	after, err := Parse(out)
	if err != nil {
		return "", fmt.Errorf("what the printer made of it is no program: %w", err)
	}
	for i, c := range before.comments {
		if i >= len(after.comments) || words(after.comments[i].Text) != words(c.Text) {
			return "", syntaxError(text, c.Start.Offset, "", "a comment stands where the printer cannot keep it")
		}
	}
	return out, nil
}

// words is a comment without its layout.
func words(comment string) string { return strings.Join(strings.Fields(comment), " ") }

func pretty(text string) (out string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = syntaxError(text, 0, "", "the printer gave up: %v", r)
		}
	}()
	statements, err := vfilter.MultiParseWithComments(text)
	if err != nil {
		place := located(text, 0, text, err)
		place.Message = "a comment stands where the printer cannot keep it: " + place.Message
		return "", place
	}
	visitor := vfilter.NewVisitor(printScope, vfilter.DefaultFormatOptions)
	visitor.Visit(statements)
	lines := strings.Split(strings.TrimSpace(visitor.ToString()), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// parseLambda parses "x=>expression".
func parseLambda(text string) (l *lambda, err error) {
	if len(text) > maxLambda {
		return nil, syntaxError(text, maxLambda, "", "the lambda is longer than %d bytes", maxLambda)
	}
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	if _, err := nestingOf(text, tokens, maxLambdaNesting); err != nil {
		return nil, err
	}
	if commas := strings.Count(strings.SplitN(text, "=>", 2)[0], ","); commas > maxNesting {
		return nil, syntaxError(text, 0, "", "more than %d parameters", maxNesting)
	}
	defer func() {
		if r := recover(); r != nil {
			l, err = nil, syntaxError(text, 0, "", "the parser gave up: %v", r)
		}
	}()
	parsed, err := vfilter.ParseLambda(text)
	if err != nil {
		return nil, located(text, 0, text, err)
	}
	rewrite(parsed)
	return &lambda{parsed: parsed}, nil
}
