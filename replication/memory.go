package replication

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"raptorpack/internal/seeded"
	"raptorpack/proto/buspb"
)

// Kinds of the ledger itself.
const (
	kindEpoch   = "ledger.epoch"   // buspb.EpochStart, first entry of each epoch
	kindRetire  = "ledger.retire"  // buspb.OriginsRetired
	kindCompare = "ledger.compare" // no body; see comparisons
	kindLevel   = "ledger.level"   // buspb.LedgerLevel; see level.go
	kindSection = "replication"    // snapshot file of the memory
)

// requestMemory is how long a request id is remembered, in entry time.
const requestMemory = 24 * time.Hour

// origin names one numbered stream of one incarnation.
type origin struct {
	incarnation string
	stream      buspb.Origin_Stream
}

func (o origin) compare(other origin) int {
	if c := strings.Compare(o.incarnation, other.incarnation); c != 0 {
		return c
	}
	return int(o.stream) - int(other.stream)
}

// requestKey is a request id of one principal: nobody can ask for another's.
type requestKey struct{ principal, id string }

// request is what became of one request id.
type request struct {
	key   requestKey
	index uint64
	time  int64    // of its entry
	no    *refusal // nil: it was applied
}

// memory is the ledger's own part of the replicated state: how far each
// origin's stream was taken, and what became of recent request ids. It is
// written by apply only; its owner's lock guards it.
type memory struct {
	origins  map[origin]uint64
	requests map[requestKey]*request
	// order is append-only between compactions, so that a view may keep it.
	order []*request
	head  int // order[:head] is forgotten
	level uint32
}

func newMemory() *memory {
	return &memory{origins: map[origin]uint64{}, requests: map[requestKey]*request{}, level: firstLevel}
}

// originOf returns the stream of e and its number; none has an empty name.
func originOf(e *buspb.Entry) (origin, uint64) {
	o := e.GetOrigin()
	return origin{incarnation: o.GetIncarnation(), stream: o.GetStream()}, o.GetSeq()
}

// inSequence tells whether e is the next of its stream.
func (m *memory) inSequence(e *buspb.Entry) bool {
	o, seq := originOf(e)
	return o.incarnation == "" || seq == m.origins[o]+1 || seeded.Out("duplicates")
}

// advance counts e in its stream.
func (m *memory) advance(e *buspb.Entry) {
	if o, seq := originOf(e); o.incarnation != "" {
		m.origins[o] = seq
	}
}

// earlier returns what became of e's request id, nil if it is new.
func (m *memory) earlier(principal, id string) *request {
	if id == "" {
		return nil
	}
	return m.requests[requestKey{principal, id}]
}

// remember keeps what became of e's request id.
func (m *memory) remember(e *buspb.Entry, no *refusal) {
	if e.Mutation.RequestId == "" {
		return
	}
	m.keep(&request{key: requestKey{e.Mutation.Principal, e.Mutation.RequestId}, index: e.Index, time: e.Time, no: no})
}

func (m *memory) keep(r *request) {
	m.requests[r.key] = r
	m.order = append(m.order, r)
}

// forget drops request ids that are too old at entry time now.
func (m *memory) forget(now int64) {
	for m.head < len(m.order) && now-m.order[m.head].time >= requestMemory.Microseconds() {
		delete(m.requests, m.order[m.head].key)
		m.head++
	}
	if m.head > 1024 && m.head > len(m.order)/2 {
		m.order = slices.Clone(m.order[m.head:]) // views keep the old one
		m.head = 0
	}
}

// retire forgets the streams of ended incarnations.
func (m *memory) retire(incarnations []string) {
	for _, name := range incarnations {
		maps.DeleteFunc(m.origins, func(o origin, _ uint64) bool { return o.incarnation == name })
	}
}

// memoryView is the memory between two entries.
type memoryView struct {
	origins  map[origin]uint64
	requests []*request
	level    uint32
}

func (m *memory) view() *memoryView {
	return &memoryView{origins: maps.Clone(m.origins), requests: m.order[m.head:len(m.order):len(m.order)], level: m.level}
}

// memoryLine is one line of the memory's snapshot file: an origin, a request, or the
// level if it is not the first.
type memoryLine struct {
	Level uint32 `json:"level,omitempty"`

	Incarnation string `json:"incarnation,omitempty"`
	Stream      string `json:"stream,omitempty"`
	Seq         uint64 `json:"seq,omitempty"`

	RequestID string  `json:"request_id,omitempty"`
	Principal string  `json:"principal,omitempty"`
	Index     uint64  `json:"index,omitempty"`
	Time      int64   `json:"time,omitempty"`
	Refusal   *string `json:"refusal,omitempty"`
}

// WriteTo writes the level, origins in their order, then request ids in theirs.
func (v *memoryView) WriteTo(w io.Writer) (int64, error) {
	var total int64
	line := func(l memoryLine) error {
		b, err := json.Marshal(l)
		if err != nil {
			return fmt.Errorf("write memory: %w", err)
		}
		n, err := w.Write(append(b, '\n'))
		total += int64(n)
		return err
	}
	if v.level != firstLevel {
		if err := line(memoryLine{Level: v.level}); err != nil {
			return total, err
		}
	}
	for _, o := range slices.SortedFunc(maps.Keys(v.origins), origin.compare) {
		if err := line(memoryLine{Incarnation: o.incarnation, Stream: o.stream.String(), Seq: v.origins[o]}); err != nil {
			return total, err
		}
	}
	for _, r := range v.requests {
		l := memoryLine{RequestID: r.key.id, Principal: r.key.principal, Index: r.index, Time: r.time}
		if r.no != nil {
			l.Refusal = &r.no.text
		}
		if err := line(l); err != nil {
			return total, err
		}
	}
	return total, nil
}

// restoreMemory reads what a memoryView wrote.
func restoreMemory(r io.Reader) (*memory, error) {
	m := newMemory()
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		b, err := lines.ReadBytes('\n')
		if err == io.EOF && len(bytes.TrimSpace(b)) == 0 {
			return m, nil
		}
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read memory: %w", err)
		}
		if err := m.restoreLine(b); err != nil {
			return nil, err
		}
	}
}

func (m *memory) restoreLine(b []byte) error {
	var l memoryLine
	if err := json.Unmarshal(b, &l); err != nil {
		return fmt.Errorf("read memory: %w: %w", ErrDamaged, err)
	}
	if l.Level != 0 {
		m.level = l.Level
		return nil
	}
	if l.RequestID == "" {
		stream, ok := buspb.Origin_Stream_value[l.Stream]
		if !ok || l.Incarnation == "" {
			return fmt.Errorf("read memory: origin %q of %q: %w", l.Stream, l.Incarnation, ErrDamaged)
		}
		m.origins[origin{l.Incarnation, buspb.Origin_Stream(stream)}] = l.Seq
		return nil
	}
	q := &request{key: requestKey{l.Principal, l.RequestID}, index: l.Index, time: l.Time}
	if l.Refusal != nil {
		q.no = &refusal{text: *l.Refusal}
	}
	m.keep(q)
	return nil
}
