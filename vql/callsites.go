package vql

import "strings"

// siteWalker collects call sites from tokens. Brackets are kept on a stack, so
// that names of arguments and parameters are told from symbols.
type siteWalker struct {
	lines lines
	code  []token
	sites []CallSite
	open  []bracket
}

// bracket is an open bracket; site is the call it belongs to, or -1, and let
// marks the parameters of a LET.
type bracket struct {
	site int
	let  bool
}

// callSites finds all symbols, functions and plugins that a statement names.
func callSites(l lines, code []token) []CallSite {
	w := &siteWalker{lines: l, code: code}
	for i := 0; i < len(code); {
		i = w.step(i)
	}
	return w.sites
}

func (w *siteWalker) at(i int) *token {
	if i < 0 || i >= len(w.code) {
		return &token{kind: tokComment}
	}
	return &w.code[i]
}

// step handles the token at i and returns the next place to look at.
func (w *siteWalker) step(i int) int {
	t := w.at(i)
	switch {
	case t.kind == tokOperator && strings.Contains("([{", t.word):
		w.open = append(w.open, bracket{site: -1})
	case t.kind == tokOperator && strings.Contains(")]}", t.word):
		if len(w.open) > 0 {
			w.open = w.open[:len(w.open)-1]
		}
	case t.kind == tokIdent || t.kind == tokNegated:
		return w.name(i)
	}
	return i + 1
}

// name handles a name, dotted or not.
func (w *siteWalker) name(i int) int {
	before := w.at(i - 1)
	switch {
	case before.is(tokKeyword, "LET"):
		if w.at(i+1).is(tokOperator, "(") {
			w.open = append(w.open, bracket{site: -1, let: true})
			return i + 2
		}
		return i + 1
	case before.is(tokKeyword, "AS"), before.is(tokKeyword, "ORDER BY"), before.is(tokOperator, "."):
		return i + 1
	case w.argument(i):
		return i + 1
	}
	return w.site(i)
}

// argument handles the name of an argument or parameter.
func (w *siteWalker) argument(i int) bool {
	if len(w.open) == 0 {
		return false
	}
	before, top := w.at(i-1), w.open[len(w.open)-1]
	if !before.is(tokOperator, "(") && !before.is(tokOperator, ",") {
		return false
	}
	named := w.at(i+1).is(tokOperator, "=")
	if top.let {
		return named || w.at(i+1).is(tokOperator, ",") || w.at(i+1).is(tokOperator, ")")
	}
	if top.site < 0 || !named {
		return false
	}
	site := &w.sites[top.site]
	site.Args = append(site.Args, unquoteIdent(w.at(i).text))
	return true
}

func (w *siteWalker) site(i int) int {
	first, last := i, i
	name := unquoteIdent(strings.TrimPrefix(w.at(i).text, "-"))
	for w.at(last+1).is(tokOperator, ".") && w.at(last+2).kind == tokIdent {
		last += 2
		name += "." + unquoteIdent(w.at(last).text)
	}
	site := CallSite{
		Kind: "symbol", Name: name,
		Start: w.lines.position(w.at(first).start), End: w.lines.position(w.at(last).end()),
	}
	called := w.at(last+1).is(tokOperator, "(")
	switch {
	case called && w.at(first-1).is(tokKeyword, "FROM"):
		site.Kind = "plugin"
	case called:
		site.Kind = "function"
	}
	w.sites = append(w.sites, site)
	if !called {
		return last + 1
	}
	w.open = append(w.open, bracket{site: len(w.sites) - 1})
	return last + 2
}
