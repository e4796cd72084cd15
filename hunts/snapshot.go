package hunts

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
	"raptorpack/internal/micros"
)

// snapshotLine is one line of hunts.jsonl: of kind "hunt", or "deleted", which comes
// after.
type snapshotLine struct {
	Kind    string    `json:"kind"`
	Org     string    `json:"org,omitempty"`
	Hunt    string    `json:"hunt"`
	Record  *huntLine `json:"record,omitempty"`
	Deleted int64     `json:"deleted,omitempty"` // unix microseconds
	Index   uint64    `json:"index,omitempty"`   // the entry that deleted it
	Foreign bool      `json:"imported,omitempty"`
}

// huntLine is what of a hunt is written: times in unix microseconds, 0 for none;
// sets as in text.go.
type huntLine struct {
	Index       uint64            `json:"index"`
	State       State             `json:"state"`
	Creator     string            `json:"creator,omitempty"`
	Description string            `json:"description,omitempty"`
	Tags        []string          `json:"tags,omitempty"`
	Conditions  Conditions        `json:"conditions"`
	Rate        int64             `json:"clients_per_minute,omitempty"`
	Limit       int64             `json:"client_limit,omitempty"`
	Expires     int64             `json:"expires"`
	Created     int64             `json:"created"`
	Started     int64             `json:"started,omitempty"`
	Ended       int64             `json:"ended,omitempty"`
	CancelFlows bool              `json:"cancel_flows,omitempty"`
	MovedBy     string            `json:"moved_by,omitempty"`
	Paid        int64             `json:"paid,omitempty"`
	Sums        Sums              `json:"sums"`
	Sets        map[string]string `json:"sets"`
	Attempts    []attemptLine     `json:"attempts,omitempty"`
	Copies      map[uint32]string `json:"copies,omitempty"`   // flows of those whose newest attempt is a collection that was added
	Minutes     int64             `json:"minutes"`            // of a bucket
	Timeline    [][]int64         `json:"timeline,omitempty"` // minute, then the change of each set
	Spec        []byte            `json:"spec"`
	Origin      *originLine       `json:"origin,omitempty"`
}

// originLine is what of a hunt's origin is written.
type originLine struct {
	Origin
	Counts Counts `json:"counts"`
	Sums   Sums   `json:"sums"`
}

// attemptLine lists the clients whose newest attempt is one beyond the first.
type attemptLine struct {
	Attempt int    `json:"attempt"`
	Clients string `json:"clients"`
}

// view is the room between two entries. What hunts point to does not change once a
// view has it.
type view struct {
	hunts   []hunt
	deleted []snapshotLine
}

// View implements replication.State.
func (r *Room) View() io.WriterTo {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := &view{}
	for org, o := range r.orgs {
		for _, h := range o.hunts {
			h.m.kept = true
			v.hunts = append(v.hunts, *h)
		}
		for id, d := range o.deleted {
			v.deleted = append(v.deleted, snapshotLine{
				Kind: "deleted", Org: org.String(), Hunt: id.String(), Deleted: d.at, Index: d.index, Foreign: d.imported,
			})
		}
	}
	return v
}

// WriteTo writes the sorted JSON lines.
func (v *view) WriteTo(w io.Writer) (int64, error) { return jsonlines.Write(w, v.lines) }

func (v *view) lines(yield func(snapshotLine) bool) {
	slices.SortFunc(v.hunts, func(a, b hunt) int { return compareKeys(a.key, b.key) })
	slices.SortFunc(v.deleted, func(a, b snapshotLine) int {
		return cmp.Or(strings.Compare(a.Org, b.Org), strings.Compare(a.Hunt, b.Hunt))
	})
	for i := range v.hunts {
		h := &v.hunts[i]
		if !yield(snapshotLine{Kind: "hunt", Org: h.key.Org.String(), Hunt: h.key.Hunt.String(), Record: h.line()}) {
			return
		}
	}
	for _, line := range v.deleted {
		if !yield(line) {
			return
		}
	}
}

