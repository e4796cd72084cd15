package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// Bounds of one group commit.
const (
	batchEntries = 4096
	batchBytes   = 4 << 20
)

// reign is one epoch led by this node: a queue of mutations and the loop that
// brings them into the ledger.
type reign struct {
	n    *Node
	term Term
	w    *writer

	mu     sync.Mutex
	queue  []*item // bounded by those who offer
	closed bool
	wake   chan struct{} // one slot: a wake while one is pending says nothing new
	ended  chan struct{} // closed with the queue
}

// Lead makes this node the master for one term: it seals every older epoch,
// replays to the seals, writes the first entry of its own epoch and then
// brings proposals and facts into the ledger until ctx ends, which must be no
// later than the lease. It returns nil when told to stop; ErrDeposed when the
// term was over before a write was durable; ErrEpochOver after a failed write
// or sync; ErrDamaged when the ledger needs somebody to look. After any error
// the term should be released and campaigned for again.
//
// Whatever it started has ended when it returns.
func (n *Node) Lead(ctx context.Context, term Term) error {
	end, err := n.begin("lead")
	if err != nil {
		return err
	}
	defer end()
	work, cancel := withGrace(ctx, n.o.StopGrace)
	defer cancel()
	r, err := n.accede(ctx, work, term)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, ErrDamaged) {
			return nil
		}
		return fmt.Errorf("lead epoch %d: %w", term.Epoch(), err)
	}
	defer r.w.close(work)
	if err := r.serve(ctx, work); err != nil {
		return fmt.Errorf("lead epoch %d: %w", term.Epoch(), err)
	}
	return nil
}

// withGrace returns a context that ends some time after ctx: a commit under
// way when this node is told to stop may come to its end.
func withGrace(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		retry.Sleep(work, grace)
		cancel()
	})
	return work, func() { stop(); cancel() }
}

// accede takes over what older epochs left and opens this one.
func (n *Node) accede(ctx, work context.Context, term Term) (*reign, error) {
	begin := time.Now()
	if err := n.takeOver(ctx, term); err != nil {
		return nil, err
	}
	before := n.place()
	if before.epoch >= term.Epoch() {
		return nil, fmt.Errorf("the ledger stands in epoch %d already: %w", before.epoch, ErrDeposed)
	}
	w, err := newWriter(work, n.urgent, n.o.MaxFileBytes, term.Epoch(), before)
	if err != nil {
		return nil, err
	}
	r := &reign{n: n, term: term, w: w, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	if err := r.first(work, before.epoch); err != nil {
		w.close(work)
		return nil, err
	}
	n.log.Info("ledger takes entries", "epoch", term.Epoch(), "index", n.place().index, "took", time.Since(begin))
	return r, nil
}

// first writes the first entry of the epoch.
func (r *reign) first(ctx context.Context, sealed uint64) error {
	body, err := proto.Marshal(&buspb.EpochStart{Incarnation: r.n.o.Incarnation, SealedEpoch: sealed})
	if err != nil {
		return fmt.Errorf("encode first entry: %w", err)
	}
	return r.commit(ctx, []*item{ownItem(kindEpoch, body)})
}

// ownItem is a mutation of the ledger itself.
func ownItem(kind string, body []byte) *item {
	m := &buspb.Mutation{Kind: kind, Body: body}
	return &item{stored: m, whole: m, answer: make(chan answer, 1)}
}

// serve opens the doors of the reign and closes them again.
func (r *reign) serve(ctx, work context.Context) error {
	life, stop := context.WithCancel(work)
	defer stop()
	g, life := errgroup.WithContext(life)
	g.Go(func() error { return r.n.adopt(life, r) })
	g.Go(func() error { return r.n.shots.run(life, r.n) })
	g.Go(func() error { return r.compare(life) })
	g.Go(func() error { return r.raise(life) })
	r.n.props.follow(r, r.n.taken(origin{r.n.o.Incarnation, buspb.Origin_STREAM_PROPOSE}))
	r.n.bus.tell()
	err := r.loop(ctx, work)
	r.n.props.follow(nil, 0)
	r.shut()
	r.n.bus.tell()
	stop()
	if helper := g.Wait(); err == nil && helper != nil && !errors.Is(helper, context.Canceled) {
		err = helper
	}
	if err != nil {
		r.n.m.epochsLost.Inc()
	}
	return err
}

// loop commits batch after batch. Under load a batch is at least one window
// after the one before; alone, a mutation does not wait.
func (r *reign) loop(ctx, work context.Context) error {
	var last time.Time
	crowded := false
	for {
		if pause := r.n.o.CommitWindow - time.Since(last); crowded && pause > 0 {
			retry.Sleep(ctx, pause)
		}
		items := r.take()
		if len(items) == 0 {
			crowded = false
			select {
			case <-r.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		last, crowded = time.Now(), len(items) > 1
		if err := r.commit(work, items); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// offer queues items in their order; false when the reign is over.
func (r *reign) offer(items ...*item) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.queue = append(r.queue, items...)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

// take removes the next batch from the queue.
func (r *reign) take() []*item {
	r.mu.Lock()
	defer r.mu.Unlock()
	count, size := 0, 0
	for count < min(len(r.queue), batchEntries) && size < batchBytes {
		size += len(r.queue[count].stored.Body) + 256
		count++
	}
	items := r.queue[:count:count]
	r.queue = r.queue[count:]
	if len(r.queue) == 0 {
		r.queue = nil
	}
	return items
}

// shut ends the queue. Own proposals wait for the next master; facts are read
// again by whoever offered them.
func (r *reign) shut() {
	r.mu.Lock()
	left := r.queue
	r.queue, r.closed = nil, true
	r.mu.Unlock()
	close(r.ended)
	for _, it := range left {
		it.fail(ErrNoMaster)
	}
}

// fail answers an item of which nothing better is known, unless it has its
// answer or is a numbered proposal: that one stays with its node until its
// entry is applied.
func (it *item) fail(err error) {
	if it.origin.GetStream() == buspb.Origin_STREAM_PROPOSE {
		return
	}
	select {
	case it.answer <- answer{err: err}:
	default:
	}
}
