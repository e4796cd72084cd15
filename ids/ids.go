// Package ids names things: clients, flows, hunts, notebooks, orgs, nodes.
//
// Every identifier is a closed type: a value can only be made by Parse or New,
// so code that holds one need not check it again. The zero value of each type
// is "none". Texts are those of the Velociraptor client protocol, section 5.2.
//
// It imports nothing of ours and never touches network or store.
package ids

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrInvalid means that a text is no identifier of the wanted kind. Trying
// again does not help.
var ErrInvalid = errors.New("invalid identifier")

var base32Hex = base32.HexEncoding.WithPadding(base32.NoPadding)

// Client is the identity of one agent: "C." and 16 lower-case hex digits, or
// "server" for the pseudo client that server-side collections run on.
type Client struct{ text string }

// Server is the pseudo client of server-side collections.
var Server = Client{"server"}

// ParseClient reads a client id.
func ParseClient(text string) (Client, error) {
	if text == Server.text {
		return Server, nil
	}
	rest, ok := strings.CutPrefix(text, "C.")
	if !ok || len(rest) != 16 || !only(rest, "0123456789abcdef") {
		return Client{}, fmt.Errorf("client id %.40q: %w", text, ErrInvalid)
	}
	return Client{text}, nil
}

// ClientOfKey computes the id of the agent that holds key: the first 8 bytes
// of SHA-256 over the modulus as an SSH-style mpint (client protocol 2.1).
func ClientOfKey(key *rsa.PublicKey) Client {
	modulus := key.N.Bytes()
	head := binary.BigEndian.AppendUint32(nil, uint32(len(modulus)+1))
	hash := sha256.New()
	hash.Write(append(head, 0))
	hash.Write(modulus)
	return Client{"C." + hex.EncodeToString(hash.Sum(nil)[:8])}
}

// ClientOfHost is the client that stands for a host which no agent speaks for: the first
// 8 bytes of SHA-256 over "raptorpack offline client\n" and its name in lower case. The
// same name gives the same client, everywhere.
func ClientOfHost(hostname string) Client {
	sum := sha256.Sum256([]byte("raptorpack offline client\n" + strings.ToLower(hostname)))
	return Client{"C." + hex.EncodeToString(sum[:8])}
}

// ClientOfNumber is the client whose id has these 8 bytes, most significant first.
func ClientOfNumber(n uint64) Client { return Client{fmt.Sprintf("C.%016x", n)} }

// Number returns the 8 bytes of an agent's id; false for the pseudo client and for
// none.
func (c Client) Number() (uint64, bool) {
	rest, ok := strings.CutPrefix(c.text, "C.")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(rest, 16, 64)
	return n, err == nil
}

// String returns the text form, empty for the zero value.
func (c Client) String() string { return c.text }

// IsZero reports whether c is none.
func (c Client) IsZero() bool { return c.text == "" }

// Flow is the identity of one collection: "F." and 13 base32hex characters,
// with suffixes for hunts (".H", ".L") and conditions (".Q").
type Flow struct{ text string }

// Monitoring is the well-known session of event queries, in both directions.
var Monitoring = Flow{"F.Monitoring"}

// NewFlow makes an id from now (seconds) and 4 random bytes.
func NewFlow(now time.Time) Flow { return Flow{"F." + stamp(now)} }

// ParseFlow reads a flow id: "F." and 1 to 40 of letters, digits, ".".
func ParseFlow(text string) (Flow, error) {
	rest, ok := strings.CutPrefix(text, "F.")
	if !ok || !word(rest) {
		return Flow{}, fmt.Errorf("flow id %.40q: %w", text, ErrInvalid)
	}
	return Flow{text}, nil
}

// String returns the text form, empty for the zero value.
func (f Flow) String() string { return f.text }

// IsZero reports whether f is none.
func (f Flow) IsZero() bool { return f.text == "" }

// Hunt is the identity of one hunt: "H." and 13 base32hex characters.
type Hunt struct{ text string }

// NewHunt makes an id from now (seconds) and 4 random bytes.
func NewHunt(now time.Time) Hunt { return Hunt{"H." + stamp(now)} }

// ParseHunt reads a hunt id.
func ParseHunt(text string) (Hunt, error) {
	rest, ok := strings.CutPrefix(text, "H.")
	if !ok || !word(rest) {
		return Hunt{}, fmt.Errorf("hunt id %.40q: %w", text, ErrInvalid)
	}
	return Hunt{text}, nil
}

// String returns the text form, empty for the zero value.
func (h Hunt) String() string { return h.text }

// IsZero reports whether h is none.
func (h Hunt) IsZero() bool { return h.text == "" }

// MaxAttempt bounds how often one client may take part in one hunt again.
const MaxAttempt = 999

// Plain reports whether h is made as NewHunt makes it, in one piece of at most 30
// letters and digits. Only then are the flows of two hunts never named alike.
func (h Hunt) Plain() bool { return len(h.text) <= 32 && strings.Count(h.text, ".") == 1 }

// Flow is the flow of a hunt on each of its clients: "F.<hunt>.H" the first time,
// attempt 0, and "F.<hunt>.<attempt>.H" when a client takes part again. It is none
// if there can be no such attempt.
func (h Hunt) Flow(attempt int) Flow {
	rest, ok := strings.CutPrefix(h.text, "H.")
	switch {
	case !ok || attempt < 0 || attempt > MaxAttempt:
		return Flow{}
	case attempt == 0:
		return Flow{"F." + rest + ".H"}
	}
	return Flow{"F." + rest + "." + strconv.Itoa(attempt) + ".H"}
}

