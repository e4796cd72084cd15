package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"unique"

	"raptorpack/ids"
)

// scanner reads lines as appendLine writes them, without a general decoder: that
// one takes 20 µs for each, and a start with a million clients has to wait. What
// is written in any other way it leaves to entry.parse.
//
// It is not safe for concurrent use; each goroutine has its own.
type scanner struct {
	rest []byte
	ok   bool // all was as expected so far

	texts  []byte // packed facts of a batch, one behind the other
	macs   [][]byte
	users  [][]byte
	scrap  []byte
	shared shared
}

// shared keeps what lines have in common, so that clients share its memory.
// Platforms and labels are known by the bytes of the lines.
type shared struct {
	platforms map[string]unique.Handle[platform]
	labels    map[string]string
	inquiry   *inquiry // of the line before; nil: it was never asked
}

// mostShared bounds each table of what lines have in common.
const mostShared = 1 << 13

func newScanner() *scanner {
	return &scanner{shared: shared{platforms: map[string]unique.Handle[platform]{}, labels: map[string]string{}}}
}

// remember keeps a value; if too many are kept, it begins anew.
func remember[V any](in map[string]V, key []byte, value V) V {
	if len(in) >= mostShared {
		clear(in)
	}
	in[string(key)] = value
	return value
}

// scan reads a line into e. The packed facts are appended to s.texts instead; the
// caller makes one string of all. It reports false, with e undefined and s.texts
// as before, if the line is not written as ours are.
func (s *scanner) scan(raw []byte, e *entry) bool {
	s.rest, s.ok = raw, true
	*e = entry{}
	s.literal(`{`)
	if org := s.member(`"org":`); len(org) > 0 {
		var err error
		if e.org, err = ids.ParseOrg(string(org)); err != nil {
			return false
		}
		s.literal(`,`)
	}
	s.literal(`"ordinal":`)
	ordinal := s.integer()
	if ordinal < 0 || ordinal > 1<<31 {
		return false
	}
	e.ordinal = uint32(ordinal)
	s.literal(`,"client_id":`)
	id, known := numberOf(string(s.quoted()))
	s.ok = s.ok && known
	e.born.id = id
	s.literal(`,"first_seen_us":`)
	e.born.firstSeen = s.integer()
	host, fqdn := s.member(`,"hostname":`), s.member(`,"fqdn":`)
	e.cell.platform = s.platform()
	installed := s.optional(`,"install_time":`)
	s.macs = s.list(`,"mac_addresses":`, s.macs[:0])
	s.users = s.list(`,"users":`, s.users[:0])
	e.cell.labels = s.labels()
	e.cell.labelsChanged = s.optional(`,"labels_us":`)
	s.inquiry(&e.cell)
	s.modulus(&e.modulus)
	s.literal(`}`)
	if !s.ok || len(s.rest) > 0 {
		return false
	}
	var flags byte
	if installed != 0 {
		flags = hasInstallTime
	}
	s.texts = appendFacts(s.texts, flags, host, fqdn, s.users, s.macs)
	if installed != 0 {
		s.texts = binary.AppendVarint(s.texts, installed)
	}
	return true
}

// literal takes what has to come next.
func (s *scanner) literal(text string) {
	if s.ok = s.ok && s.next(text); s.ok {
		s.rest = s.rest[len(text):]
	}
}

func (s *scanner) next(text string) bool {
	return len(s.rest) >= len(text) && string(s.rest[:len(text)]) == text
}

// quoted takes a text without anything that is written otherwise than it reads.
func (s *scanner) quoted() []byte {
	if len(s.rest) == 0 || s.rest[0] != '"' {
		s.ok = false
		return nil
	}
	end := 1
	for end+8 <= len(s.rest) && !hasSpecial(binary.LittleEndian.Uint64(s.rest[end:])) {
		end += 8
	}
	for ; end < len(s.rest); end++ {
		if !asItIs[s.rest[end]] {
			s.ok = s.ok && s.rest[end] == '"'
			text := s.rest[1:end]
			s.rest = s.rest[end+1:]
			return text
		}
	}
	s.ok = false
	return nil
}

// hasSpecial reports whether one of eight bytes is a quotation mark, a backslash,
// a control character or no ASCII.
func hasSpecial(eight uint64) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	quote, back := eight^each*'"', eight^each*'\\'
	return (eight|(eight-each*' ')|(quote-each)&^quote|(back-each)&^back)&high != 0
}

