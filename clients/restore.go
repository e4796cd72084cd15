package clients

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"raptorpack/ids"
)

const (
	pieceBytes = 1 << 19 // of a snapshot that are decoded at once: about 600 clients
	maxLine    = 1 << 24
	maxGap     = 1 << 24 // deleted ordinals in a row
)

// Restore implements replication.State. Lines are decoded on all processors; the
// search index is not waited for.
func (r *Room) Restore(from io.Reader) error {
	fresh, err := load(from)
	if err != nil {
		return fmt.Errorf("restore clients: %w", err)
	}
	r.soft.mu.Lock()
	defer r.soft.mu.Unlock()
	r.mu.Lock()
	before := r.orgs
	r.orgs, r.server = fresh.orgs, fresh.server
	r.mu.Unlock()
	r.soft.move(before, fresh.orgs)
	r.signal()
	return nil
}

// load reads a snapshot. One goroutine reads, some decode, and the caller's puts
// what they made where it belongs.
func load(from io.Reader) (*loader, error) {
	workers := runtime.GOMAXPROCS(0)
	pieces := 2*workers + 1
	l := &loader{
		from: from, orgs: map[ids.Org]*table{}, server: map[ids.Org]metadata{},
		spare: make(chan *piece, pieces), work: make(chan *piece, pieces), order: make(chan *piece, pieces),
	}
	for range pieces {
		l.spare <- &piece{done: make(chan struct{}, 1)}
	}
	var wg sync.WaitGroup
	wg.Go(l.read)
	for range workers {
		wg.Go(l.decode)
	}
	err := l.assemble()
	wg.Wait()
	if err := errors.Join(err, l.readErr); err != nil {
		return nil, err
	}
	return l, l.number()
}

// loader has as many pieces as each of its channels has room for, so that nobody
// waits but for a piece.
type loader struct {
	from    io.Reader
	spare   chan *piece // to be filled
	work    chan *piece // to be decoded
	order   chan *piece // to be put in place
	failed  atomic.Bool // nobody needs the rest
	readErr error

	orgs   map[ids.Org]*table
	server map[ids.Org]metadata
	last   *table // where the entry before went
	lines  int
}

// piece is some whole lines of a snapshot.
type piece struct {
	raw     []byte
	entries []entry
	texts   []int         // where the packed text of each entry ends; -1: it has its own
	err     error         // of the line behind the entries
	done    chan struct{} // one slot: it is decoded
}

// read cuts the snapshot at line ends.
func (l *loader) read() {
	defer close(l.work)
	defer close(l.order)
	var begun []byte // of a line
	for last := false; !last && !l.failed.Load(); {
		p := <-l.spare
		p.raw = append(p.raw[:0], begun...)
		if last, l.readErr = l.fill(p); l.readErr != nil {
			return
		}
		whole := len(p.raw)
		if !last {
			whole = bytes.LastIndexByte(p.raw, '\n') + 1
		}
		begun = append(begun[:0], p.raw[whole:]...)
		p.raw = p.raw[:whole]
		l.work <- p
		l.order <- p
	}
}

// fill reads until a piece is full and has a line end, or there is no more: then
// it returns true.
func (l *loader) fill(p *piece) (bool, error) {
	for size := pieceBytes; len(p.raw) <= maxLine; size *= 2 {
		begun := len(p.raw)
		p.raw = slices.Grow(p.raw, max(0, size-begun))
		for len(p.raw) < size {
			n, err := l.from.Read(p.raw[len(p.raw):size])
			p.raw = p.raw[:len(p.raw)+n]
			if err == io.EOF {
				return true, nil
			}
			if err != nil {
				return false, err
			}
		}
		if bytes.IndexByte(p.raw[begun:], '\n') >= 0 {
			return false, nil
		}
	}
	return false, fmt.Errorf("a line of more than %d bytes: %w", maxLine, ErrRefused)
}

func (l *loader) decode() {
	s := newScanner()
	for p := range l.work {
		if !l.failed.Load() {
			p.decode(s)
		}
		p.done <- struct{}{}
	}
}

func (p *piece) decode(s *scanner) {
	p.entries, p.texts, p.err = p.entries[:0], p.texts[:0], nil
	s.texts = s.texts[:0]
	for raw := range bytes.Lines(p.raw) {
		raw = bytes.TrimSuffix(raw, []byte("\n"))
		p.entries = slices.Grow(p.entries, 1)[:len(p.entries)+1]
		e := &p.entries[len(p.entries)-1]
		if s.scan(raw, e) {
			p.texts = append(p.texts, len(s.texts))
		} else if p.err = e.parse(raw); p.err != nil {
			p.entries = p.entries[:len(p.entries)-1]
			break
		} else {
			p.texts = append(p.texts, -1)
		}
	}
	texts, begin := string(s.texts), 0
	for i, end := range p.texts {
		if end >= 0 {
			p.entries[i].cell.text = texts[begin:end]
			begin = end
		}
	}
}

// assemble puts clients in place until all is read, or a line is wrong.
func (l *loader) assemble() (err error) {
	for p := range l.order {
		<-p.done
		if err == nil {
			if err = l.place(p); err != nil {
				l.failed.Store(true)
			}
		}
		l.spare <- p
	}
	return err
}

func (l *loader) place(p *piece) error {
	for i := range p.entries {
		l.lines++
		if err := l.put(&p.entries[i]); err != nil {
			return fmt.Errorf("line %d: %w", l.lines, err)
		}
	}
	if p.err != nil {
		return fmt.Errorf("line %d: %w", l.lines+1, p.err)
	}
	return nil
}

func (l *loader) put(e *entry) error {
	if e.server != nil {
		l.server[e.org] = e.server
		return nil
	}
	t := l.last
	if t == nil || t.org != e.org {
		if t = l.orgs[e.org]; t == nil {
			t = newTable(e.org)
			l.orgs[e.org] = t
		}
		l.last = t
	}
	if e.ordinal < t.n || e.ordinal > t.n+maxGap || e.ordinal >= 1<<31 {
		return fmt.Errorf("ordinal %d after %d: %w", e.ordinal, t.n, ErrRefused)
	}
	t.grow(e.ordinal + 1)
	if !e.deleted {
		t.put(e.ordinal, e.born, e.modulus[:], e.cell)
	}
	return nil
}

// number makes the tables by id, each in its final size.
func (l *loader) number() error {
	for _, t := range l.orgs {
		live := 0
		for ordinal := range t.n {
			if t.cell(ordinal).text != "" {
				live++
			}
		}
		t.byID = make(map[number]uint32, live)
		for ordinal := range t.n {
			if t.cell(ordinal).text != "" {
				t.byID[t.birth(ordinal).id] = ordinal
			}
		}
		if len(t.byID) < live {
			return fmt.Errorf("%d clients of org %q twice: %w", live-len(t.byID), t.org.String(), ErrRefused)
		}
	}
	return nil
}
