package clients

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"raptorpack/internal/micros"
)

// here is the node of SetOnline among the others.
const here = ""

// presence is the soft state of one org's clients, in columns by ordinal: a bit
// per client and node, and twelve bytes per client for when and where it was seen
// last. What a deleted client leaves is found by nobody, as its ordinal is never
// used again. softState.mu guards it.
type presence struct {
	online map[string]*ordinals // by node; here is this one
	at     column[int64]        // microseconds; 0: never
	v4     column[uint32]       // address; 0: none, or an odd one
	odd    map[uint32]string

	// strangers are those who are not enrolled here yet: other nodes may be ahead.
	strangers map[number]stranger
}

// sight is when and where a client was seen.
type sight struct {
	at  int64
	v4  uint32
	odd string
}

type stranger struct {
	sight
	online []string // nodes, each once
}

func newPresence() *presence {
	return &presence{online: map[string]*ordinals{}, odd: map[uint32]string{}, strangers: map[number]stranger{}}
}

// saw keeps the newest sighting. One without an address leaves the one before.
func (p *presence) saw(w who, s sight) {
	if !w.known {
		known := p.strangers[w.id]
		known.sight = known.sight.newer(s)
		p.strangers[w.id] = known
		return
	}
	p.put(w.ordinal, p.sight(w.ordinal).newer(s))
}

func (s sight) newer(other sight) sight {
	if other.at < s.at {
		return s
	}
	if other.v4 == 0 && other.odd == "" {
		other.v4, other.odd = s.v4, s.odd
	}
	return other
}

func (p *presence) sight(ordinal uint32) sight {
	s := sight{at: p.at.get(ordinal), v4: p.v4.get(ordinal)}
	if s.v4 == 0 && len(p.odd) > 0 {
		s.odd = p.odd[ordinal]
	}
	return s
}

func (p *presence) put(ordinal uint32, s sight) {
	p.at.set(ordinal, s.at)
	p.v4.set(ordinal, s.v4)
	if s.odd != "" {
		p.odd[ordinal] = s.odd
	} else if len(p.odd) > 0 {
		delete(p.odd, ordinal)
	}
}

func (p *presence) setOnline(node string, w who, online bool) {
	switch {
	case !w.known:
		p.setStrange(node, w.id, online)
	case online && p.online[node] == nil:
		p.online[node] = &ordinals{}
		fallthrough
	case p.online[node] != nil:
		p.online[node].set(w.ordinal, online)
	}
}

func (p *presence) setStrange(node string, id number, online bool) {
	s := p.strangers[id]
	s.online = slices.DeleteFunc(s.online, func(have string) bool { return have == node })
	if online {
		s.online = append(s.online, node)
	}
	if len(s.online) == 0 && s.sight == (sight{}) {
		delete(p.strangers, id)
		return
	}
	p.strangers[id] = s
}

func (p *presence) gone(node string) {
	delete(p.online, node)
	for id, s := range p.strangers {
		if slices.Contains(s.online, node) {
			p.setStrange(node, id, false)
		}
	}
}

func (p *presence) seen(w who) Seen {
	if !w.known {
		s := p.strangers[w.id]
		return s.seen(len(s.online) > 0)
	}
	return p.sight(w.ordinal).seen(p.isOnline(w.ordinal))
}

// onlineIn adds to out who is online of the segment that begins with an ordinal.
func (p *presence) onlineIn(begin uint32, out *words) {
	for _, o := range p.online {
		from := min(int(begin/64), len(*o))
		for i, word := range (*o)[from:min(from+len(out), len(*o))] {
			out[i] |= word
		}
	}
}

func (p *presence) isOnline(ordinal uint32) bool {
	for _, b := range p.online {
		if b.has(ordinal) {
			return true
		}
	}
	return false
}

func (s sight) seen(online bool) Seen {
	return Seen{At: micros.Time(s.at), Address: string(s.appendAddress(nil)), Online: online}
}

// appendAddress appends the address as text, nothing if it is not known.
func (s sight) appendAddress(out []byte) []byte {
	if s.v4 == 0 {
		return append(out, s.odd...)
	}
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], s.v4)
	return netip.AddrFrom4(raw).AppendTo(out)
}

// packAddress makes four bytes of an IPv4 address; others stay as they are.
func packAddress(text string) (v4 uint32, odd string) {
	if address, err := netip.ParseAddr(text); err == nil && address.Is4() {
		raw := address.As4()
		if v4 = binary.BigEndian.Uint32(raw[:]); v4 != 0 {
			return v4, ""
		}
	}
	return 0, strings.Clone(text)
}

// settle moves what is known of a stranger to its ordinal.
func (p *presence) settle(id number, ordinal uint32) {
	s, known := p.strangers[id]
	if !known {
		return
	}
	delete(p.strangers, id)
	w := who{id, ordinal, true}
	if s.sight != (sight{}) {
		p.saw(w, s.sight)
	}
	for _, node := range s.online {
		p.setOnline(node, w, true)
	}
}

func (p *presence) settleAll(t *table) {
	for _, id := range slices.Collect(maps.Keys(p.strangers)) {
		if ordinal, known := t.byID[id]; known {
			p.settle(id, ordinal)
		}
	}
}

// moveTo makes everybody in t a stranger of another presence.
func (p *presence) moveTo(other *presence, t *table) {
	for ordinal := range t.n {
		if t.cell(ordinal).text == "" {
			continue
		}
		s := stranger{sight: p.sight(ordinal)}
		for node, b := range p.online {
			if b.has(ordinal) {
				s.online = append(s.online, node)
			}
		}
		if len(s.online) > 0 || s.sight != (sight{}) {
			other.strangers[t.birth(ordinal).id] = s
		}
	}
}

// ordinals is a set of clients. The zero value is empty.
type ordinals []uint64

func (b *ordinals) set(ordinal uint32, in bool) {
	word, bit := int(ordinal/64), uint64(1)<<(ordinal%64)
	switch {
	case in && word >= len(*b):
		*b = append(*b, make([]uint64, word+1-len(*b))...)
		(*b)[word] = bit
	case in:
		(*b)[word] |= bit
	case word < len(*b):
		(*b)[word] &^= bit
	}
}

func (b *ordinals) has(ordinal uint32) bool {
	word := int(ordinal / 64)
	return word < len(*b) && (*b)[word]&(1<<(ordinal%64)) != 0
}

// A page of a column has the values of one segment.
const pageSize = segmentSize

// column has a value for each ordinal, zero where none was set.
type column[T comparable] struct{ pages []*[pageSize]T }

// page returns the values from an ordinal on, nil if all are zero.
func (c *column[T]) page(ordinal uint32) *[pageSize]T {
	if page := int(ordinal / pageSize); page < len(c.pages) {
		return c.pages[page]
	}
	return nil
}

func (c *column[T]) get(ordinal uint32) (value T) {
	if page := int(ordinal / pageSize); page < len(c.pages) && c.pages[page] != nil {
		return c.pages[page][ordinal%pageSize]
	}
	return value
}

func (c *column[T]) set(ordinal uint32, value T) {
	var zero T
	page := int(ordinal / pageSize)
	if page >= len(c.pages) {
		if value == zero {
			return
		}
		c.pages = append(c.pages, make([]*[pageSize]T, page+1-len(c.pages))...)
	}
	if c.pages[page] == nil {
		c.pages[page] = new([pageSize]T)
	}
	c.pages[page][ordinal%pageSize] = value
}