// member takes a member with a text, if it comes next. Ours are never empty.
func (s *scanner) member(key string) []byte {
	if !s.ok || !s.next(key) {
		return nil
	}
	s.rest = s.rest[len(key):]
	text := s.quoted()
	s.ok = s.ok && len(text) > 0
	return text
}

// integer takes a number as JSON and we write it: no 007, no -0, no 1e3.
func (s *scanner) integer() int64 {
	rest, negative := bytes.CutPrefix(s.rest, []byte("-"))
	var value int64
	n := 0
	for ; n < len(rest) && rest[n] >= '0' && rest[n] <= '9'; n++ {
		value = value*10 + int64(rest[n]-'0')
	}
	if n == 0 || n > 18 || rest[0] == '0' && (n > 1 || negative) {
		s.ok = false
		return 0
	}
	s.rest = rest[n:]
	if negative {
		return -value
	}
	return value
}

func (s *scanner) optional(key string) int64 {
	if !s.ok || !s.next(key) {
		return 0
	}
	s.rest = s.rest[len(key):]
	return s.integer()
}

// list takes a member with texts, if it comes next.
func (s *scanner) list(key string, out [][]byte) [][]byte {
	if !s.ok || !s.next(key) {
		return out
	}
	s.rest = s.rest[len(key):]
	s.literal(`[`)
	for s.ok {
		out = append(out, s.quoted())
		if !s.next(`,`) {
			break
		}
		s.rest = s.rest[1:]
	}
	s.literal(`]`)
	return out
}

func (s *scanner) platform() unique.Handle[platform] {
	// What the line has before this key is mostly what another line had; then
	// nothing of it needs to be read again.
	if end := bytes.Index(s.rest, []byte(`,"install_time":`)); end >= 0 {
		if p, known := s.shared.platforms[string(s.rest[:end])]; known {
			s.rest = s.rest[end:]
			return p
		}
	}
	before := s.rest
	var texts [7][]byte
	for i, key := range [...]string{
		`,"os":`, `,"release":`, `,"architecture":`, `,"client_version":`, `,"client_name":`, `,"build_time":`, `,"build_url":`,
	} {
		texts[i] = s.member(key)
	}
	raw := before[:len(before)-len(s.rest)]
	if p, known := s.shared.platforms[string(raw)]; known || !s.ok {
		return p
	}
	t := texts
	return remember(s.shared.platforms, raw, unique.Make(platform{
		string(t[0]), string(t[1]), string(t[2]), string(t[3]), string(t[4]), string(t[5]), string(t[6]),
	}))
}

// labels packs a set of labels. Sets of one are shared; of more there are too many
// different ones.
func (s *scanner) labels() string {
	before := s.rest
	var scratch [8][]byte
	labels := s.list(`,"labels":`, scratch[:0])
	if len(labels) == 0 || !s.ok {
		return ""
	}
	raw := before[:len(before)-len(s.rest)]
	if len(labels) == 1 {
		if packed, known := s.shared.labels[string(raw)]; known {
			return packed
		}
	}
	s.scrap = s.scrap[:0]
	for _, label := range labels {
		s.scrap = appendText(s.scrap, label)
	}
	packed := string(s.scrap)
	if len(labels) == 1 {
		remember(s.shared.labels, raw, packed)
	}
	return packed
}

func (s *scanner) inquiry(c *cell) {
	asked := s.member(`,"interrogation":`)
	c.interrogated = s.optional(`,"interrogated_us":`)
	answered := s.member(`,"answered":`)
	if len(answered) == 0 && c.interrogated != 0 {
		s.ok = false // of an earlier version
	}
	if !s.ok || len(asked)+len(answered) == 0 {
		return
	}
	// Those who enrolled together were mostly asked together.
	last := s.shared.inquiry
	if last == nil || string(asked) != last.asked.String() || string(answered) != last.answered.String() {
		var err error
		s.shared.inquiry, err = parseInquiry(string(asked), string(answered), c.interrogated)
		s.ok = err == nil
	}
	c.inquiry = s.shared.inquiry
}

// modulus takes the key, if it is one of the usual kind.
func (s *scanner) modulus(into *modulus) {
	s.literal(`,"public_key":"`)
	end := bytes.IndexByte(s.rest, '"')
	if s.ok = s.ok && end >= 0; !s.ok {
		return
	}
	var err error
	s.scrap, err = base64.StdEncoding.Strict().AppendDecode(s.scrap[:0], s.rest[:end])
	m, odd := splitKey(s.scrap)
	s.ok = err == nil && odd == nil
	copy(into[:], m)
	s.rest = s.rest[end+1:]
}
