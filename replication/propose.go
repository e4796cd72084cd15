package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"raptorpack/proto/buspb"
)

// Bounds of a mutation's texts, so that an entry without its body always fits
// a frame.
const (
	maxRequestID = 256
	maxPrincipal = 1024
	maxOrg       = 64
)

// item is one mutation on its way into the ledger.
type item struct {
	stored *buspb.Mutation // as the ledger has it: a large body is a blob
	whole  *buspb.Mutation // as States see it
	origin *buspb.Origin   // nil: the master's own
	done   func()          // gives back room and the hold on the blob; nil: none
	sent   bool            // to another node, at least once; whoever sends it owns this
	// answer takes one answer, ever, so it is never full.
	answer chan answer
}

// answer ends an item's way. With err nothing is known of the mutation but
// what err says; without, out is what became of it.
type answer struct {
	out outcome
	err error
}

// proposals are the mutations that this node's callers wait for. Their stream
// has no gaps: once a mutation has its number it goes to one master after the
// other until its entry is applied here, also when its caller has left.
type proposals struct {
	room *semaphore.Weighted // bytes of all that wait
	max  int64
	name string // incarnation

	mu      sync.Mutex
	seq     uint64  // last number given
	waiting []*item // numbered and not answered, in order
	lead    leader  // who leads, nil: nobody that we know of
	changed chan struct{}
}

func newProposals(o Options) *proposals {
	return &proposals{
		room: semaphore.NewWeighted(o.MaxPendingBytes), max: o.MaxPendingBytes, name: o.Incarnation,
		changed: make(chan struct{}),
	}
}

// Propose asks for a change of the shared state. It returns nil when m is
// durable in the ledger and this node has applied it: who writes here reads it
// here. A State's refusal matches ErrRefused and the State's own error. With
// no master it waits up to Options.ProposeWait, then says ErrNoMaster; as long
// it waits for room, then says ErrNoRoom. ErrUnsure means that m may yet be
// applied.
//
// m and its body must not be changed afterwards. m.RequestId, if given, makes
// repeats within 24 h of entry time answer what the first was answered,
// whichever node they come through; it counts per m.Principal.
func (n *Node) Propose(ctx context.Context, m *buspb.Mutation) error {
	_, err := n.ProposeIndex(ctx, m)
	return err
}

// ProposeIndex is Propose that also returns the index of the entry: of the
// earlier one if m repeats a request id, and also with a refusal. It is 0 when
// the mutation has no known place.
func (n *Node) ProposeIndex(ctx context.Context, m *buspb.Mutation) (uint64, error) {
	begin := time.Now()
	out, err := n.propose(ctx, m)
	if err == nil {
		err = out.answer()
	}
	n.m.propose.WithLabelValues(outcomeName(err)).Observe(time.Since(begin).Seconds())
	if err != nil {
		return out.index, fmt.Errorf("propose %.64s: %w", m.GetKind(), err)
	}
	return out.index, nil
}

func (n *Node) propose(ctx context.Context, m *buspb.Mutation) (outcome, error) {
	if err := n.check(m); err != nil {
		return outcome{}, err
	}
	if r := n.earlier(m); r != nil {
		return outcome{r.index, r.no}, nil
	}
	size := min(int64(len(m.Body))+1024, n.props.max)
	if err := n.props.enough(ctx, size, n.o.ProposeWait); err != nil {
		return outcome{}, err
	}
	it, release, err := n.item(ctx, m)
	if err != nil {
		n.props.room.Release(size)
		return outcome{}, err
	}
	it.done = func() { release(); n.props.room.Release(size) }
	return n.toMaster(ctx, it)
}

func outcomeName(err error) string {
	switch {
	case err == nil:
		return "applied"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.Is(err, ErrNoMaster):
		return "no_master"
	case errors.Is(err, ErrNoRoom):
		return "no_room"
	case errors.Is(err, ErrUnsure):
		return "unsure"
	}
	return "error"
}

// check refuses what can have no place in the ledger.
func (n *Node) check(m *buspb.Mutation) error {
	if n.states[m.GetKind()] == nil {
		return fmt.Errorf("kind %.64q: %w", m.GetKind(), ErrUnknownKind)
	}
	if int64(len(m.Body)) > n.o.MaxBodyBytes {
		return fmt.Errorf("body of %d bytes, at most %d: %w", len(m.Body), n.o.MaxBodyBytes, ErrTooLarge)
	}
	if len(m.RequestId) > maxRequestID || len(m.Principal) > maxPrincipal || len(m.Org) > maxOrg {
		return fmt.Errorf("request id, principal or org: %w", ErrTooLarge)
	}
	if !utf8.ValidString(m.RequestId) || !utf8.ValidString(m.Principal) || !utf8.ValidString(m.Org) {
		return fmt.Errorf("request id, principal or org is not UTF-8: %w", ErrInvalid)
	}
	if len(m.Blob) != 0 || m.BlobBytes != 0 {
		return fmt.Errorf("blob is set: %w", ErrInvalid)
	}
	return nil
}

// Earlier tells what became of a request id that principal used within the last
// 24 h of entry time, as far as this node has applied: the index of its entry, and
// the refusal if it was refused. One that is not known may still be on its way.
func (n *Node) Earlier(principal, requestID string) (index uint64, known bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.memory.earlier(principal, requestID)
	if r == nil {
		return 0, false, nil
	}
	return r.index, true, outcome{r.index, r.no}.answer()
}

func (n *Node) earlier(m *buspb.Mutation) *request {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.memory.earlier(m.Principal, m.RequestId)
}

