package clients

import (
	"bytes"
	"strings"
	"time"
	"unique"

	"raptorpack/internal/micros"
)

// condition is one word of a search. It is asked of clients one by one, or of all
// that the index has of a segment; both ways give the same answer. It serves one
// search at a time.
type condition interface {
	// holds tells whether a client meets it.
	holds(c *candidate) bool

	// narrow adds to out, which is empty, those of in who meet it.
	narrow(x *examination, in, out *words)

	cost() cost
}

// cost is what it takes to narrow. The cheap conditions come first, so that the
// dear ones have few to look at.
type cost int

const (
	bySets  cost = iota // sets are united, or columns read
	byName              // grams tell whose names to look at
	bySight             // everybody is looked at, and where it was seen
)

// candidate is a client that is looked at by itself.
type candidate struct {
	id      number
	cell    *cell
	seen    Seen
	now     time.Time
	scratch []byte
}

func (c *candidate) name() name {
	n := nameOf(c.cell.text, c.scratch)
	c.scratch = n.all
	return n
}

// never holds for nobody.
type never struct{}

func (never) cost() cost                          { return bySets }
func (never) holds(*candidate) bool               { return false }
func (never) narrow(*examination, *words, *words) {}

// word is sought in whatever people call a client by: names, id, labels, address.
type word struct {
	text    []byte
	id      idPart
	address *address // nil: it is not part of one
	labels  labels
}

func newWord(lower string) *word {
	w := &word{text: []byte(lower), id: newIDPart(lower)}
	w.labels.fits = pattern{text: w.text}
	if strings.ContainsAny(lower, "0123456789") && strings.Trim(lower, "0123456789abcdef.:%") == "" {
		w.address = newAddress(w.labels.fits)
	}
	return w
}

func (w *word) cost() cost { return byName }

func (w *word) holds(c *candidate) bool {
	return w.id.in(c.id) || c.name().contains(w.text) || w.labels.any(c.cell.labels) ||
		w.address != nil && w.address.holds(c)
}

func (w *word) narrow(x *examination, in, out *words) {
	w.labels.narrow(x, in, out)
	rest := *in
	rest.andNot(out)
	w.id.narrow(x, &rest, out)
	rest.andNot(out)
	x.named(w.text, &rest, out)
	if w.address != nil {
		rest.andNot(out)
		w.address.narrow(x, &rest, out)
	}
}

// host holds if the host name or the FQDN fits.
type host struct{ fits pattern }

func (host) cost() cost { return byName }

func (h host) holds(c *candidate) bool { return h.in(c.name()) }

func (h host) in(n name) bool { return h.fits.fits(n.hostname()) || h.fits.fits(n.fqdn()) }

func (h host) narrow(x *examination, in, out *words) {
	if !h.fits.wild {
		x.named(h.fits.text, in, out)
		return
	}
	h.shaped(x, in, out)
	rest := *in
	rest.andNot(out)
	likely := rest
	if part := h.fits.part(); len(part) > 0 {
		likely = words{}
		x.named(part, &rest, &likely)
	}
	for i := range likely.all() {
		if h.in(x.name(i)) {
			out.add(i)
		}
	}
}

// shaped adds those to out who fit for sure, because what they have in common with
// others does: stars stand for what that leaves out.
func (h host) shaped(x *examination, in, out *words) {
	if bytes.ContainsAny(h.fits.text, "?\x00") {
		return
	}
	fits := func(common string) bool { return common != "" && h.fits.fits([]byte(common)) }
	x.shapes.narrow(fits, in, out)
	if h.fits.text[0] == '*' {
		x.domains.narrow(fits, in, out)
	}
	out.andNot(&x.loose)
}

// labels holds if a label fits.
type labels struct {
	fits pattern

	fitting []string // of all that the index knows
	asked   bool
}

func (*labels) cost() cost { return bySets }

func (l *labels) holds(c *candidate) bool { return l.any(c.cell.labels) }

