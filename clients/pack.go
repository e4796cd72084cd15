package clients

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
)

// facts are what a client said of its host and operators noted about it, as far
// as few clients share it. They are kept packed in one string, because a million
// clients as structs of strings and slices would take three times the memory and
// cost the garbage collector a visit to each piece.
//
// A packed text is: a byte of flags, the host name, the FQDN (or what follows the
// host name in it), MAC addresses, users, and what the flags name of install time,
// metadata and key. Texts and lists have their length in front, as a varint. It
// lives in memory only; no file has it.
type facts struct {
	hostname    string
	fqdn        string
	users       []string
	macs        []string
	installTime int64
	metadata    map[string]string
	key         []byte // PKCS#1 DER, if it does not fit the column of keys
}

// Flags of a packed text.
const (
	plainHost byte = 1 << iota // lower-casing does not change the host name
	plainFQDN                  // nor the FQDN
	hasInstallTime
	hasMetadata
	hasKey
	fqdnBelow // the FQDN is the host name, a dot, and what is stored
	fqdnOther // the FQDN is what is stored

	fqdnKind = fqdnBelow | fqdnOther // neither: there is none; both: the host name again
)

func (f *facts) pack() string {
	var scratch [512]byte
	out := appendFacts(scratch[:0], f.flags(), f.hostname, f.fqdn, f.users, f.macs)
	if f.installTime != 0 {
		out = binary.AppendVarint(out, f.installTime)
	}
	if len(f.metadata) > 0 {
		out = binary.AppendUvarint(out, uint64(len(f.metadata)))
		for _, key := range slices.Sorted(maps.Keys(f.metadata)) {
			out = appendText(appendText(out, key), f.metadata[key])
		}
	}
	return string(append(out, f.key...))
}

// flags are those of what follows users and addresses.
func (f *facts) flags() (flags byte) {
	if f.installTime != 0 {
		flags |= hasInstallTime
	}
	if len(f.metadata) > 0 {
		flags |= hasMetadata
	}
	if f.key != nil {
		flags |= hasKey
	}
	return flags
}

// chars is text as it is kept, or in a buffer that is about to be used again.
type chars interface{ ~string | ~[]byte }

// appendFacts begins a packed text.
func appendFacts[T chars](out []byte, flags byte, hostname, fqdn T, users, macs []T) []byte {
	fqdn, kind := splitFQDN(hostname, fqdn)
	flags |= kind
	if plain(hostname) {
		flags |= plainHost
	}
	if plain(fqdn) {
		flags |= plainFQDN
	}
	out = appendText(appendText(append(out, flags), hostname), fqdn)
	out = binary.AppendUvarint(out, uint64(len(macs)))
	for _, mac := range macs {
		out = appendMAC(out, mac)
	}
	out = binary.AppendUvarint(out, uint64(len(users)))
	for _, user := range users {
		out = appendText(out, user)
	}
	return out
}

// splitFQDN returns what is stored of an FQDN, and its kind.
func splitFQDN[T chars](hostname, fqdn T) (stored T, kind byte) {
	n := len(hostname)
	switch {
	case len(fqdn) == 0:
		return fqdn, 0
	case len(fqdn) < n || string(fqdn[:n]) != string(hostname):
		return fqdn, fqdnOther
	case len(fqdn) == n:
		return fqdn[:0], fqdnKind
	case fqdn[n] == '.':
		return fqdn[n+1:], fqdnBelow
	}
	return fqdn, fqdnOther
}

func appendText[T chars](out []byte, text T) []byte {
	return append(binary.AppendUvarint(out, uint64(len(text))), text...)
}

// appendMAC writes an address as six bytes behind a zero, if it is written as
// agents do; any other text with its length plus one in front.
func appendMAC[T chars](out []byte, mac T) []byte {
	raw, ok := parseMAC(mac)
	if !ok {
		return append(binary.AppendUvarint(out, uint64(len(mac))+1), mac...)
	}
	return append(append(out, 0), raw[:]...)
}

// parseMAC reads six pairs of lower-case hex digits with colons between.
func parseMAC[T chars](mac T) (raw [6]byte, ok bool) {
	if len(mac) != 17 {
		return raw, false
	}
	for i := range raw {
		high, low := hexDigit(mac[3*i]), hexDigit(mac[3*i+1])
		if high > 15 || low > 15 || i < 5 && mac[3*i+2] != ':' {
			return raw, false
		}
		raw[i] = high<<4 | low
	}
	return raw, true
}

// hexDigits are the values of lower-case hex digits; anything above 15 is none.
var hexDigits = func() (values [256]byte) {
	for c := range values {
		values[c] = 0xff
		if at := strings.IndexByte("0123456789abcdef", byte(c)); at >= 0 {
			values[c] = byte(at)
		}
	}
	return values
}()

func hexDigit(c byte) byte { return hexDigits[c] }