// item prepares m for the ledger. release gives back the hold on its blob.
func (n *Node) item(ctx context.Context, m *buspb.Mutation) (it *item, release func(), err error) {
	stored, release, err := n.blobs.store(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	return &item{stored: stored, whole: wholeOf(m, m.Body), answer: make(chan answer, 1)}, release, nil
}

// wholeOf is m as States see it.
func wholeOf(m *buspb.Mutation, body []byte) *buspb.Mutation {
	return &buspb.Mutation{Kind: m.Kind, Org: m.Org, Body: body, RequestId: m.RequestId, Principal: m.Principal}
}

// toMaster gives it to whoever leads and waits for its entry to be applied
// here.
func (n *Node) toMaster(ctx context.Context, it *item) (outcome, error) {
	patience := time.NewTimer(n.o.ProposeWait)
	defer patience.Stop()
	if err := n.props.enter(ctx, it, patience.C); err != nil {
		return outcome{}, err
	}
	var timeout <-chan time.Time // counts only while nobody leads
	for {
		leaderless, changed := n.props.leaderless()
		switch {
		case !leaderless:
			timeout = nil
		case timeout == nil:
			patience.Reset(n.o.ProposeWait)
			timeout = patience.C
		}
		select {
		case a := <-it.answer:
			return a.out, a.err
		case <-changed:
		case <-timeout:
			return outcome{}, fmt.Errorf("handed over, then nobody led: %w", ErrUnsure)
		case <-ctx.Done():
			return outcome{}, fmt.Errorf("%w: %w", ErrUnsure, ctx.Err())
		}
	}
}

// enough waits for room, no longer than a proposal may wait at all.
func (p *proposals) enough(ctx context.Context, size int64, wait time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := p.room.Acquire(limited, size)
	switch nobody, _ := p.leaderless(); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrNoRoom, ctx.Err())
	case nobody:
		return fmt.Errorf("%w: %w", ErrNoRoom, ErrNoMaster)
	}
	return ErrNoRoom
}

// enter waits for a master, then numbers it and hands it over.
func (p *proposals) enter(ctx context.Context, it *item, timeout <-chan time.Time) error {
	for {
		entered, changed := p.tryEnter(it)
		if entered {
			return nil
		}
		select {
		case <-changed:
		case <-timeout:
			it.done()
			return ErrNoMaster
		case <-ctx.Done():
			it.done()
			return fmt.Errorf("%w: %w", ErrNoMaster, ctx.Err())
		}
	}
}

func (p *proposals) tryEnter(it *item) (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lead == nil {
		return false, p.changed
	}
	p.seq++
	it.origin = &buspb.Origin{Incarnation: p.name, Stream: buspb.Origin_STREAM_PROPOSE, Seq: p.seq}
	p.waiting = append(p.waiting, it)
	p.lead.offer(it) // one that has ended meanwhile leaves it to the next
	return true, nil
}

func (p *proposals) leaderless() (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lead == nil, p.changed
}

// follow sets who leads, nil for nobody, and hands over what waits. last is
// how far this node's stream is in the ledger.
func (p *proposals) follow(l leader, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lead = l
	p.seq = max(p.seq, last)
	close(p.changed)
	p.changed = make(chan struct{})
	if l == nil {
		return
	}
	for _, it := range p.waiting {
		if it.origin.Seq > last {
			l.offer(it)
		}
	}
}

// settled answers the proposal, if it is one of ours, that e came from.
func (p *proposals) settled(e *buspb.Entry, out outcome) {
	o, seq := originOf(e)
	if o.incarnation != p.name || o.stream != buspb.Origin_STREAM_PROPOSE {
		return
	}
	if it := p.remove(seq); it != nil {
		it.done()
		it.answer <- answer{out: out}
	}
}

// passed answers the proposals that a restored state has taken already, of which
// no entry will be seen here. known tells what became of a request id.
func (p *proposals) passed(last uint64, known func(m *buspb.Mutation) *request) {
	p.mu.Lock()
	count := 0
	for count < len(p.waiting) && p.waiting[count].origin.Seq <= last {
		count++
	}
	over := slices.Clone(p.waiting[:count])
	p.waiting = slices.Delete(p.waiting, 0, count)
	p.mu.Unlock()
	for _, it := range over {
		it.done()
		if r := known(it.stored); r != nil {
			it.answer <- answer{out: outcome{r.index, r.no}}
			continue
		}
		it.answer <- answer{err: fmt.Errorf("it is in the ledger, but not what became of it: %w", ErrUnsure)}
	}
}

func (p *proposals) remove(seq uint64) *item {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, found := slices.BinarySearchFunc(p.waiting, seq, func(it *item, seq uint64) int {
		return int(int64(it.origin.Seq - seq))
	})
	if !found {
		return nil
	}
	it := p.waiting[at]
	p.waiting = slices.Delete(p.waiting, at, at+1)
	return it
}

// entryOf is it in its place, as the ledger has it and as States see it.
func (it *item) entryOf(index, epoch uint64, now int64) (payload []byte, whole *buspb.Entry, err error) {
	e := &buspb.Entry{Index: index, Epoch: epoch, Time: now, Origin: it.origin, Mutation: it.stored}
	payload, err = proto.Marshal(e)
	if err != nil {
		return nil, nil, fmt.Errorf("encode entry: %w: %w", ErrInvalid, err)
	}
	if len(payload) > maxFrame {
		return nil, nil, fmt.Errorf("entry of %d bytes: %w", len(payload), ErrTooLarge)
	}
	e.Mutation = it.whole
	return payload, e, nil
}
