package filestore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"raptorpack/ids"
)

const (
	tailRows  = 1000
	tailBytes = 1 << 20

	// maxTailSeen is how many batches a tail knows again, twice over: some 12 MiB.
	maxTailSeen = 100_000
)

// TailOptions say what a tail follows.
type TailOptions struct {
	Org    ids.Org
	Name   string     // result name of events
	Client ids.Client // zero: of all

	// Place is where to go on, as TailPage.Place said it, maybe of another node. Empty: behind
	// all that is there at the first look.
	Place string
}

// Tail follows the rows of one event artifact over all days and incarnations: each
// row once, in the order in which they become visible here. It holds no files
// open. For one goroutine at a time.
//
// A row is never passed over: each look continues every segment where the last one
// ended, of the day before too. It is never given twice: batches are known again
// by their identity, of very many the newest ones, and a tail that goes on
// elsewhere learns those of its place again from the segments' indexes.
type Tail struct {
	r      *Reader
	o      TailOptions
	folder string
	begun  bool

	days map[string]*tailDay // by date
	seen tailSeen
	told map[string]bool // damage, by path and kind
}

// tailDay is how far one day is read.
type tailDay struct {
	files map[segmentID]tailPin
}

// tailPin is how far one segment is read: members before offset, and of the member
// there the first extents.
type tailPin struct {
	offset  int64
	extents int
}

// TailPage is what one look found.
type TailPage struct {
	Rows   []Row
	More   bool     // there is more already
	Place  string   // behind Rows
	Damage []Damage // that no page before told
}

// NewTail makes a tail; nothing is read yet. A malformed place is ErrBadCursor.
func (r *Reader) NewTail(o TailOptions) (*Tail, error) {
	t := &Tail{r: r, o: o, days: map[string]*tailDay{}, told: map[string]bool{}}
	t.folder = path.Dir(string(Events(o.Org, o.Name, time.Unix(0, 0))))
	if o.Place == "" {
		return t, nil
	}
	days, err := parsePlace(o.Place)
	if err != nil {
		return nil, fmt.Errorf("tail of %.100q: %w", o.Name, err)
	}
	t.days = days
	return t, nil
}

// Next looks once and returns the rows behind the place, limit or somewhat more (0:
// 1000) or about 1 MiB at most; none if there are none now. After an error nothing
// is passed over by calling it again.
func (t *Tail) Next(ctx context.Context, limit int) (*TailPage, error) {
	orDefault(&limit, tailRows)
	l := &tailLook{t: t, limit: limit, page: &TailPage{}}
	defer l.close(ctx)
	err := l.look(ctx)
	switch {
	case err != nil && len(l.page.Rows)+len(l.page.Damage) == 0:
		return nil, fmt.Errorf("tail of %.100q: %w", t.o.Name, err)
	case err != nil || l.full():
		l.page.More = true // the next look tells, the error too
	default:
		t.leave()
	}
	l.page.Place = t.place()
	t.r.metrics.rows.Add(float64(len(l.page.Rows)))
	return l.page, nil
}

// list names all days that there are, oldest first.
func (t *Tail) list(ctx context.Context) ([]string, error) {
	names, err := t.r.store.ReadDir(ctx, t.folder)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	days := slices.DeleteFunc(names, func(name string) bool {
		_, err := time.Parse(time.DateOnly, name)
		return err != nil
	})
	slices.Sort(days)
	return days, nil
}

// first is the oldest day that the place has; "": none.
func (t *Tail) first() string {
	first := ""
	for day := range t.days {
		if first == "" || day < first {
			first = day
		}
	}
	return first
}

// leave forgets days that are over for everybody: rows come under the day of their
// node's clock, and no node's is wrong by a day.
func (t *Tail) leave() {
	oldest := yesterday()
	for day := range t.days {
		if day < oldest {
			delete(t.days, day)
			t.day(oldest) // so that the place begins there
		}
	}
}

func yesterday() string { return time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly) }

func (t *Tail) day(name string) *tailDay {
	d := t.days[name]
	if d == nil {
		d = &tailDay{files: map[segmentID]tailPin{}}
		t.days[name] = d
	}
	return d
}

// tailLook is one look under way.
type tailLook struct {
	t     *Tail
	limit int
	page  *TailPage
	bytes int

	open *Handle
	path string // of open
}

func (l *tailLook) look(ctx context.Context) error {
	t := l.t
	days, err := t.list(ctx)
	if err != nil {
		return err
	}
	if !t.begun {
		if err := t.begin(ctx, days); err != nil {
			return err
		}
		t.begun = true
	}
	for _, day := range days {
		if day < t.first() {
			continue
		}
		files, damage, err := t.r.load(ctx, Set(path.Join(t.folder, day)))
		if err != nil {
			return err
		}
		l.damaged(damage...)
		for _, f := range files {
			if err := l.file(ctx, t.day(day), f); err != nil || l.full() {
				return err
			}
		}
	}
	return nil
}

// begin learns what was read before: all, without a place; else what stands before
// it. The same batches may lie in the day before its first, too.
func (t *Tail) begin(ctx context.Context, days []string) error {
	all := t.o.Place == ""
	if all {
		t.day(yesterday())
	}
	first := t.first()
	at, _ := slices.BinarySearch(days, first)
	for _, day := range days[max(0, at-1):] {
		files, _, err := t.r.load(ctx, Set(path.Join(t.folder, day)))
		if err != nil {
			return err
		}
		for _, f := range files {
			switch {
			case day < first:
				t.learn(f, tailPin{offset: f.valid})
			case all:
				t.learn(f, tailPin{offset: f.valid})
				t.day(day).files[f.id] = tailPin{offset: f.valid}
			case t.days[day] != nil:
				t.learn(f, t.days[day].files[f.id])
			}
		}
	}
	return nil
}

