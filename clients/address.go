package clients

import (
	"strconv"
	"strings"
)

// address holds if the address that a client was seen at fits.
type address struct {
	fits pattern
	v4   *v4Search // of the longest part; made when it is needed
}

func newAddress(fits pattern) *address { return &address{fits: fits} }

func (*address) cost() cost { return bySight }

func (a *address) holds(c *candidate) bool { return a.fits.fits([]byte(c.seen.Address)) }

func (a *address) narrow(x *examination, in, out *words) {
	if a.v4 == nil {
		a.v4 = newV4Search(a.fits.part())
	}
	x.soft(func(p *presence) {
		a.inV4(p.v4.page(x.begin), x, in, out)
		if len(p.odd) == 0 {
			return
		}
		for i := range in.all() {
			if odd := p.odd[x.begin+uint32(i)]; odd != "" && a.fits.fits([]byte(odd)) {
				out.add(i)
			}
		}
	})
}

// inV4 looks at the addresses of a segment. Those without one have the empty text.
func (a *address) inV4(page *[pageSize]uint32, x *examination, in, out *words) {
	none := a.fits.fits(nil)
	if !none && (page == nil || a.v4.inner == nil) {
		return
	}
	if page == nil {
		page = &noAddresses
	}
	for i := range in.all() {
		switch v4 := page[i]; {
		case v4 == 0 && none:
			out.add(i)
		case v4 != 0 && a.v4.in(v4):
			if !a.fits.wild {
				out.add(i)
				break
			}
			if x.scratch = (sight{v4: v4}).appendAddress(x.scratch[:0]); a.fits.fits(x.scratch) {
				out.add(i)
			}
		}
	}
}

var noAddresses [pageSize]uint32

// v4Search finds IPv4 addresses whose text has some characters in a row, without
// writing the text: it steps from octet to octet through tables of how much of
// the characters is matched behind each.
type v4Search struct {
	n     uint8 // states; the last is: found
	inner [][256]uint8
	last  [][256]uint8
}

// longestV4 is the text of the longest address.
const longestV4 = len("255.255.255.255")

func newV4Search(part []byte) *v4Search {
	if len(part) > longestV4 || strings.Trim(string(part), "0123456789.") != "" {
		return &v4Search{} // in none
	}
	s := &v4Search{n: uint8(len(part)), inner: make([][256]uint8, len(part)+1), last: make([][256]uint8, len(part)+1)}
	back := fallBack(part)
	for state := range s.inner {
		for octet := range 256 {
			text := strconv.AppendInt(nil, int64(octet), 10)
			s.last[state][octet] = walk(part, back, state, text)
			s.inner[state][octet] = walk(part, back, state, append(text, '.'))
		}
	}
	return s
}

// walk returns how much of part is matched behind text, if state of it was before;
// once all was, it stays so.
func walk(part []byte, back []int, state int, text []byte) uint8 {
	for _, c := range text {
		for state > 0 && state < len(part) && part[state] != c {
			state = back[state]
		}
		if state < len(part) && part[state] == c {
			state++
		}
	}
	return uint8(state)
}

// fallBack tells how much of part is matched still when what follows does not: the
// table of Knuth, Morris and Pratt.
func fallBack(part []byte) []int {
	back := make([]int, len(part)+1)
	for i, k := 1, 0; i < len(part); i++ {
		for k > 0 && part[i] != part[k] {
			k = back[k]
		}
		if part[i] == part[k] {
			k++
		}
		back[i+1] = k
	}
	return back
}

func (s *v4Search) in(v4 uint32) bool {
	if s.inner == nil {
		return false
	}
	state := s.inner[0][byte(v4>>24)]
	state = s.inner[state][byte(v4>>16)]
	state = s.inner[state][byte(v4>>8)]
	return s.last[state][byte(v4)] == s.n
}
