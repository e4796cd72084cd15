package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// sendBytes bounds the facts offered to a master at once.
const sendBytes = 1 << 20

// sendRetry paces facts while no master takes them.
var sendRetry = retry.Policy{First: 20 * time.Millisecond, Cap: time.Second}

// Run sends this node's facts to whoever leads, in order, until ctx ends; nil
// means told to stop. It needs Load to have returned.
func (n *Node) Run(ctx context.Context) error {
	o := n.outbox
	own := &cursor{store: n.store, name: n.o.Incarnation}
	failures, told := 0, ""
	for ctx.Err() == nil {
		batch, err := o.nextBatch(ctx, own)
		if err == nil && len(batch) == 0 {
			select {
			case <-o.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err == nil {
			err = n.deliver(ctx, batch)
		}
		if err == nil {
			o.took(batch)
			n.m.facts.WithLabelValues("own").Add(float64(len(batch)))
			failures, told = 0, ""
			continue
		}
		failures++
		if told != err.Error() && ctx.Err() == nil && !errors.Is(err, ErrNoMaster) && !errors.Is(err, ErrUnsure) {
			told = err.Error()
			n.log.Error("facts are not taken", "seq", o.lastSent()+1, "err", err)
		}
		n.awaitMaster(ctx, sendRetry.Pause(failures))
	}
	return nil
}

// awaitMaster returns after pause, or never before somebody leads.
func (n *Node) awaitMaster(ctx context.Context, pause time.Duration) {
	if !retry.Sleep(ctx, pause) {
		return
	}
	for {
		nobody, changed := n.props.leaderless()
		if !nobody {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// nextBatch returns the next facts to send: from memory, or when this node is
// too far behind for that, from its own files.
func (o *Outbox) nextBatch(ctx context.Context, own *cursor) ([]*numbered, error) {
	o.mu.Lock()
	batch, behind, next := head(o.queue), o.behind, o.sent+1
	o.mu.Unlock()
	if len(batch) > 0 || !behind {
		return batch, nil
	}
	if own.next != next {
		own.next, own.at = next, 0
	}
	facts, err := own.read(ctx)
	if err != nil {
		return nil, err
	}
	if len(facts) == 0 {
		return nil, fmt.Errorf("fact %d is durable but not found: %w", next, ErrGap)
	}
	return o.n.resolve(ctx, facts)
}

// head is the longest beginning of facts that may be sent at once.
func head(facts []*numbered) []*numbered {
	size, count := int64(0), 0
	for count < len(facts) && size < sendBytes {
		size += facts[count].bytes
		count++
	}
	return facts[:count:count]
}

// resolve makes facts read from a file ready to be offered: at most as many as
// may be sent at once.
func (n *Node) resolve(ctx context.Context, facts []*buspb.Fact) ([]*numbered, error) {
	var batch []*numbered
	size := int64(0)
	for _, f := range facts {
		if size >= sendBytes {
			break
		}
		whole, err := n.blobs.whole(ctx, f.Mutation)
		if err != nil {
			return nil, fmt.Errorf("fact %d: %w", f.Seq, err)
		}
		it := &numbered{seq: f.Seq, stored: f.Mutation, whole: whole, bytes: int64(len(whole.Body)) + 256}
		batch = append(batch, it)
		size += it.bytes
	}
	return batch, nil
}

// took moves on after a master has taken batch.
func (o *Outbox) took(batch []*numbered) {
	last := batch[len(batch)-1].seq // batch may be a part of queue
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range batch {
		o.unsent -= f.bytes
		if len(o.queue) > 0 && o.queue[0].seq == f.seq {
			o.bytes -= f.bytes
			o.queue = o.queue[1:]
		}
		if f.done != nil {
			f.done()
		}
	}
	o.sent = last
	if len(o.queue) == 0 {
		o.queue = nil
	}
	if o.sent >= o.synced {
		o.behind = false
	}
	o.report()
}

func (o *Outbox) lastSent() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent
}

func (n *Node) deliver(ctx context.Context, batch []*numbered) error {
	l := n.props.leader()
	if l == nil {
		return ErrNoMaster
	}
	return l.deliver(ctx, n.o.Incarnation, batch)
}

func (r *reign) deliver(ctx context.Context, incarnation string, batch []*numbered) error {
	items := make([]*item, len(batch))
	for i, f := range batch {
		o := &buspb.Origin{Incarnation: incarnation, Stream: buspb.Origin_STREAM_OUTBOX, Seq: f.seq}
		items[i] = &item{stored: f.stored, whole: f.whole, origin: o, answer: make(chan answer, 1)}
	}
	if !r.offer(items...) {
		return ErrNoMaster
	}
	var errs error
	for i, it := range items {
		select {
		case a := <-it.answer:
			if a.err != nil && errs == nil {
				errs = fmt.Errorf("fact %d of %s: %w", batch[i].seq, incarnation, a.err)
			}
			if no := a.out.no; no != nil {
				r.n.log.Warn("fact is refused", "incarnation", incarnation, "seq", batch[i].seq, "kind", it.stored.Kind, "index", a.out.index, "err", no)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errs
}

// endedEvery says at which of its rounds adopt asks anew who has ended.
const endedEvery = 8

// adopter reads the outboxes of other incarnations for one reign.
type adopter struct {
	n       *Node
	r       *reign
	cursors map[string]*cursor
	over    map[string]bool   // incarnations that write no more
	done    map[string]bool   // of those, the ones read to their end, or to damage
	ailing  map[string]string // what was told last
}

// adopt takes what the outboxes of other incarnations still hold, dead ones
// and those cut off alike: a fact is true whoever brings it, and its number
// keeps it from being taken twice.
func (n *Node) adopt(ctx context.Context, r *reign) error {
	n.adopted.clear()
	a := &adopter{n: n, r: r, cursors: map[string]*cursor{}, done: map[string]bool{}, ailing: map[string]string{}}
	for round := 0; ; round++ {
		if err := a.round(ctx, round%endedEvery == 0); err != nil && ctx.Err() == nil {
			n.log.Warn("outboxes of other incarnations cannot be listed", "err", err)
		}
		if !retry.Sleep(ctx, n.o.TailEvery) {
			return nil
		}
	}
}

// round looks into every outbox that may still hold something. Who has ended
// is asked before reading, so that the end then found is the last.
func (a *adopter) round(ctx context.Context, askEnded bool) (err error) {
	if askEnded {
		if a.over, err = a.n.ended(ctx); err != nil {
			return err
		}
	}
	names, err := listOutboxes(ctx, a.n.store)
	if err != nil {
		return err
	}
	behind := 0
	for _, name := range names {
		if name == a.n.o.Incarnation || a.done[name] {
			continue
		}
		if a.cursors[name] == nil {
			a.cursors[name] = &cursor{store: a.n.store, name: name}
		} else if !a.over[name] && a.brought(name) {
			continue
		}
		err := a.n.adoptOne(ctx, a.r, a.cursors[name])
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			behind++
		}
		a.done[name] = err == nil && a.over[name]
		a.n.tellAiling(a.ailing, name, err)
		if a.done[name] || errors.Is(err, ErrDamaged) && a.over[name] {
			a.n.adopted.add(name)
		}
	}
	for name := range a.over {
		if !slices.Contains(names, name) { // it had nothing to tell
			a.n.adopted.add(name)
		}
	}
	a.n.m.foreignLag.Set(float64(behind))
	return nil
}

// brought reports whether facts of an incarnation came by another way since its outbox
// was looked into last: then there is no need to read them as well.
func (a *adopter) brought(name string) bool {
	c := a.cursors[name]
	taken := a.n.taken(origin{name, buspb.Origin_STREAM_OUTBOX})
	if c.next == 0 || taken < c.next {
		return false // nothing new, or a delivery failed
	}
	c.next = taken + 1
	return true
}

// nameSet is a set of names that several goroutines use.
type nameSet struct {
	mu    sync.Mutex
	names map[string]bool
}

func (s *nameSet) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names == nil {
		s.names = map[string]bool{}
	}
	s.names[name] = true
}

func (s *nameSet) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[name]
}

func (s *nameSet) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.names)
}

// Adopted reports whether this node, since it leads, has taken all that the outbox
// of an incarnation holds which is over. Only then does the state know of every
// flow that the incarnation has rows of.
func (n *Node) Adopted(incarnation string) bool { return n.adopted.has(incarnation) }

// tellAiling logs once when an outbox cannot be read on, and once when it can.
func (n *Node) tellAiling(ailing map[string]string, name string, err error) {
	if err == nil {
		if ailing[name] != "" {
			n.log.Info("outbox can be read again", "incarnation", name)
		}
		delete(ailing, name)
		return
	}
	if errors.Is(err, ErrNoMaster) || errors.Is(err, ErrUnsure) {
		return
	}
	n.m.foreignFailed.Inc()
	if ailing[name] != err.Error() {
		n.log.Error("outbox of another incarnation cannot be read on", "incarnation", name, "err", err)
		ailing[name] = err.Error()
	}
}

// adoptOne delivers all that one foreign outbox has now.
func (n *Node) adoptOne(ctx context.Context, r *reign, c *cursor) error {
	switch taken := n.taken(origin{c.name, buspb.Origin_STREAM_OUTBOX}); {
	case taken+1 > c.next: // what came by another way lies between here and there
		c.next = taken + 1
	case taken+1 < c.next:
		c.next, c.at = taken+1, 0
	}
	for {
		facts, err := c.read(ctx)
		if err != nil || len(facts) == 0 {
			return err
		}
		for len(facts) > 0 {
			batch, err := n.resolve(ctx, facts)
			if err == nil {
				err = r.deliver(ctx, c.name, batch)
			}
			if err != nil {
				c.at, c.next = 0, 0 // look up again what was taken
				return err
			}
			facts = facts[len(batch):]
			n.m.facts.WithLabelValues("foreign").Add(float64(len(batch)))
		}
	}
}
