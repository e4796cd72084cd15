package clients

import (
	"encoding/hex"
	"slices"
	"strings"
	"unique"

	"raptorpack/ids"
	"raptorpack/internal/micros"
)

// cell is what is kept of one client and may change. It is 64 bytes: a million of
// them are most of what the garbage collector has to look through.
type cell struct {
	text          string // packed facts; empty: nobody has this ordinal any more
	labels        string // packed
	platform      unique.Handle[platform]
	inquiry       *inquiry // never changed, shared by those who were asked together; nil: never asked
	interrogated  int64    // when inquiry.answered was, in microseconds; 0: never
	labelsChanged int64    // microseconds, 0: never
}

// birth is what never changes of the client that has an ordinal.
type birth struct {
	id        number
	firstSeen int64 // microseconds
}

// platform is what many clients have in common.
type platform struct {
	system, release, architecture, version, name, buildTime, buildURL string
}

// inquiry is how it stands with asking a client about its host.
type inquiry struct {
	asked, answered ids.Flow
}

// nobody is the inquiry of those who were never asked.
var nobody = &inquiry{}

func (c *cell) inquired() *inquiry {
	if c.inquiry == nil {
		return nobody
	}
	return c.inquiry
}

// glimpse is a copy of what is kept of one client.
type glimpse struct {
	cell
	birth
	ordinal uint32
}

// record spreads out what is kept of a client.
func (g *glimpse) record(org ids.Org, client ids.Client) *Record {
	f, p, q := unpack(g.text), g.platform.Value(), g.inquired()
	return &Record{
		Org: org, Client: client, Ordinal: g.ordinal, FirstSeen: micros.Time(g.firstSeen),
		Hostname: f.hostname, FQDN: f.fqdn, System: p.system, Release: p.release, Architecture: p.architecture,
		Version: p.version, Name: p.name, BuildTime: p.buildTime, BuildURL: p.buildURL, InstallTime: f.installTime,
		MACs: f.macs, Users: f.users, Labels: unpackLabels(g.labels), LabelsChanged: micros.Time(g.labelsChanged),
		Metadata: f.metadata, Interrogation: q.asked, Interrogated: micros.Time(g.interrogated), Answered: q.answered,
	}
}

// Labels are packed one behind the other, each with its length in front.

func packLabels(labels []string) string {
	if len(labels) == 0 {
		return ""
	}
	var scratch [256]byte
	out := scratch[:0]
	for _, label := range labels {
		out = appendText(out, label)
	}
	return string(out)
}

// unpackLabels returns nil for none. The strings share the memory of packed.
func unpackLabels(packed string) []string {
	if packed == "" {
		return nil
	}
	return appendLabels(make([]string, 0, 4), packed)
}

func appendLabels(out []string, packed string) []string {
	for u := (unpacker{packed}); u.rest != ""; {
		out = append(out, u.text())
	}
	return out
}

// editLabels returns a new sorted set; case is ignored when comparing, the first
// spelling stays.
func editLabels(packed string, add, remove []string) string {
	var scratch [16]string
	labels := appendLabels(scratch[:0], packed)
	out := slices.DeleteFunc(labels, func(have string) bool { return containsFold(remove, have) })
	for _, label := range add {
		if !containsFold(out, label) && len(out) < maxLabels {
			out = append(out, label)
		}
	}
	slices.SortFunc(out, compareLower)
	if edited := packLabels(out); edited != packed {
		return edited
	}
	return packed
}

func containsFold(labels []string, label string) bool {
	for _, have := range labels {
		if strings.EqualFold(have, label) {
			return true
		}
	}
	return false
}

// compareLower compares texts in lower case.
func compareLower(a, b string) int {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if x >= 0x80 || y >= 0x80 {
			return strings.Compare(strings.ToLower(a), strings.ToLower(b))
		}
		if x >= 'A' && x <= 'Z' {
			x += 'a' - 'A'
		}
		if y >= 'A' && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// number is a client id as the 64 bits that its hex digits tell.
type number uint64

// numberOf reads the text of a client id; false for the pseudo client as well.
func numberOf(text string) (number, bool) {
	if len(text) != 18 || text[:2] != "C." {
		return 0, false
	}
	var n number
	for i := 2; i < 18; i++ {
		digit := hexDigit(text[i])
		if digit > 15 {
			return 0, false
		}
		n = n<<4 | number(digit)
	}
	return n, true
}

// appendTo appends the text of a client id.
func (n number) appendTo(out []byte) []byte {
	var raw [8]byte
	for i := range raw {
		raw[i] = byte(n >> (56 - 8*i))
	}
	return hex.AppendEncode(append(out, "C."...), raw[:])
}

func (n number) client() ids.Client {
	var scratch [18]byte
	client, _ := ids.ParseClient(string(n.appendTo(scratch[:0]))) // written as it reads
	return client
}
