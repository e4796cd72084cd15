package clients

import (
	"math/bits"
	"slices"
)

// macColumn has the MAC addresses of a segment as numbers.
type macColumn struct {
	// macs has in the lowest bits whose each is, and is ascending, so that those
	// that begin alike are neighbours.
	macs []uint64
	odd  words // who has some that are written in another way
}

func (c *macColumn) begin() { *c = macColumn{macs: c.macs[:0]} }

// take reads those of the i-th client; an empty text is one that was deleted.
func (c *macColumn) take(i int, text string) {
	if text == "" {
		return
	}
	u := unpacker{text[1:]}
	u.text()
	u.text()
	for range u.number() {
		if n := u.number() - 1; n >= 0 {
			u.rest = u.rest[n:]
			c.odd.add(i)
			continue
		}
		raw := u.rest[:6]
		u.rest = u.rest[6:]
		mac := uint64(raw[0])<<40 | uint64(raw[1])<<32 | uint64(raw[2])<<24 | uint64(raw[3])<<16 | uint64(raw[4])<<8 | uint64(raw[5])
		c.macs = append(c.macs, mac*segmentSize|uint64(i))
	}
}

// sorted returns the column for good; begin takes the memory of c again.
func (c *macColumn) sorted() macColumn {
	slices.Sort(c.macs)
	return macColumn{slices.Clone(c.macs), c.odd}
}

// within returns the part of the column where addresses begin as p demands.
func (c *macColumn) within(p *macPattern) []uint64 {
	if p.never {
		return nil
	}
	open := 48 - bits.LeadingZeros64(^(p.fixed.mask << 16)) // low bits that are not part of how it begins
	low := p.fixed.value >> open << open
	begin, _ := slices.BinarySearch(c.macs, low*segmentSize)
	n, _ := slices.BinarySearch(c.macs[begin:], (low+1<<open)*segmentSize)
	return c.macs[begin : begin+n]
}

// mac holds if a MAC address fits.
type mac struct {
	fits    pattern
	numbers macPattern // the same, of addresses that are written as agents do
}

func newMAC(fits pattern) *mac { return &mac{fits, newMACPattern(fits)} }

func (*mac) cost() cost { return byName }

func (m *mac) holds(c *candidate) bool { return macsOf(c.cell.text, m.fits.fits) }

// mostPerMAC is how many numbers cost as much as the text of one client.
const mostPerMAC = 32

func (m *mac) narrow(x *examination, in, out *words) {
	near, doubtful := x.macs.within(&m.numbers), *in
	if len(near) <= mostPerMAC*in.count() {
		doubtful = x.macs.odd
		doubtful.or(&x.loose)
		doubtful.and(in)
		m.numbers.find(near, out)
		out.and(in)
		out.andNot(&doubtful)
	}
	for i := range doubtful.all() {
		if macsOf(x.texts[i], m.fits.fits) {
			out.add(i)
		}
	}
}
