package clients

import (
	"bytes"
	"strings"
	"time"

	"raptorpack/ids"
)

// examination asks the conditions of a search about one segment after the other.
type examination struct {
	room  *Room
	org   ids.Org
	now   time.Time
	index *index

	*segment
	begin   uint32 // its first ordinal
	scratch []byte
}

// hits are those who meet all conditions.
func (x *examination) hits(q *Query) words {
	hits := x.live
	for _, clause := range q.conditions {
		if hits.empty() {
			break
		}
		var out words
		clause.narrow(x, &hits, &out)
		if clause.negated {
			hits.andNot(&out)
		} else {
			hits = out
		}
	}
	return hits
}

// nobodySeen is the presence of an org of which nothing was seen.
var nobodySeen = newPresence()

// soft lets do look at the presence. Whoever touches a client waits for it.
func (x *examination) soft(do func(p *presence)) {
	x.room.soft.mu.RLock()
	defer x.room.soft.mu.RUnlock()
	p := x.room.soft.orgs[x.org]
	if p == nil {
		p = nobodySeen
	}
	do(p)
}

func (x *examination) name(i int) name {
	n := nameOf(x.texts[i], x.scratch)
	x.scratch = n.all
	return n
}

// named adds to out, which is empty, those of in whose name contains a text. What
// is between texts and in shapes is looked for the long way: it is in no name that
// came through a plan.
func (x *examination) named(text []byte, in, out *words) {
	doubtful := *in
	if in.count() > x.room.tune.fewNames && !bytes.ContainsAny(text, "\x00\n") {
		doubtful.and(&x.loose)
		known := *in
		known.andNot(&x.loose)
		x.shaped(string(text), &known, out)
		known.andNot(out)
		if likely, sure := x.inHost(text, &known); sure {
			out.or(&likely)
		} else {
			doubtful.or(&likely)
		}
		x.acrossDomain(text, &known, out)
	}
	for i := range doubtful.all() {
		if x.name(i).contains(text) {
			out.add(i)
		}
	}
}

// shaped adds those to out whose host name or domain has the text for sure,
// because what they have in common with others has it.
func (x *examination) shaped(text string, in, out *words) {
	has := func(common string) bool { return strings.Contains(common, text) }
	x.shapes.narrow(has, in, out)
	x.domains.narrow(has, in, out)
}

// inHost returns those of in whose host name may have the text, and whether they
// have it for sure.
func (x *examination) inHost(text []byte, in *words) (likely words, sure bool) {
	likely = *in
	sure = x.names.narrow(text, &likely)
	if len(text) < 3 {
		short := *in
		short.and(&x.short)
		likely.or(&short)
		sure = sure && short.empty()
	}
	return likely, sure
}

// acrossDomain adds to out those of in in whose FQDN the text begins within the
// host name and ends behind it.
func (x *examination) acrossDomain(text []byte, in, out *words) {
	for i, c := range text {
		if c != '.' || i == 0 {
			continue
		}
		rest := string(text[i:])
		var below words
		x.domains.narrow(func(domain string) bool { return strings.HasPrefix(domain, rest) }, in, &below)
		if below.empty() {
			continue
		}
		likely, _ := x.inHost(text[:i+1], &below)
		for j := range likely.all() {
			if hostEnds(x.texts[j], text[:i]) {
				out.add(j)
			}
		}
	}
}
