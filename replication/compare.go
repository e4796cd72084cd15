package replication

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// The chain and the digest show that nodes took the same entries and that each had
// the same outcome. That their states became the same as well is shown by an entry
// of its own, ledger.compare: whoever applies it takes views of all states there,
// at one index on all nodes, and hashes them beside. The master's hashes go with
// its echoes; a follower that has others loads its state again.

// compareShare bounds what comparing may cost: it rests so many times as long as
// the last comparison took.
const compareShare = 100

// comparisons is what a node knows of its own states' hashes.
type comparisons struct {
	jobs chan *compareJob // one slot: the newest; one before that nobody began is worth less

	mu     sync.Mutex
	life   uint64           // raised when the state is thrown away
	done   *buspb.StateSums // the newest; nil: none
	took   time.Duration
	judged uint64 // index of the newest that was held against the master's
	healed bool   // the state was loaded again, and no comparison was good since
}

type compareJob struct {
	life  uint64
	index uint64
	views *views
}

func newComparisons() *comparisons { return &comparisons{jobs: make(chan *compareJob, 1)} }

// take is called where the entry of a comparison is applied.
func (c *comparisons) take(n *Node, index uint64) {
	if n.bus == nil {
		return // nobody to compare with, and nobody who would hash
	}
	c.mu.Lock()
	job := &compareJob{life: c.life, index: index}
	c.mu.Unlock()
	job.views = n.views()
	select {
	case <-c.jobs:
	default:
	}
	c.jobs <- job
}

// void forgets all: the state is another one now.
func (c *comparisons) void() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life++
	c.done = nil
}

// run hashes until ctx ends.
func (c *comparisons) run(ctx context.Context, n *Node) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case job := <-c.jobs:
			begin := time.Now()
			sums, err := job.sums(ctx, n.bus.status().GetVersion())
			if err != nil {
				if ctx.Err() == nil {
					n.log.Error("state cannot be compared", "index", job.index, "err", err)
				}
				continue
			}
			c.finish(job, sums, time.Since(begin))
			n.m.compared.Set(float64(job.index))
			n.m.compareTook.Observe(time.Since(begin).Seconds())
		}
	}
}

func (j *compareJob) sums(ctx context.Context, version string) (*buspb.StateSums, error) {
	s := &buspb.StateSums{Index: j.index, Version: version, Kinds: map[string][]byte{}}
	for kind, view := range j.views.sections {
		h := sha256.New()
		if _, err := view.WriteTo(&interruptible{ctx, h}); err != nil {
			return nil, fmt.Errorf("hash %s: %w", kind, err)
		}
		s.Kinds[kind] = h.Sum(nil)
	}
	return s, nil
}

// interruptible writes until a context ends.
type interruptible struct {
	ctx context.Context
	io.Writer
}

func (w *interruptible) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

func (c *comparisons) finish(job *compareJob, sums *buspb.StateSums, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = took
	if job.life == c.life {
		c.done = sums
	}
}

func (c *comparisons) newest() *buspb.StateSums {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// judge holds this node's states against the master's, once for each comparison.
// It names the kinds that differ, and tells whether loading again may help: that
// was tried already if no comparison was good since.
func (c *comparisons) judge(master *buspb.StateSums) (differ []string, heal bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine := c.done
	if mine == nil || mine.Index != master.GetIndex() || mine.Index == c.judged || mine.Version != master.GetVersion() {
		return nil, false
	}
	c.judged = mine.Index
	for kind, sum := range mine.Kinds {
		if other, known := master.GetKinds()[kind]; known && string(other) != string(sum) {
			differ = append(differ, kind)
		}
	}
	slices.Sort(differ)
	heal = len(differ) > 0 && !c.healed
	c.healed = len(differ) > 0
	return differ, heal
}

// compare asks for comparisons as long as this node leads and is followed. A
// ledger to which nothing was added is not compared again.
func (r *reign) compare(ctx context.Context) error {
	last := r.n.place().index
	for {
		r.n.compared.mu.Lock()
		took := r.n.compared.took
		r.n.compared.mu.Unlock()
		if !retry.Sleep(ctx, max(r.n.o.CompareEvery, compareShare*took)) {
			return nil
		}
		if r.n.place().index == last || !r.n.bus.followed() {
			continue
		}
		it := ownItem(kindCompare, nil)
		r.offer(it)
		select {
		case a := <-it.answer:
			last = a.out.index
		case <-ctx.Done():
			return nil
		}
	}
}

// followed reports whether anybody follows this node.
func (b *bus) followed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.acks) > 0
}