// Question is the flow in which a client runs the hunt's condition:
// "F.<hunt>.<asked>.<by>.Q". asked is the newest entry that the asking node knew of
// when it asked, by tells its questions from all others: 1 to 11 letters and digits.
func (h Hunt) Question(asked uint64, by string) Flow {
	return Flow{"F." + strings.TrimPrefix(h.text, "H.") + "." + strconv.FormatUint(asked, 36) + "." + by + ".Q"}
}

// Question reads the id of a flow that runs a hunt's condition.
func (f Flow) Question() (h Hunt, asked uint64, ok bool) {
	rest, ours := strings.CutSuffix(f.text, ".Q")
	parts := strings.Split(strings.TrimPrefix(rest, "F."), ".")
	if !ours || len(parts) != 3 {
		return Hunt{}, 0, false
	}
	h, err := ParseHunt("H." + parts[0])
	asked, bad := strconv.ParseUint(parts[1], 36, 64)
	return h, asked, err == nil && bad == nil && parts[2] != ""
}

// Attempt returns which attempt at h the flow is; false if it is none of that hunt.
func (f Flow) Attempt(h Hunt) (int, bool) {
	if h.IsZero() {
		return 0, false
	}
	rest, ours := strings.CutPrefix(f.text, "F."+h.text[len("H."):]+".")
	if !ours {
		return 0, false
	}
	number, more := strings.CutSuffix(rest, ".H")
	if !more {
		return 0, rest == "H"
	}
	n, err := strconv.Atoi(number)
	return n, err == nil && h.Flow(n) == f
}

// NewCopy is what a collection that is added to a hunt becomes there, its copy:
// "F.<hunt>.<stamp>.L", another one each time. It is none if the hunt's id is too long.
func (h Hunt) NewCopy(now time.Time) Flow { return h.Copy(stamp(now)) }

// Copy is the copy of a collection with a stamp of NewCopy.
func (h Hunt) Copy(stamp string) Flow {
	rest, ok := strings.CutPrefix(h.text, "H.")
	f, err := ParseFlow("F." + rest + "." + stamp + ".L")
	if !ok || err != nil || strings.Contains(stamp, ".") {
		return Flow{}
	}
	return f
}

// Copied returns the stamp of a collection that was added to h; false if the flow is
// none of these.
func (f Flow) Copied(h Hunt) (stamp string, ok bool) {
	rest, ours := strings.CutSuffix(f.text, ".L")
	if !ours || h.IsZero() {
		return "", false
	}
	stamp, ok = strings.CutPrefix(rest, "F."+h.text[len("H."):]+".")
	return stamp, ok && h.Copy(stamp) == f
}

// Notebook is the identity of one notebook: "N." and a word of its own, or what it
// belongs to: "N.<hunt>" of a hunt, "N.<flow>-<client>" of a collection.
type Notebook struct{ text string }

// ParseNotebook reads a notebook id.
func ParseNotebook(text string) (Notebook, error) {
	rest, ok := strings.CutPrefix(text, "N.")
	if at := strings.LastIndexByte(rest, '-'); ok && at >= 0 {
		_, flow := ParseFlow(rest[:at])
		_, client := ParseClient(rest[at+1:])
		ok = flow == nil && client == nil
	} else {
		ok = ok && word(rest)
	}
	if !ok {
		return Notebook{}, fmt.Errorf("notebook id %.40q: %w", text, ErrInvalid)
	}
	return Notebook{text}, nil
}

// String returns the text form, empty for the zero value.
func (n Notebook) String() string { return n.text }

// IsZero reports whether n is none.
func (n Notebook) IsZero() bool { return n.text == "" }

// Org is a tenant: "" is the root org, others are "O" and base32hex characters.
type Org struct{ text string }

// RootOrg is the org that always exists.
var RootOrg = Org{}

// ParseOrg reads an org id; "" and "root" are the root org.
func ParseOrg(text string) (Org, error) {
	if text == "" || text == "root" {
		return RootOrg, nil
	}
	rest, ok := strings.CutPrefix(text, "O")
	if !ok || !word(rest) {
		return Org{}, fmt.Errorf("org id %.40q: %w", text, ErrInvalid)
	}
	return Org{text}, nil
}

// String returns the text form, empty for the root org.
func (o Org) String() string { return o.text }

// Node is the configured name of a server process: 1 to 64 lower-case letters,
// digits, "-" and ".", beginning with a letter or digit.
type Node struct{ text string }

// ParseNode reads a node name.
func ParseNode(text string) (Node, error) {
	bad := text == "" || len(text) > 64 || !only(text, "abcdefghijklmnopqrstuvwxyz0123456789-.") ||
		strings.HasPrefix(text, "-") || strings.HasPrefix(text, ".")
	if bad {
		return Node{}, fmt.Errorf("node name %.70q: %w", text, ErrInvalid)
	}
	return Node{text}, nil
}

// String returns the text form, empty for the zero value.
func (n Node) String() string { return n.text }

// IsZero reports whether n is none.
func (n Node) IsZero() bool { return n.text == "" }

func stamp(now time.Time) string {
	var raw [8]byte
	binary.BigEndian.PutUint32(raw[:], uint32(now.Unix()))
	rand.Read(raw[4:]) // never fails since Go 1.24
	return base32Hex.EncodeToString(raw[:])
}

func only(text, allowed string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return !strings.ContainsRune(allowed, r) }) < 0
}

func word(text string) bool {
	if text == "" || len(text) > 40 {
		return false
	}
	for i := range len(text) {
		b := text[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		dot := b == '.' && i > 0 && i < len(text)-1 && text[i-1] != '.'
		if !letter && !dot {
			return false
		}
	}
	return true
}
