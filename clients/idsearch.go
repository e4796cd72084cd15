package clients

import "strconv"

// idPart is part of a client id in lower case: of "c." and 16 hex digits.
type idPart struct {
	never    bool     // no id has it
	anchored bool     // the digits are the first ones
	value    number   // of the anchored digits, in the lowest bits
	digits   []uint64 // each of them 16 times over
}

// everyNibble times a digit is the digit 16 times over.
const everyNibble = 0x1111_1111_1111_1111

func newIDPart(lower string) idPart {
	digits, p := lower, idPart{}
	switch {
	case lower == "c" || lower == "." || lower == "c.":
		return idPart{anchored: true}
	case lower[0] == '.':
		p.anchored, digits = true, lower[1:]
	case len(lower) > 1 && lower[:2] == "c.":
		p.anchored, digits = true, lower[2:]
	}
	value, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || len(digits) > 16 || !isHex(digits) {
		return idPart{never: true}
	}
	p.value = number(value)
	for i := range len(digits) {
		p.digits = append(p.digits, uint64(hexDigit(digits[i]))*everyNibble)
	}
	return p
}

func isHex(lower string) bool {
	for i := range len(lower) {
		if hexDigit(lower[i]) > 15 {
			return false
		}
	}
	return true
}

// in reports whether an id has the part.
func (p *idPart) in(id number) bool {
	switch {
	case p.never:
		return false
	case p.anchored:
		return id>>(64-4*len(p.digits)) == p.value
	}
	return p.follows(id, zeroNibbles(uint64(id)^p.digits[0]), 1)
}

// follows reports whether the digits from the n-th on follow those before, of
// which ends has the highest bit of each nibble where they end.
func (p *idPart) follows(id number, ends uint64, n int) bool {
	for _, digit := range p.digits[n:] {
		if ends = ends >> 4 & zeroNibbles(uint64(id)^digit); ends == 0 {
			return false
		}
	}
	return ends != 0
}

// zeroNibbles sets the highest bit of each nibble that is zero.
func zeroNibbles(x uint64) uint64 {
	const low = everyNibble * 7
	return ^((x&low + low) | x) & (everyNibble << 3)
}

func (p *idPart) narrow(x *examination, in, out *words) {
	if p.never {
		return
	}
	for i, word := range in {
		if word != 0 {
			out[i] |= word & p.inBlock(x.born[i]) // a word of bits is a block
		}
	}
}

func (p *idPart) inBlock(b *births) (has uint64) {
	if p.anchored || len(p.digits) < 2 {
		for i := range b {
			if p.in(b[i].id) {
				has |= 1 << i
			}
		}
		return has
	}
	// Two digits are enough for most to be out, and their test is a dozen
	// instructions without a branch.
	first, second := p.digits[0], p.digits[1]
	for i := range b {
		id := uint64(b[i].id)
		ends := zeroNibbles(id^first) >> 4 & zeroNibbles(id^second)
		if ends != 0 && p.follows(number(id), ends, 2) {
			has |= 1 << i
		}
	}
	return has
}

// id holds if the client id fits.
type id struct{ fits pattern }

func (id) cost() cost { return byName }

func (d id) holds(c *candidate) bool {
	var scratch [18]byte
	text := c.id.appendTo(scratch[:0])
	text[0] = 'c'
	return d.fits.fits(text)
}

func (d id) narrow(x *examination, in, out *words) {
	likely := *in
	if part := d.fits.part(); len(part) > 0 {
		p := newIDPart(string(part))
		likely = words{}
		p.narrow(x, in, &likely)
	}
	for i := range likely.all() {
		if d.holds(&candidate{id: x.born[i/blockSize][i%blockSize].id}) {
			out.add(i)
		}
	}
}
