package clients

// macPart tells quickly who has no MAC address with some characters in a row.
type macPart struct {
	all bool // nothing is known
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

// in reports false if the client with these facts has no such address.
func (p *macPart) in(text string) bool {
	if p.all {
		return true
	}
	u := unpacker{text[1:]}
	u.text()
	u.text()
	for range u.number() {
		if u.number() > 0 {
			return true // written in some other way
		}
		raw := u.rest[:6]
		u.rest = u.rest[6:]
		mac := uint64(raw[0])<<40 | uint64(raw[1])<<32 | uint64(raw[2])<<24 | uint64(raw[3])<<16 | uint64(raw[4])<<8 | uint64(raw[5])
		for _, m := range p.at {
			if mac&m.mask == m.value {
				return true
			}
		}
	}
	return false
}
