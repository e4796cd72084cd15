package clients

import (
	"context"
	"encoding/json"
	"slices"
)

// Mutation makes a mutation of any changes, also of those that no plan makes.
var Mutation = mutation

// Merge takes all that changed into the index.
func (r *Room) Merge(ctx context.Context) {
	for _, t := range r.orgs {
		r.merge(ctx, t)
	}
}

// Meagre makes the index know of names and accounts that a real one would rather
// look at, and take over each change.
func (r *Room) Meagre(maxLoose int) {
	r.tune = tuning{mergeAt: 1, maxLoose: maxLoose, fewNames: 0, commonShape: 1, commonAccount: 2, accountSample: 16}
}

// GiveUpMerge begins a merge that does not end.
func (r *Room) GiveUpMerge(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	r.Merge(ctx)
}

// ScanLine reads a snapshot line as a start does, if it is one of ours, and writes
// it again.
func ScanLine(raw []byte) (string, bool) {
	s, e := newScanner(), entry{}
	if !s.scan(raw, &e) {
		return "", false
	}
	e.cell.text = string(s.texts)
	return e.write(), true
}

// ParseLine reads any snapshot line and writes it again.
func ParseLine(raw []byte) (string, error) {
	e := entry{}
	if err := e.parse(raw); err != nil || e.deleted || e.server != nil {
		return "no client", err
	}
	return e.write(), nil
}

func (e *entry) write() string {
	out, err := appendLine(nil, e.org, e.ordinal, e.born, &e.cell, &e.modulus)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// MarshalLine writes a snapshot line as encoding/json does.
func MarshalLine(raw []byte) (string, error) {
	var l line
	if err := json.Unmarshal(raw, &l); err != nil {
		return "", err
	}
	out, err := json.Marshal(l)
	return string(out), err
}

// Indexed reports whether nothing waits to be merged.
func (r *Room) Indexed() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, t := range r.orgs {
		if r.overdue(t) || t.merging != nil {
			return false
		}
	}
	return true
}

// Matches reports whether wildcards match a text.
func Matches(wild, text string) bool { return matches([]byte(wild), []byte(text)) }

// MACs finds by a pattern, as the index does, those of some addresses that fit, by
// their places. They have to be written as agents do.
func MACs(wild string, macs ...string) (found []int) {
	var column macColumn
	for i, mac := range macs {
		column.take(i, string(appendFacts(nil, 0, "", "", nil, []string{mac})))
	}
	column = column.sorted()
	p := newMACPattern(newPattern(wild))
	var out words
	p.find(column.within(&p), &out)
	return slices.Collect(out.all())
}
