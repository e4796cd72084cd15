package history

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Violation is one broken promise.
type Violation struct {
	Rule string // as the package says
	Text string // what happened, for people
}

// String is one line.
func (v Violation) String() string { return "violation " + v.Rule + ": " + v.Text }

// maxOfRule bounds what is told of one rule: who broke one promise a thousand times
// has one fault.
const maxOfRule = 10

// Check holds a history against the whole ledger, from its first entry on.
func (h *History) Check(ledger []Entry) []Violation {
	c := &checker{h: h, count: map[string]int{}, index: map[uint64]*Entry{}, carriers: map[string][]*Entry{}}
	c.replay(ledger)
	c.ops()
	c.order()
	c.reads()
	c.reigns()
	c.finals()
	for _, rule := range slices.Sorted(keys(c.count)) {
		if more := c.count[rule] - maxOfRule; more > 0 {
			c.found = append(c.found, Violation{rule, fmt.Sprintf("and %d more", more)})
		}
	}
	return c.found
}

type checker struct {
	h     *History
	found []Violation
	count map[string]int // by rule

	index    map[uint64]*Entry
	carriers map[string][]*Entry // by token: the entries that applied it
	labels   labelModel
	last     uint64
}

func (c *checker) say(rule, format string, args ...any) {
	if c.count[rule]++; c.count[rule] <= maxOfRule {
		c.found = append(c.found, Violation{rule, fmt.Sprintf(format, args...)})
	}
}

// replay goes through the ledger as a node does, and checks its shape.
func (c *checker) replay(ledger []Entry) {
	c.labels = newLabelModel()
	streams := map[[2]string]*Entry{}
	requests := map[[2]string]*Entry{}
	for i := range ledger {
		e := &ledger[i]
		c.shape(ledger, i)
		c.index[e.Index], c.last = e, e.Index
		if !c.inSequence(streams, e) || repeats(requests, e) {
			continue
		}
		c.labels.apply(e)
		for _, token := range e.tokens() {
			c.carriers[token] = append(c.carriers[token], e)
		}
	}
}

func (c *checker) shape(ledger []Entry, i int) {
	e := &ledger[i]
	if i == 0 {
		if e.Index != 1 {
			c.say("ledger", "it begins with %s: what came before was not kept", e.place())
		}
		return
	}
	if before := &ledger[i-1]; e.Index != before.Index+1 || e.Epoch < before.Epoch || !e.Time.After(before.Time) {
		c.say("ledger", "%s of %v follows %s of %v", e.place(), e.Time, before.place(), before.Time)
	}
}

// inSequence holds an entry against those before it in its stream.
func (c *checker) inSequence(streams map[[2]string]*Entry, e *Entry) bool {
	if e.Incarnation == "" {
		return true
	}
	key := [2]string{e.Incarnation, e.Stream}
	var last uint64
	before := streams[key]
	if before != nil {
		last = before.Seq
	}
	switch {
	case e.Seq == last+1:
		streams[key] = e
		return true
	case e.Seq <= last:
		c.say("twice", "number %d of stream %s of %s comes again in %s, after number %d in %s",
			e.Seq, e.Stream, e.Incarnation, e.place(), last, before.place())
	default:
		c.say("ledger", "number %d of stream %s of %s in %s follows number %d", e.Seq, e.Stream, e.Incarnation, e.place(), last)
	}
	return true // it stands there; whether it was applied shows elsewhere
}

// requestMemory is how long nodes remember a request id.
const requestMemory = 24 * time.Hour

// repeats reports whether an earlier entry had this one's request id.
func repeats(requests map[[2]string]*Entry, e *Entry) bool {
	if e.RequestID == "" {
		return false
	}
	key := [2]string{e.Principal, e.RequestID}
	if before := requests[key]; before != nil && e.Time.Sub(before.Time) < requestMemory {
		return true
	}
	requests[key] = e
	return false
}