func (h *hunt) line() *huntLine {
	l := &huntLine{
		Index: h.life.Index, State: h.life.State, Creator: h.def.Creator, Description: h.set.Description, Tags: h.set.Tags.List(),
		Conditions: h.def.Conditions, Rate: h.set.Rate, Limit: h.set.Limit, Expires: micros.Of(h.set.Expires),
		Created: micros.Of(h.life.Created), Started: micros.Of(h.life.Started), Ended: micros.Of(h.life.Ended),
		CancelFlows: h.life.CancelFlows, MovedBy: h.life.MovedBy, Paid: h.pace.paid, Sums: h.sums,
		Sets: map[string]string{}, Minutes: h.m.line.width, Spec: h.def.spec,
	}
	if o := h.def.Origin; o != nil {
		l.Origin = &originLine{*o, o.counts, o.sums}
	}
	for i, set := range h.m.sets {
		if text := textOf(set); text != "" {
			l.Sets[setNames[i]] = text
		}
	}
	for _, n := range slices.Sorted(maps.Keys(h.m.attempts)) {
		l.Attempts = append(l.Attempts, attemptLine{int(n), textOf(h.m.attempts[n])})
	}
	for ordinal, flow := range h.m.copies {
		if l.Copies == nil {
			l.Copies = make(map[uint32]string, len(h.m.copies))
		}
		l.Copies[ordinal] = flow.String() // JSON sorts them
	}
	for _, b := range h.m.line.buckets {
		row := append(make([]int64, 0, 1+sets), b.Minute)
		for _, n := range b.Change {
			row = append(row, int64(n))
		}
		l.Timeline = append(l.Timeline, row)
	}
	return l
}

// Restore implements replication.State.
func (r *Room) Restore(from io.Reader) error {
	fresh := &Room{o: r.o}
	fresh.reset()
	lines := bufio.NewReaderSize(from, 1<<16)
	for n := 1; ; n++ {
		text, err := lines.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("restore hunts: %w", err)
		}
		if len(bytes.TrimSpace(text)) > 0 {
			if err := fresh.restoreLine(text); err != nil {
				return fmt.Errorf("restore hunts, line %d: %w", n, err)
			}
		}
		if err == io.EOF {
			break
		}
	}
	r.mu.Lock()
	r.orgs = fresh.orgs
	for org, o := range r.orgs {
		for id := range o.hunts {
			r.dirty[Key{org, id}] = struct{}{}
		}
	}
	r.publish()
	r.mu.Unlock()
	r.tell()
	return nil
}

func (r *Room) restoreLine(text []byte) error {
	var line snapshotLine
	if err := json.Unmarshal(text, &line); err != nil {
		return err
	}
	org, err := ids.ParseOrg(line.Org)
	if err != nil {
		return err
	}
	id, err := ids.ParseHunt(line.Hunt)
	if err != nil {
		return err
	}
	switch {
	case line.Kind == "hunt" && line.Record != nil:
		h, err := line.Record.hunt(Key{org, id})
		if err != nil {
			return fmt.Errorf("hunt %s: %w", id, err)
		}
		o := r.org(org)
		if o.hunts[id] != nil {
			return fmt.Errorf("hunt %s twice: %w", id, ErrInvalid)
		}
		o.hunts[id] = h
		if !h.m.sets[DeclinedClients].IsEmpty() {
			o.declining[h] = struct{}{}
		}
		return nil
	case line.Kind == "deleted":
		r.org(org).deleted[id] = tombstone{line.Deleted, line.Index, line.Foreign}
		return nil
	}
	return fmt.Errorf("line of kind %.20q: %w", line.Kind, ErrInvalid)
}

