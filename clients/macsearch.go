package clients

import "slices"

// macPart tells of MAC addresses as numbers whether their text has some characters
// in a row.
type macPart struct {
	all bool // no characters are asked for
	at  []maskedMAC
}

// maskedMAC is what an address, as a number, has to have at some place.
type maskedMAC struct{ mask, value uint64 }

// newMACPart takes the characters, in lower case. As text, an address has hex
// digits, and colons at each third place.
func newMACPart(part []byte) macPart {
	p := macPart{all: len(part) == 0}
	for at := range max(0, 18-len(part)) {
		if m, ok := maskAt(at, part); ok {
			p.at = append(p.at, m)
		}
	}
	return p
}

func maskAt(at int, part []byte) (m maskedMAC, ok bool) {
	for i, c := range part {
		place := at + i
		digit := hexDigit(c)
		switch colon := place%3 == 2; {
		case colon && c != ':', !colon && digit > 15:
			return m, false
		case !colon:
			shift := 44 - 4*(place-place/3)
			m.mask |= 15 << shift
			m.value |= uint64(digit) << shift
		}
	}
	return m, true
}

// in reports whether an address has the part.
func (p *macPart) in(mac uint64) bool {
	for _, m := range p.at {
		if mac&m.mask == m.value {
			return true
		}
	}
	return p.all
}

// macColumn has the MAC addresses of a segment as numbers.
type macColumn struct {
	macs []uint64
	ends []uint32 // where those of each client end
	odd  words    // who has some that are written in another way
}

func (c *macColumn) begin() { *c = macColumn{macs: c.macs[:0], ends: c.ends[:0]} }

// take reads those of the next client; an empty text is one that was deleted.
func (c *macColumn) take(text string) {
	if text != "" {
		u := unpacker{text[1:]}
		u.text()
		u.text()
		for range u.number() {
			if n := u.number() - 1; n >= 0 {
				u.rest = u.rest[n:]
				c.odd.add(len(c.ends))
				continue
			}
			raw := u.rest[:6]
			u.rest = u.rest[6:]
			c.macs = append(c.macs, uint64(raw[0])<<40|uint64(raw[1])<<32|uint64(raw[2])<<24|uint64(raw[3])<<16|uint64(raw[4])<<8|uint64(raw[5]))
		}
	}
	c.ends = append(c.ends, uint32(len(c.macs)))
}

func (c *macColumn) clone() macColumn {
	return macColumn{slices.Clone(c.macs), slices.Clone(c.ends), c.odd}
}

// narrow adds to out those of in who have an address with the part. It knows
// nothing of the odd ones.
func (c *macColumn) narrow(p *macPart, in, out *words) {
	for i := range in.all() {
		if i >= len(c.ends) {
			return
		}
		begin := uint32(0)
		if i > 0 {
			begin = c.ends[i-1]
		}
		for _, mac := range c.macs[begin:c.ends[i]] {
			if p.in(mac) {
				out.add(i)
				break
			}
		}
	}
}

// mac holds if a MAC address fits.
type mac struct{ fits pattern }

func (mac) cost() cost { return byName }

func (m mac) holds(c *candidate) bool { return macsOf(c.cell.text, m.fits.fits) }

func (m mac) narrow(x *examination, in, out *words) {
	doubtful := x.macs.odd
	doubtful.or(&x.loose)
	doubtful.and(in)
	known := *in
	known.andNot(&doubtful)
	part := newMACPart(m.fits.part())
	if m.fits.wild {
		x.macs.narrow(&part, &known, &doubtful)
	} else {
		x.macs.narrow(&part, &known, out)
	}
	for i := range doubtful.all() {
		if macsOf(x.texts[i], m.fits.fits) {
			out.add(i)
		}
	}
}
