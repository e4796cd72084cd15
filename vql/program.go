package vql

import "www.velocidex.com/golang/vfilter"

// Program is parsed text: one or more statements. It is immutable and may be
// kept and run in several sessions at once.
type Program struct {
	text       string
	statements []*Statement
	comments   []Comment
}

// Kind says what a statement is.
type Kind string

// The kinds of statements.
const (
	KindLet         Kind = "LET"
	KindMaterialise Kind = "LET <="
	KindSelect      Kind = "SELECT"
	KindExplain     Kind = "EXPLAIN"
)

// Position is a place in a text.
type Position struct {
	Offset int `json:"offset"` // bytes from the start
	Line   int `json:"line"`   // from 1
	Column int `json:"column"` // in bytes, from 1
}

// Statement is one statement of a Program.
type Statement struct {
	Kind Kind
	// Name is the name that a LET defines, without backticks; else "".
	Name string
	// Parameters are the parameters of a LET f(a, b=1).
	Parameters []Parameter
	// Normal is the one-line normal form, comments dropped. Parsing it gives the
	// same statement.
	Normal string
	// Text is the statement as written.
	Text string
	// Start and End are its place in the program's text.
	Start, End Position
	// CallSites are all symbols, functions and plugins it names, in order.
	CallSites []CallSite

	parsed  *vfilter.VQL
	nesting int
}

// Parameter is a parameter of a LET.
type Parameter struct {
	Name    string
	Default bool // has a default value
}

// CallSite is a place where a program names something.
type CallSite struct {
	// Kind is symbol (a bare name), function or plugin.
	Kind string
	// Name is the name without backticks; dots separate components.
	Name string
	// Args are the argument names of a call, in order.
	Args []string
	// Start and End are its place in the program's text; zero when unknown.
	Start, End Position
}

// Comment is a comment of a program, with its marks.
type Comment struct {
	Text  string
	Start Position
}

// Text returns the text that was parsed.
func (p *Program) Text() string { return p.text }

// Statements returns the statements in order; read only.
func (p *Program) Statements() []*Statement { return p.statements }

// Comments returns the comments in order; read only.
func (p *Program) Comments() []Comment { return p.comments }