// ops holds each change against the ledger.
func (c *checker) ops() {
	known := map[string]bool{}
	for i := range c.h.Ops {
		op := &c.h.Ops[i]
		known[op.Token] = true
		carriers := c.carriers[op.Token]
		outcome, try := op.Outcome()
		switch {
		case len(carriers) > 1:
			c.say("twice", "%s and %s both have it: %s", carriers[0].place(), carriers[1].place(), op)
		case outcome == Acknowledged && len(carriers) == 0:
			c.say("missing", "%s; %s", op, c.instead(try.Index))
		case outcome == Refused && len(carriers) > 0:
			c.say("refused", "%s has it: %s", carriers[0].place(), op)
		case outcome == Acknowledged && try.Index != 0 && try.Index != carriers[0].Index:
			c.say("answer", "%s has it: %s", carriers[0].place(), op)
		}
	}
	for _, token := range slices.Sorted(keys(c.carriers)) {
		if !known[token] {
			c.say("phantom", "%s has a change that nobody asked for: %s", c.carriers[token][0].place(), token)
		}
	}
}

// instead says what stands where something should.
func (c *checker) instead(index uint64) string {
	e := c.index[index]
	if e == nil {
		return fmt.Sprintf("the ledger ends with entry %d", c.last)
	}
	return fmt.Sprintf("%s holds %s of %s", e.place(), e.Kind, cmp.Or(e.Incarnation, "the master itself"))
}

// settled is an acknowledged change that stands in the ledger.
type settled struct {
	op         *Op
	entry      *Entry
	begin, end At
}

// order holds every two changes against each other of which one was acknowledged
// before the other began.
func (c *checker) order() {
	byBegin := c.settled()
	byEnd := slices.Clone(byBegin)
	slices.SortFunc(byBegin, func(a, b settled) int { return cmp.Compare(a.begin, b.begin) })
	slices.SortFunc(byEnd, func(a, b settled) int { return cmp.Compare(a.end, b.end) })
	var newest *settled // of those acknowledged so far, the last in the ledger
	for i, at := 0, 0; i < len(byBegin); i++ {
		b := &byBegin[i]
		for ; at < len(byEnd) && byEnd[at].end < b.begin; at++ {
			if newest == nil || byEnd[at].entry.Index > newest.entry.Index {
				newest = &byEnd[at]
			}
		}
		if newest == nil || b.entry.Index > newest.entry.Index {
			continue
		}
		rule := "order"
		if b.entry.Epoch < newest.entry.Epoch {
			rule = "masters"
		}
		c.say(rule, "%s: %s; although it began after this was acknowledged as %s: %s", b.entry.place(), b.op, newest.entry.place(), newest.op)
	}
}

func (c *checker) settled() []settled {
	var all []settled
	for i := range c.h.Ops {
		op := &c.h.Ops[i]
		outcome, try := op.Outcome()
		if carriers := c.carriers[op.Token]; outcome == Acknowledged && len(carriers) > 0 {
			all = append(all, settled{op, carriers[0], op.Begin(), try.End})
		}
	}
	return all
}

// reigns holds what nodes said of themselves against each other and the ledger.
func (c *checker) reigns() {
	by := map[uint64]Reign{}
	for _, r := range c.h.Reigns {
		if other, ok := by[r.Epoch]; ok && other.Node != r.Node {
			c.say("masters", "epoch %d was led by %s (%s to %s) and by %s (%s to %s)", r.Epoch, other.Node, other.From, other.To, r.Node, r.From, r.To)
		}
		by[r.Epoch] = r
	}
	for _, index := range slices.Sorted(keys(c.index)) {
		e := c.index[index]
		var body struct{ Incarnation string }
		if e.Kind != kindEpoch || json.Unmarshal(e.Body, &body) != nil {
			continue
		}
		if r, seen := by[e.Epoch]; seen && r.Node != body.Incarnation {
			c.say("masters", "%s was begun by %s, and %s led it from %s to %s", e.place(), body.Incarnation, r.Node, r.From, r.To)
		}
	}
}

// finals compares all nodes with the one that came farthest.
func (c *checker) finals() {
	if len(c.h.Finals) == 0 {
		return
	}
	most := slices.MaxFunc(c.h.Finals, func(a, b Final) int { return cmp.Compare(a.Index, b.Index) })
	for _, f := range c.h.Finals {
		switch {
		case f.Index != most.Index:
			c.say("digest", "%s stands at entry %d in the end, %s at %d", f.Node, f.Index, most.Node, most.Index)
		case f.Digest != most.Digest:
			c.say("digest", "at entry %d %s has digest %.16s and %s has %.16s", f.Index, f.Node, f.Digest, most.Node, most.Digest)
		}
	}
}

// Report is all violations as text, each a line; empty if there are none.
func Report(all []Violation) string {
	lines := make([]string, len(all))
	for i, v := range all {
		lines[i] = v.String()
	}
	return strings.Join(lines, "\n")
}