// unpack reads a packed text. The strings share its memory.
func unpack(text string) facts {
	u := unpacker{text}
	flags := u.byte()
	f := facts{hostname: u.text()}
	switch fqdn := u.text(); flags & fqdnKind {
	case fqdnKind:
		f.fqdn = f.hostname
	case fqdnBelow:
		f.fqdn = f.hostname + "." + fqdn
	case fqdnOther:
		f.fqdn = fqdn
	}
	if n := u.number(); n > 0 {
		f.macs = make([]string, n)
		var scratch [17]byte
		for i := range f.macs {
			f.macs[i] = string(u.mac(scratch[:0]))
		}
	}
	if n := u.number(); n > 0 {
		f.users = make([]string, n)
		for i := range f.users {
			f.users[i] = u.text()
		}
	}
	if flags&hasInstallTime != 0 {
		f.installTime = u.signed()
	}
	if flags&hasMetadata != 0 {
		n := u.number()
		f.metadata = make(map[string]string, n)
		for range n {
			key := u.text()
			f.metadata[key] = u.text()
		}
	}
	if flags&hasKey != 0 {
		f.key = []byte(u.rest)
	}
	return f
}

// unpacker reads what appendTo wrote; only that, so it checks nothing.
type unpacker struct{ rest string }

func (u *unpacker) byte() byte {
	b := u.rest[0]
	u.rest = u.rest[1:]
	return b
}

func (u *unpacker) number() int {
	if b := u.rest[0]; b < 0x80 {
		u.rest = u.rest[1:]
		return int(b)
	}
	return int(u.varint())
}

func (u *unpacker) varint() uint64 {
	var n uint64
	for shift := 0; ; shift += 7 {
		b := u.byte()
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
}

func (u *unpacker) signed() int64 {
	n := u.varint()
	return int64(n>>1) ^ -int64(n&1)
}

func (u *unpacker) text() string {
	n := u.number()
	text := u.rest[:n]
	u.rest = u.rest[n:]
	return text
}

// mac reads an address as it was written.
func (u *unpacker) mac(out []byte) []byte {
	if n := u.number() - 1; n >= 0 {
		out = append(out, u.rest[:n]...)
		u.rest = u.rest[n:]
		return out
	}
	return u.rawMAC(out)
}

// lowerMAC reads an address in lower case.
func (u *unpacker) lowerMAC(out []byte) []byte {
	if n := u.number() - 1; n >= 0 {
		out = appendLower(out, u.rest[:n])
		u.rest = u.rest[n:]
		return out
	}
	return u.rawMAC(out)
}

func (u *unpacker) rawMAC(out []byte) []byte {
	const digits = "0123456789abcdef"
	raw := u.rest[:6]
	u.rest = u.rest[6:]
	for i := range 6 {
		out = append(out, digits[raw[i]>>4], digits[raw[i]&15], ':')
	}
	return out[:len(out)-1]
}

// skipMAC is mac for those who do not want to know.
func (u *unpacker) skipMAC() {
	n := u.number() - 1
	if n < 0 {
		n = 6
	}
	u.rest = u.rest[n:]
}

// plain reports whether lower-casing changes nothing, for sure.
func plain[T chars](text T) bool {
	for i := range len(text) {
		if c := text[i]; c >= 0x80 || c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return true
}

// appendLower appends text in lower case.
func appendLower(out []byte, text string) []byte {
	begin := len(out)
	for i := range len(text) {
		c := text[i]
		if c >= 0x80 {
			return append(out[:begin], strings.ToLower(text)...)
		}
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		out = append(out, c)
	}
	return out
}

// usersOf calls yield for each user of a packed text, until it returns true.
func usersOf(text string, yield func(user string) bool) bool {
	u := unpacker{text[1:]}
	u.text()
	u.text()
	for range u.number() {
		u.skipMAC()
	}
	for range u.number() {
		if yield(u.text()) {
			return true
		}
	}
	return false
}

// macsOf calls yield for each MAC address of a packed text in lower case, until it
// returns true. What it is given is valid during the call.
func macsOf(text string, yield func(mac []byte) bool) bool {
	u := unpacker{text[1:]}
	u.text()
	u.text()
	var scratch [64]byte // more than agents write
	for range u.number() {
		if yield(u.lowerMAC(scratch[:0])) {
			return true
		}
	}
	return false
}

// sameSought reports whether two packed texts agree in names, MAC addresses and
// users.
func sameSought(a, b string) bool {
	return a == b || (a[0]^b[0])&fqdnKind == 0 && sought(a) == sought(b)
}

// sought is the part of a packed text that has these.
func sought(text string) string {
	u := unpacker{text[1:]}
	u.text()
	u.text()
	for range u.number() {
		u.skipMAC()
	}
	for range u.number() {
		u.text()
	}
	return text[1 : len(text)-len(u.rest)]
}
