package clients

import (
	"slices"
	"time"

	"raptorpack/ids"
)

// Match is a found client with what is known of its presence.
type Match struct {
	*Record
	Seen Seen
}

// Page is a piece of an answer, in order of enrolment.
type Page struct {
	Matches []Match
	Total   int    // how many match in all
	Next    uint32 // pass as After to go on; 0: this was the last page
}

// Search finds clients. Words are AND-ed; see ParseQuery for the grammar. After
// is the Next of the page before, 0 for the first; limit bounds the page.
//
// Each client is judged as it stands at some moment during the call, and shown as
// it stands at the end; one that is deleted in between is counted but not shown.
func (r *Room) Search(org ids.Org, text string, after uint32, limit int, now time.Time) (*Page, error) {
	query, err := ParseQuery(text)
	if err != nil {
		return nil, err
	}
	s := &search{room: r, org: org, query: query, now: now, after: after, limit: limit}
	s.begin()
	switch {
	case s.table == nil:
	case query.id != "":
		s.one()
	default:
		s.all()
	}
	return s.page(), nil
}

// search is one call of Search.
type search struct {
	room  *Room
	org   ids.Org
	query *Query
	now   time.Time
	after uint32
	limit int

	table *table
	index *index
	n     uint32      // ordinals that there were
	stale [2][]uint32 // ordinals that changed since index; what follows does not change
	alone []*judged   // by segment: those that are looked at one by one
	peek  peek

	found []uint32 // ordinals of the page
	total int
	next  uint32
}

// judged are clients of a segment that were looked at one by one.
type judged struct{ who, hits words }

// begin notes what there is to search. Apply goes on meanwhile, but neither
// changes an index nor the beginning of the lists.
func (s *search) begin() {
	s.room.mu.RLock()
	defer s.room.mu.RUnlock()
	t := s.room.orgs[s.org]
	if t == nil {
		return
	}
	s.table, s.index, s.n = t, t.index, t.n
	s.stale[0] = t.changed.list
	if t.merging != nil {
		s.stale[1] = t.merging.list
	}
}

// one looks at the client that the query names.
func (s *search) one() {
	s.room.mu.RLock()
	ordinal, ok := s.table.find(s.query.id)
	s.room.mu.RUnlock()
	if !ok {
		return
	}
	s.room.peekSome(&s.peek, s.table, []uint32{ordinal})
	if s.holds(0, ordinal, &candidate{now: s.now}) {
		s.hit(ordinal)
	}
}

func (s *search) all() {
	slices.SortStableFunc(s.query.conditions, func(a, b clause) int { return int(a.cost() - b.cost()) })
	s.alone = make([]*judged, (s.n+segmentSize-1)/segmentSize)
	s.judge()
	x := &examination{room: s.room, org: s.org, now: s.now, index: s.index}
	for i := range s.alone {
		var hits words
		if segment := s.index.segment(i); segment != nil {
			x.segment, x.begin = segment, uint32(i)*segmentSize
			hits = x.hits(s.query)
		}
		if j := s.alone[i]; j != nil {
			hits.andNot(&j.who)
			hits.or(&j.hits)
		}
		s.collect(uint32(i)*segmentSize, &hits)
	}
}

// judge looks one by one at those of whom the index tells nothing, or old news.
func (s *search) judge() {
	c := &candidate{now: s.now}
	for _, stale := range s.stale {
		for some := range slices.Chunk(stale, blockSize) {
			s.room.peekSome(&s.peek, s.table, some)
			for i, ordinal := range some {
				s.judgeOne(i, ordinal, c)
			}
		}
	}
	for ordinal := s.index.size(); ordinal < s.n; {
		n := min(s.room.peekRow(&s.peek, s.table, ordinal), s.n-ordinal)
		for i := range n {
			s.judgeOne(int(i), ordinal+i, c)
		}
		ordinal += n
	}
}

// judgeOne looks at the i-th client of the peek.
func (s *search) judgeOne(i int, ordinal uint32, c *candidate) {
	j := s.alone[ordinal/segmentSize]
	if j == nil {
		j = &judged{}
		s.alone[ordinal/segmentSize] = j
	}
	j.who.add(int(ordinal % segmentSize))
	if s.holds(i, ordinal, c) {
		j.hits.add(int(ordinal % segmentSize))
	} else {
		j.hits.remove(int(ordinal % segmentSize))
	}
}

func (s *search) holds(i int, ordinal uint32, c *candidate) bool {
	c.cell, c.id = &s.peek.cells[i], s.peek.born[i].id
	if c.cell.text == "" {
		return false
	}
	if s.query.soft {
		c.seen = s.room.seenOf(s.org, who{c.id, ordinal, true})
	}
	for _, clause := range s.query.conditions {
		if clause.holds(c) == clause.negated {
			return false
		}
	}
	return true
}

// collect counts the hits of a segment and takes those of the page.
func (s *search) collect(begin uint32, hits *words) {
	n := hits.count()
	if n == 0 {
		return
	}
	if s.next != 0 || begin+segmentSize <= s.after {
		s.total += n
		return
	}
	for i := range hits.all() {
		s.hit(begin + uint32(i))
	}
}

func (s *search) hit(ordinal uint32) {
	s.total++
	switch {
	case ordinal < s.after:
	case len(s.found) < s.limit:
		s.found = append(s.found, ordinal)
	case s.next == 0:
		s.next = ordinal
	}
}

// page spreads out what was found.
func (s *search) page() *Page {
	page := &Page{Total: s.total, Next: s.next}
	for some := range slices.Chunk(s.found, blockSize) {
		s.room.peekSome(&s.peek, s.table, some)
		for i, ordinal := range some {
			if s.peek.cells[i].text == "" {
				continue
			}
			g := glimpse{s.peek.cells[i], s.peek.born[i], ordinal}
			page.Matches = append(page.Matches, Match{g.record(s.org, g.id.client()), s.room.seenOf(s.org, who{g.id, ordinal, true})})
		}
	}
	return page
}
