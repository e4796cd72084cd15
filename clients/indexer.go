package clients

import (
	"bytes"
	"maps"
	"slices"
)

// indexer makes what segments know of names and users. It is large scratch, made
// anew for each merge.
type indexer struct {
	tune  tuning
	grams gramMaker

	names, users       []byte // in lower case, of a segment, one behind the other
	nameEnds, userEnds []int  // where those of each client end
	accountEnds        []int  // where each account's name ends
	shapes, domains    *coder[string]
	short              words
	macs               macColumn

	scratch, shape []byte
}

// account is a user's name, in lower case, and the clients that have it.
type account struct {
	name string
	in   words
}

// begin makes ready for a segment of n clients.
func (m *indexer) begin(n int) {
	m.names, m.users, m.accountEnds, m.short = m.names[:0], m.users[:0], m.accountEnds[:0], words{}
	m.nameEnds, m.userEnds = m.nameEnds[:0], m.userEnds[:0]
	m.macs.begin()
	m.shapes, m.domains = newCoder(""), newCoder("")
	m.shapes.codes, m.domains.codes = make([]uint16, n), make([]uint16, n)
}

// take reads the next client; an empty text is one that was deleted.
func (m *indexer) take(text string) {
	i := len(m.nameEnds)
	if text != "" {
		n := nameOf(text, m.scratch)
		m.scratch = n.all
		domain := n.domain()
		// With the dot in front of the domain, which tells how host names end.
		sought := n.all[:len(n.all)-max(0, len(domain)-1)]
		if len(sought) == 1 || len(sought) == 2 {
			m.short.add(i)
		}
		m.names = append(m.names, sought...)
		m.shape = shapeOf(m.shape[:0], n.hostname())
		m.shapes.codes[i], m.domains.codes[i] = codeOf(m.shapes, m.shape), codeOf(m.domains, domain)
		usersOf(text, func(user string) bool {
			m.users = appendLower(m.users, user)
			m.accountEnds = append(m.accountEnds, len(m.users))
			m.users = append(m.users, '\n')
			return false
		})
	}
	m.macs.take(i, text)
	m.nameEnds, m.userEnds = append(m.nameEnds, len(m.names)), append(m.userEnds, len(m.users))
}

// accounts returns those that many have.
func (m *indexer) accounts() []*account {
	some := map[string]int{}
	m.eachAccount(min(m.tune.accountSample, len(m.userEnds)), func(_ int, name []byte) { some[string(name)]++ })
	common := map[string]*account{}
	for name, n := range some {
		if n >= m.tune.commonAccount {
			common[name] = &account{name: name}
		}
	}
	if len(common) == 0 {
		return nil
	}
	m.eachAccount(len(m.userEnds), func(i int, name []byte) {
		if a := common[string(name)]; a != nil {
			a.in.add(i)
		}
	})
	return slices.Collect(maps.Values(common))
}

// eachAccount yields the names of the first n clients' users.
func (m *indexer) eachAccount(n int, yield func(i int, name []byte)) {
	begin, next := 0, 0
	for i := range n {
		for ; begin < m.userEnds[i]; next++ {
			yield(i, m.users[begin:m.accountEnds[next]])
			begin = m.accountEnds[next] + 1
		}
	}
}

// codeOf is coder.code for text in a buffer.
func codeOf(c *coder[string], text []byte) uint16 {
	if code, known := c.known[string(text)]; known {
		return code
	}
	return c.code(string(text))
}

// common leaves values out that fewer than least have; those get the first.
func common[T comparable](c coded[T], least int) coded[T] {
	n := make([]int, len(c.values))
	for _, code := range c.codes {
		n[code]++
	}
	out := coded[T]{codes: make([]uint16, len(c.codes)), values: c.values[:1:1]}
	to := make([]uint16, len(c.values))
	for code, value := range c.values {
		if code > 0 && n[code] >= least {
			to[code] = uint16(len(out.values))
			out.values = append(out.values, value)
		}
	}
	for i, code := range c.codes {
		out.codes[i] = to[code]
	}
	return out
}

// shapeOf appends what a host name has in common with others: its words without
// those that have digits; of these only the letters before a number. What is left
// out becomes a zero byte, which no name has.
func shapeOf(out, host []byte) []byte {
	for begin := 0; begin < len(host); {
		end, letters := begin, 0
		numbered := true // letters, then digits and nothing else
		for ; end < len(host) && bytes.IndexByte([]byte("-._ "), host[end]) < 0; end++ {
			switch digit := host[end] >= '0' && host[end] <= '9'; {
			case !digit && letters == end-begin:
				letters++
			case !digit:
				numbered = false
			}
		}
		switch {
		case letters == end-begin:
			out = append(out, host[begin:end]...)
		case numbered && letters >= 3:
			out = append(append(out, host[begin:begin+letters]...), 0)
		default:
			out = append(out, 0)
		}
		if begin = end + 1; end < len(host) {
			out = append(out, host[end])
		}
	}
	return out
}