// learn notes the batches before a pin as seen.
func (t *Tail) learn(f fileView, until tailPin) {
	for m := range f.members {
		member := &f.members[m]
		for e := range member.Extents {
			if member.Offset < until.offset || member.Offset == until.offset && e < until.extents {
				t.take(&member.Extents[e])
			}
		}
	}
}

// take reports whether an extent is the tail's and was not seen before.
func (t *Tail) take(e *Extent) bool {
	return t.filter().takes(e) && t.seen.add(tailBatch{e.Stream(), e.FirstRow, e.Rows})
}

func (t *Tail) filter() RowsFilter { return RowsFilter{Client: t.o.Client} }

// file reads what a segment has behind its pin, until the page is full.
func (l *tailLook) file(ctx context.Context, d *tailDay, f fileView) error {
	pin := d.files[f.id]
	at, _ := slices.BinarySearchFunc(f.members, pin.offset, func(m Member, offset int64) int { return cmp.Compare(m.Offset, offset) })
	for ; at < len(f.members); at++ {
		m := f.members[at]
		from := 0
		if m.Offset == pin.offset {
			from = pin.extents
		}
		done, err := l.member(ctx, f, m, from)
		if err != nil {
			return err
		}
		if pin = (tailPin{offset: m.Offset, extents: done}); done == len(m.Extents) {
			pin = tailPin{offset: m.Offset + m.Length}
		}
		d.files[f.id] = pin
		if l.full() {
			return nil
		}
	}
	return nil
}

func (l *tailLook) full() bool { return len(l.page.Rows) >= l.limit || l.bytes >= tailBytes }

// member takes the extents of a member from one on and returns how many of it are
// done with. One that cannot be inflated is told as damage and passed over, as by
// all readers.
func (l *tailLook) member(ctx context.Context, f fileView, m Member, from int) (done int, err error) {
	var plain []byte
	filter := l.t.filter()
	for e := from; e < len(m.Extents); e++ {
		extent := m.Extents[e]
		if l.full() {
			return e, nil
		}
		if !filter.takes(&extent) || l.t.seen.has(tailBatch{extent.Stream(), extent.FirstRow, extent.Rows}) {
			continue
		}
		if plain == nil {
			if plain, err = l.plain(ctx, f.path, m); err != nil {
				return len(m.Extents), l.broken(f, m, err)
			}
		}
		lines, err := cutExtent(plain, extent)
		if err != nil {
			return len(m.Extents), l.broken(f, m, err)
		}
		l.t.take(&extent)
		l.rows(extent, lines)
	}
	return len(m.Extents), nil
}

func (l *tailLook) broken(f fileView, m Member, err error) error {
	if !errors.Is(err, ErrDamaged) {
		return err
	}
	l.damaged(Damage{f.path, m.Offset, m.Length, DamageMember, err})
	l.t.r.metrics.damage.WithLabelValues(string(DamageMember)).Inc()
	return nil
}

func (l *tailLook) rows(e Extent, lines []byte) {
	l.bytes += len(lines)
	for number := e.FirstRow; len(lines) > 0; number++ {
		end := bytes.IndexByte(lines, '\n')
		l.page.Rows = append(l.page.Rows, Row{e.Client, e.Flow, e.Name, number, lines[:end:end]})
		lines = lines[end+1:]
	}
}

// damaged tells what no page told. Files that are being written are torn for a
// moment all the time.
func (l *tailLook) damaged(all ...Damage) {
	for _, d := range all {
		key := fmt.Sprintf("%s %s %d", d.Path, d.Kind, d.Offset)
		if d.Kind == DamageTorn || l.t.told[key] {
			continue
		}
		l.t.told[key] = true
		l.page.Damage = append(l.page.Damage, d)
	}
}

// plain inflates a member; the segment stays open for the next one.
func (l *tailLook) plain(ctx context.Context, name string, m Member) ([]byte, error) {
	if l.path != name {
		l.close(ctx)
		h, err := l.t.r.store.OpenFile(ctx, name)
		if err != nil {
			return nil, err
		}
		l.open, l.path = h, name
	}
	plain, err := readMember(ctx, l.open, m)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return plain, err
}

func (l *tailLook) close(ctx context.Context) {
	if l.open != nil {
		l.open.discard(ctx)
	}
	l.open, l.path = nil, ""
}

// tailBatch is the identity of a batch.
type tailBatch struct {
	stream Stream
	first  int64
	rows   int64
}

// tailSeen remembers batches, of very many the newest: between one and two times
// maxTailSeen.
type tailSeen struct{ young, old map[tailBatch]struct{} }

func (s *tailSeen) has(b tailBatch) bool {
	_, young := s.young[b]
	_, old := s.old[b]
	return young || old
}

// add reports whether the batch is new.
func (s *tailSeen) add(b tailBatch) bool {
	if s.has(b) {
		return false
	}
	if s.young == nil || len(s.young) >= maxTailSeen {
		s.old, s.young = s.young, make(map[tailBatch]struct{})
	}
	s.young[b] = struct{}{}
	return true
}
