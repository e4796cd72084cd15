package clients

import (
	"context"
	"maps"
	"slices"
)

// tuning balances what a search looks at one by one against what it takes to keep
// the index. No answer depends on it.
type tuning struct {
	// mergeAt is how many changed or new clients there are before the index takes
	// them over: they cost each search a millisecond, and a merge costs as much for
	// hundreds as for thousands.
	mergeAt int

	// maxLoose is how many clients of a segment may have names that its grams do not
	// know: 6 % of all are looked at then, and making the grams anew comes to some
	// microseconds for each change.
	maxLoose int

	// fewNames are looked at straight away, without asking what is known of them.
	fewNames int

	// commonShape is how many names of a segment must have a shape. Names without one
	// are found all the same, but each is looked at.
	commonShape int

	// commonAccount is how many of the first accountSample clients of a segment must
	// have an account, as root, for it to be known by name.
	commonAccount, accountSample int
}

var usual = tuning{
	mergeAt: 1 << 11, maxLoose: segmentSize / 16, fewNames: 32,
	commonShape: 8, commonAccount: 8, accountSample: 512,
}

// index is what searches know of one org's clients without looking at each. It is
// never changed: a merge makes another that shares what stays.
//
// It may be behind. A search looks for itself at those that changed since, and at
// those that are too new; as long as there is no index, these are all.
type index struct {
	n        uint32 // ordinals below it are in segments
	segments []*segment
	labels   []string // all there are, in lower case
}

// segment returns one segment, nil if there is none.
func (x *index) segment(i int) *segment {
	if x == nil || i >= len(x.segments) {
		return nil
	}
	return x.segments[i]
}

func (x *index) size() uint32 {
	if x == nil {
		return 0
	}
	return x.n
}

// Run keeps the search index up to date until ctx ends. Searches are right without
// it, but take a second over a million clients.
func (r *Room) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.due:
		}
		for _, t := range r.overdueTables() {
			r.merge(ctx, t)
		}
	}
}

// signal wakes Run.
func (r *Room) signal() {
	select {
	case r.due <- struct{}{}:
	default:
	}
}

// overdue reports whether enough changed for a merge. The caller holds the lock.
func (r *Room) overdue(t *table) bool {
	return len(t.changed.list)+int(t.n-t.covered) >= r.tune.mergeAt
}

func (r *Room) overdueTables() (due []*table) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, t := range r.orgs {
		if r.overdue(t) {
			due = append(due, t)
		}
	}
	return due
}

// merge takes what changed into the index of a table. It locks only to copy some
// cells at a time. One merge runs at a time.
func (r *Room) merge(ctx context.Context, t *table) {
	m := r.beginMerge(t)
	for i := range m.next.segments {
		if ctx.Err() != nil {
			return // the next merge takes over what this one had
		}
		m.segment(i)
	}
	m.next.labels = m.labels()
	r.mu.Lock()
	defer r.mu.Unlock()
	t.index, t.merging = m.next, nil
}

// merger makes an index from the one before.
type merger struct {
	room    *Room
	table   *table
	before  *index
	next    *index
	merging *pending
	changed []uint32 // ordinals of it, ascending
	stamp   uint32   // of sets that this merge made
	lower   lowerCache
	scratch *indexer
	peek    peek

	newLabels bool // other labels than before may be there
}

func (r *Room) beginMerge(t *table) *merger {
	m := &merger{room: r, table: t, lower: lowerCache{map[string]string{}}}
	m.begin()
	m.changed = slices.Sorted(slices.Values(m.merging.list))
	m.next.segments = make([]*segment, (m.next.n+segmentSize-1)/segmentSize)
	return m
}

// begin takes over what changed.
func (m *merger) begin() {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	t := m.table
	if t.merging != nil {
		t.changed.giveBack(t.merging)
	}
	t.merging, t.changed = t.changed, newPending()
	t.covered = t.n
	t.merges++
	m.merging, m.before, m.next, m.stamp = t.merging, t.index, &index{n: t.n}, t.merges
}

// segment makes the i-th segment.
func (m *merger) segment(i int) {
	before, begin := m.before.segment(i), uint32(i)*segmentSize
	n, _ := slices.BinarySearch(m.changed, begin+segmentSize)
	changed := m.changed[:n]
	m.changed = m.changed[n:]
	end := min(begin+segmentSize, m.next.n)
	known := min(max(begin, m.before.size()), end)
	if len(changed) == 0 && known == end {
		m.next.segments[i] = before
		return
	}
	if before == nil {
		before = emptySegment
	}
	e := before.edit(m.stamp, &m.lower)
	for some := range slices.Chunk(changed, blockSize) {
		m.take(some)
		for j, ordinal := range some {
			if ordinal < known {
				e.update(int(ordinal-begin), &m.peek.cells[j], m.merging.labels[ordinal])
			}
		}
	}
	if known < end {
		e.reserve(int(end - known))
	}
	for known < end {
		n := min(m.takeRow(known), end-known)
		for j := range n {
			e.extend(&m.peek.cells[j], m.peek.block)
		}
		known += n
	}
	m.next.segments[i] = e.finish(m.room.tune.maxLoose, m.indexer)
	m.newLabels = m.newLabels || e.newLabels
}

// take peeks at clients for good: the index is to have them as they stand now.
func (m *merger) take(ordinals []uint32) {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	m.peek.some(m.table, ordinals)
	for i, ordinal := range ordinals {
		m.table.changed.indexed(ordinal, m.peek.cells[i].labels)
	}
}

// takeRow takes the clients from an ordinal to the end of its block, and returns
// how many there are.
func (m *merger) takeRow(ordinal uint32) uint32 {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	n := m.peek.row(m.table, ordinal)
	for i := range n {
		m.table.changed.indexed(ordinal+i, m.peek.cells[i].labels)
	}
	return n
}

func (m *merger) indexer() *indexer {
	if m.scratch == nil {
		m.scratch = &indexer{tune: m.room.tune}
	}
	return m.scratch
}

// labels returns those that any client has.
func (m *merger) labels() []string {
	if !m.newLabels && m.before != nil {
		return m.before.labels
	}
	all := map[string]bool{}
	for _, s := range m.next.segments {
		for label := range s.byLabel {
			all[label] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// peek is a copy of some cells, taken under the lock and looked at without.
type peek struct {
	cells [blockSize]cell
	born  [blockSize]birth
	block *births // where born is from, if all lie in one block
}

// some copies the cells of up to blockSize ordinals. The caller holds the lock.
func (p *peek) some(t *table, ordinals []uint32) {
	for i, ordinal := range ordinals {
		p.cells[i], p.born[i] = *t.cell(ordinal), t.birth(ordinal)
	}
}

// row copies the cells from an ordinal to the end of its block, and returns how
// many there are: none beyond the last. The caller holds the lock.
func (p *peek) row(t *table, ordinal uint32) uint32 {
	if ordinal >= t.n {
		return 0
	}
	b, i := &t.blocks[ordinal/blockSize], ordinal%blockSize
	n := min(blockSize-i, t.n-ordinal)
	copy(p.cells[:n], b.cells[i:])
	copy(p.born[:n], b.born[i:])
	p.block = b.born
	return n
}

// peekSome is peek.some for readers.
func (r *Room) peekSome(p *peek, t *table, ordinals []uint32) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	p.some(t, ordinals)
}

// peekRow is peek.row for readers.
func (r *Room) peekRow(p *peek, t *table, ordinal uint32) uint32 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return p.row(t, ordinal)
}
