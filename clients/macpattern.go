package clients

import "bytes"

// macLength is the length of an address that is written as agents do: six pairs of
// hex digits with colons between.
const macLength = len("00:00:00:00:00:00")

// macPattern asks of MAC addresses as numbers what a pattern asks of their text,
// which is not written for that.
type macPattern struct {
	never  bool      // none has it
	fixed  maskedMAC // how it begins and ends
	pieces []macPiece
}

// maskedMAC is what an address, as a number, has to have at some place.
type maskedMAC struct{ mask, value uint64 }

func (m maskedMAC) in(mac uint64) bool { return mac&m.mask == m.value }

// macPiece are characters in a row that may be at several places. Those of the
// next piece come behind.
type macPiece struct {
	length int
	places []macPlace // ascending
}

// macPlace is where a piece may begin, and what an address has to have then.
type macPlace struct {
	at int
	maskedMAC
}

func newMACPattern(fits pattern) macPattern {
	begin, middle, end := fits.around()
	from, to := len(begin), macLength-len(end)
	starless := fits.wild && bytes.IndexByte(fits.text, '*') < 0
	p := macPattern{never: from > to || starless && from < to}
	p.fix(0, begin)
	p.fix(to, end)
	for _, text := range middle {
		p.add(text, from, to)
	}
	if len(p.pieces) == 1 && len(p.pieces[0].places) == 1 { // it cannot be elsewhere
		p.fixed = p.fixed.and(p.pieces[0].places[0].maskedMAC)
		p.pieces = nil
	}
	return p
}

// fix demands characters at one place.
func (p *macPattern) fix(at int, text []byte) {
	m, ok := maskAt(at, text)
	p.never = p.never || !ok
	p.fixed = p.fixed.and(m)
}

// add demands characters that begin at from or later and end before to.
func (p *macPattern) add(text []byte, from, to int) {
	if len(text) == 0 {
		return
	}
	piece := macPiece{length: len(text)}
	for at := from; at+len(text) <= to; at++ {
		if m, ok := maskAt(at, text); ok {
			piece.places = append(piece.places, macPlace{at, m})
		}
	}
	p.never = p.never || len(piece.places) == 0
	p.pieces = append(p.pieces, piece)
}

// maskAt tells what an address has if its text has some characters, with ? for any,
// at a place; false if no text has.
func maskAt(at int, text []byte) (m maskedMAC, ok bool) {
	for i, c := range text {
		place := at + i
		digit := hexDigit(c)
		switch colon := place%3 == 2; {
		case place < 0, place >= macLength:
			return m, false
		case c == '?':
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

// and demands both; they speak of different places.
func (m maskedMAC) and(other maskedMAC) maskedMAC {
	return maskedMAC{m.mask | other.mask, m.value | other.value}
}

// find adds to out whose addresses fit, of some entries of a column.
func (p *macPattern) find(entries []uint64, out *words) {
	switch len(p.pieces) {
	case 0:
		p.fixed.find(entries, out)
	case 1: // place by place, so that each time there is one thing to compare
		for _, place := range p.pieces[0].places {
			p.fixed.and(place.maskedMAC).find(entries, out)
		}
	default:
		for _, entry := range entries {
			if p.in(entry / segmentSize) {
				out.add(int(entry % segmentSize))
			}
		}
	}
}

func (m maskedMAC) find(entries []uint64, out *words) {
	mask, value := m.mask*segmentSize, m.value*segmentSize
	for _, entry := range entries {
		if entry&mask == value {
			out.add(int(entry % segmentSize))
		}
	}
}

// in reports whether an address has all pieces one behind the other. Each is taken
// where it comes first, which leaves most room for the others.
func (p *macPattern) in(mac uint64) bool {
	if !p.fixed.in(mac) {
		return false
	}
	from := 0
	for i := range p.pieces {
		at, found := p.pieces[i].firstIn(mac, from)
		if !found {
			return false
		}
		from = at + p.pieces[i].length
	}
	return true
}

func (p *macPiece) firstIn(mac uint64, from int) (at int, found bool) {
	for _, place := range p.places {
		if place.at >= from && place.in(mac) {
			return place.at, true
		}
	}
	return 0, false
}