func (l *labels) any(packed string) bool {
	for u := (unpacker{packed}); u.rest != ""; {
		if l.fits.inText(u.text()) {
			return true
		}
	}
	return false
}

func (l *labels) narrow(x *examination, in, out *words) {
	if !l.asked {
		for _, label := range x.index.labels {
			if l.fits.fits([]byte(label)) {
				l.fitting = append(l.fitting, label)
			}
		}
		l.asked = true
	}
	for _, label := range l.fitting {
		if s := x.byLabel[label]; s != nil {
			s.addTo(out)
		}
	}
	out.and(in)
}

// unlabelled holds for those without any label.
type unlabelled struct{}

func (unlabelled) cost() cost { return bySets }

func (unlabelled) holds(c *candidate) bool { return c.cell.labels == "" }

func (unlabelled) narrow(x *examination, in, out *words) {
	*out = *in
	out.and(&x.bare)
}

// onPlatform holds if what many clients have in common passes a test. It asks once
// for each platform.
type onPlatform struct {
	test  func(*platform) bool
	known map[unique.Handle[platform]]bool
}

func newPlatform(test func(*platform) bool) *onPlatform {
	// The platform of the deleted is no valid one.
	return &onPlatform{test, map[unique.Handle[platform]]bool{{}: false}}
}

func (*onPlatform) cost() cost { return bySets }

func (o *onPlatform) holds(c *candidate) bool { return o.passes(c.cell.platform) }

func (o *onPlatform) passes(h unique.Handle[platform]) bool {
	pass, known := o.known[h]
	if !known {
		p := h.Value()
		pass = o.test(&p)
		o.known[h] = pass
	}
	return pass
}

func (o *onPlatform) narrow(x *examination, in, out *words) {
	x.platforms.narrow(o.passes, in, out)
}

// user holds if the name of one of the host's accounts fits.
type user struct{ fits pattern }

func (user) cost() cost { return byName }

func (u user) holds(c *candidate) bool { return u.in(c.cell.text) }

func (u user) in(text string) bool { return usersOf(text, u.fits.inText) }

func (u user) narrow(x *examination, in, out *words) {
	for _, a := range x.accounts {
		if u.fits.fits([]byte(a.name)) {
			out.or(&a.in)
		}
	}
	out.andNot(&x.loose)
	out.and(in)
	likely := *in
	likely.andNot(out)
	if part := u.fits.part(); len(part) > 2 {
		loose := likely
		loose.and(&x.loose)
		x.users.narrow(part, &likely)
		likely.or(&loose)
	}
	for i := range likely.all() {
		if u.in(x.texts[i]) {
			out.add(i)
		}
	}
}

// online holds for those who have a connection.
type online struct{}

func (online) cost() cost { return bySets }

func (online) holds(c *candidate) bool { return c.seen.Online }

func (online) narrow(x *examination, in, out *words) {
	x.soft(func(p *presence) { p.onlineIn(x.begin, out) })
	out.and(in)
}

// lastSeen holds if how long ago a client was seen passes a test, or if it is
// online, or was never seen, as may be.
type lastSeen struct {
	test          func(since time.Duration) bool
	online, never bool
}

func (lastSeen) cost() cost { return bySight }

func (l lastSeen) holds(c *candidate) bool {
	return l.passes(micros.Of(c.seen.At), c.now.UnixMicro(), c.seen.Online)
}

func (l lastSeen) passes(at, now int64, online bool) bool {
	switch {
	case online:
		return l.online
	case at == 0:
		return l.never
	}
	return l.test(time.Duration(now-at) * time.Microsecond)
}

func (l lastSeen) narrow(x *examination, in, out *words) {
	now := x.now.UnixMicro()
	x.soft(func(p *presence) {
		var connected words
		p.onlineIn(x.begin, &connected)
		seen := p.at.page(x.begin)
		for i := range in.all() {
			var at int64
			if seen != nil {
				at = seen[i]
			}
			if l.passes(at, now, connected.has(i)) {
				out.add(i)
			}
		}
	})
}
