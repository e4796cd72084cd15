package clients

import (
	"maps"
	"slices"
	"strings"
	"unique"
)

// segment is the search index of segmentSize clients in a row. Readers take no
// lock: a segment that they may have is never changed, an edit makes another that
// shares what stays.
type segment struct {
	n    int   // clients, deleted ones too
	live words // who is not deleted
	bare words // who is live and has no label

	born  []*births
	texts []string // packed facts, empty for the deleted

	platforms coded[unique.Handle[platform]]
	recodeAt  int             // values of platforms; twice what was needed, and less than codes number
	byLabel   map[string]*set // by the label in lower case

	// loose are those whose names, users or MAC addresses changed since what follows
	// was made: it says nothing of them.
	loose    words
	shapes   coded[string] // of host names; empty: none
	domains  coded[string] // what FQDNs add to host names, with the dot in front
	names    *grams        // of host names, and of FQDNs that are something else
	short    words         // whose names have one or two characters, and so no gram
	users    *grams
	accounts []*account // of users that many have
	macs     macColumn
}

// leastRecode is how many platforms a segment may remember, at least, before those
// are forgotten that nobody has any more.
const leastRecode = 1 << 12

// coded is a column of values that many clients share.
type coded[T comparable] struct {
	codes  []uint16
	values []T
}

func (c *coded[T]) value(i int) T { return c.values[c.codes[i]] }

// narrow adds to out those of in whose value passes the test, which is asked once
// per value.
func (c *coded[T]) narrow(test func(T) bool, in, out *words) {
	pass := make([]uint64, len(c.values))
	some := false
	for i, value := range c.values {
		if test(value) {
			pass[i], some = 1, true
		}
	}
	if !some {
		return
	}
	for begin := 0; begin < len(c.codes); begin += 64 {
		if in[begin/64] == 0 {
			continue
		}
		var word uint64
		for i, code := range c.codes[begin:min(begin+64, len(c.codes))] {
			word |= pass[code] << i
		}
		out[begin/64] |= word & in[begin/64]
	}
}

// coder makes a coded column.
type coder[T comparable] struct {
	coded[T]
	known map[T]uint16
}

func newCoder[T comparable](first ...T) *coder[T] {
	c := &coder[T]{known: map[T]uint16{}}
	for _, value := range first {
		c.code(value)
	}
	return c
}

// code returns the code of a value.
func (c *coder[T]) code(value T) uint16 {
	code, known := c.known[value]
	if !known {
		code = uint16(len(c.values))
		c.values = append(c.values, value)
		c.known[value] = code
	}
	return code
}

// segmentEdit makes a segment from another.
type segmentEdit struct {
	*segment
	stamp uint32      // of the sets that are ours
	lower *lowerCache // of labels

	textsOurs, platformsOurs bool
	newLabels                bool // some came that nobody had, or went
	platformCodes            map[unique.Handle[platform]]uint16
}

// edit begins with a copy of s that shares all its columns.
func (s *segment) edit(stamp uint32, lower *lowerCache) *segmentEdit {
	mine := *s
	mine.byLabel = maps.Clone(s.byLabel)
	mine.born = slices.Clone(s.born)
	return &segmentEdit{segment: &mine, stamp: stamp, lower: lower}
}

// emptySegment is what a new segment is made from.
var emptySegment = &segment{recodeAt: leastRecode, byLabel: map[string]*set{}, names: &grams{}, users: &grams{}}

// reserve makes room for new clients.
func (e *segmentEdit) reserve(n int) {
	e.ownTexts()
	e.ownPlatforms()
	e.texts, e.platforms.codes = slices.Grow(e.texts, n), slices.Grow(e.platforms.codes, n)
}

// extend takes the next client; there is room.
func (e *segmentEdit) extend(c *cell, born *births) {
	i := e.n
	e.n++
	if i/blockSize == len(e.born) {
		e.born = append(e.born, born)
	}
	e.born[i/blockSize] = born
	e.texts = append(e.texts, c.text)
	code := e.platformCode(c.platform)
	e.platforms.codes = append(e.platforms.codes, code)
	if c.text == "" {
		return
	}
	e.live.add(i)
	e.bare.add(i)
	e.loose.add(i)
	e.relabel(i, "", c.labels)
}