func (l *huntLine) hunt(key Key) (*hunt, error) {
	read := readSpec
	if l.Origin != nil {
		read = parseSpec
	}
	spec, err := read(l.Spec)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]State{Draft, Running, Paused, Stopped, Expired, Archived, Deleted}, l.State) {
		return nil, fmt.Errorf("state %.20q: %w", l.State, ErrInvalid)
	}
	m, err := l.members()
	if err != nil {
		return nil, err
	}
	if err := l.restoreCopies(m, key.Hunt); err != nil {
		return nil, err
	}
	def := defineBy(l.Creator, spec, l.Spec, l.Conditions)
	if o := l.Origin; o != nil {
		def.Origin = &o.Origin
		def.Origin.counts, def.Origin.sums = o.Counts, o.Sums
	}
	return &hunt{
		key: key, def: def, m: m, pace: pace{l.Paid}, sums: l.Sums,
		set: Settings{l.Description, l.Rate, l.Limit, micros.Time(l.Expires), tagsOf(l.Tags)},
		life: Life{
			State: l.State, Index: l.Index, Created: micros.Time(l.Created), Started: micros.Time(l.Started),
			Ended: micros.Time(l.Ended), CancelFlows: l.CancelFlows, MovedBy: l.MovedBy,
		},
	}, nil
}

func (l *huntLine) members() (*members, error) {
	m := newMembers()
	all := roaring.New()
	for name, text := range l.Sets {
		s, known := ParseSet(name)
		set, err := setOfText(text)
		if err != nil || !known {
			return nil, fmt.Errorf("set %.20q: %w", name, cmp.Or(err, ErrInvalid))
		}
		m.sets[s] = set
		if s == WithResults {
			continue
		}
		if all.Intersects(set) {
			return nil, fmt.Errorf("clients of set %q are in another too: %w", name, ErrInvalid)
		}
		all.Or(set)
	}
	if err := l.restoreAttempts(m); err != nil {
		return nil, err
	}
	return m, l.restoreTimeline(m)
}

func (l *huntLine) restoreAttempts(m *members) error {
	all := roaring.New()
	for _, a := range l.Attempts {
		set, err := setOfText(a.Clients)
		if err != nil || a.Attempt < 1 || a.Attempt > ids.MaxAttempt {
			return fmt.Errorf("clients of attempt %d: %w", a.Attempt, cmp.Or(err, ErrInvalid))
		}
		if all.Intersects(set) || set.IsEmpty() {
			return fmt.Errorf("clients of attempt %d are at another, or none: %w", a.Attempt, ErrInvalid)
		}
		all.Or(set)
		if m.attempts[uint16(a.Attempt)] != nil {
			return fmt.Errorf("attempt %d twice: %w", a.Attempt, ErrInvalid)
		}
		m.attempts[uint16(a.Attempt)] = set
	}
	return nil
}

func (l *huntLine) restoreCopies(m *members, h ids.Hunt) error {
	for ordinal, text := range l.Copies {
		flow, err := ids.ParseFlow(text)
		if _, ours := flow.Copied(h); err != nil || !ours {
			return fmt.Errorf("flow %.60q that was added: %w", text, cmp.Or(err, ErrInvalid))
		}
		m.copies[ordinal] = flow
	}
	return nil
}

func (l *huntLine) restoreTimeline(m *members) error {
	if l.Minutes < 1 || l.Minutes > math.MaxInt32 || len(l.Timeline) > maxBuckets {
		return fmt.Errorf("timeline of %d buckets of %d minutes: %w", len(l.Timeline), l.Minutes, ErrInvalid)
	}
	m.line.width = l.Minutes
	for _, row := range l.Timeline {
		if len(row) != 1+sets {
			return fmt.Errorf("timeline with %d numbers in a row: %w", len(row), ErrInvalid)
		}
		b := Bucket{Minute: row[0]}
		for i, n := range row[1:] {
			if n < math.MinInt32 || n > math.MaxInt32 {
				return fmt.Errorf("timeline with a change of %d: %w", n, ErrInvalid)
			}
			b.Change[i] = int32(n)
		}
		m.line.buckets = append(m.line.buckets, b)
	}
	return nil
}