// update takes over what changed of a client that had some labels before.
func (e *segmentEdit) update(i int, c *cell, labels string) {
	if before := e.texts[i]; before != c.text {
		e.ownTexts()
		e.texts[i] = c.text
		if c.text != "" && !sameSought(before, c.text) {
			e.loose.add(i)
		}
	}
	if c.text != "" && e.platforms.value(i) != c.platform {
		e.ownPlatforms()
		e.platforms.codes[i] = e.platformCode(c.platform)
	}
	e.relabel(i, labels, c.labels)
	if c.text == "" {
		e.live.remove(i)
		e.bare.remove(i)
	}
}

func (e *segmentEdit) ownTexts() {
	if !e.textsOurs {
		e.texts, e.textsOurs = slices.Clone(e.texts), true
	}
}

func (e *segmentEdit) ownPlatforms() {
	if e.platformsOurs {
		return
	}
	e.platforms.codes, e.platforms.values = slices.Clone(e.platforms.codes), slices.Clip(e.platforms.values)
	e.platformCodes, e.platformsOurs = map[unique.Handle[platform]]uint16{}, true
	for code, p := range e.platforms.values {
		e.platformCodes[p] = uint16(code)
	}
}

func (e *segmentEdit) platformCode(p unique.Handle[platform]) uint16 {
	code, known := e.platformCodes[p]
	if known {
		return code
	}
	if len(e.platforms.values) >= e.recodeAt {
		e.recodePlatforms()
	}
	code = uint16(len(e.platforms.values))
	e.platforms.values = append(e.platforms.values, p)
	e.platformCodes[p] = code
	return code
}

func (e *segmentEdit) recodePlatforms() {
	old := e.platforms
	c := newCoder[unique.Handle[platform]]()
	e.platforms.codes = make([]uint16, len(old.codes))
	for i := range old.codes {
		e.platforms.codes[i] = c.code(old.value(i))
	}
	e.platforms.values, e.platformCodes = c.values, c.known
	e.recodeAt = max(leastRecode, 2*len(c.values))
}

func (e *segmentEdit) relabel(i int, before, labels string) {
	if before == labels {
		return
	}
	var scratch [2][16]string
	old, now := appendLabels(scratch[0][:0], before), appendLabels(scratch[1][:0], labels)
	for _, label := range old {
		if !slices.Contains(now, label) {
			e.labelled(label).remove(i)
		}
	}
	// All, because two that are not the same without regard to case may be the same
	// in lower case; then the removal took too much.
	for _, label := range now {
		e.labelled(label).add(i)
	}
	if e.bare.remove(i); labels == "" {
		e.bare.add(i)
	}
}

// labelled returns the set of a label to be changed.
func (e *segmentEdit) labelled(label string) *set {
	label = e.lower.of(label)
	have := e.byLabel[label]
	if have == nil {
		have, e.newLabels = &set{stamp: e.stamp}, true
	}
	mine := have.own(e.stamp)
	e.byLabel[label] = mine
	return mine
}

// finish returns the segment, for readers. m is not used unless more than maxLoose
// names changed.
func (e *segmentEdit) finish(maxLoose int, m func() *indexer) *segment {
	for label, s := range e.byLabel {
		if s.n == 0 {
			delete(e.byLabel, label)
			e.newLabels = true
		}
	}
	loose := e.loose
	loose.and(&e.live)
	if loose.count() > maxLoose {
		e.reindex(m())
	}
	return e.segment
}

// reindex makes anew all that is known of names, users and MAC addresses.
func (e *segmentEdit) reindex(m *indexer) {
	m.begin(e.n)
	for _, text := range e.texts {
		m.take(text)
	}
	e.names, e.users = m.grams.make(m.names, m.nameEnds), m.grams.make(m.users, m.userEnds)
	e.shapes, e.domains, e.accounts = common(m.shapes.coded, m.tune.commonShape), m.domains.coded, m.accounts()
	e.short, e.macs, e.loose = m.short, m.macs.sorted(), words{}
}

// lowerCache remembers labels in lower case.
type lowerCache struct{ known map[string]string }

func (l *lowerCache) of(label string) string {
	lower, known := l.known[label]
	if !known {
		lower = unique.Make(strings.ToLower(label)).Value() // the same memory in each segment
		l.known[strings.Clone(label)] = lower
	}
	return lower
}
