package replication

import (
	"context"
	"fmt"
	"time"

	"raptorpack/internal/seeded"
	"raptorpack/proto/buspb"
)

// placed is an item with its place in the ledger.
type placed struct {
	item    *item
	payload []byte
	entry   *buspb.Entry // as States see it
	at      place
}

// commit brings items into the ledger: append, sync, then ask whether the term
// still holds, and only then apply and answer. Any error ends the epoch.
func (r *reign) commit(ctx context.Context, items []*item) error {
	begin := time.Now()
	before := r.n.place()
	if err := r.w.rotate(ctx, before.index+1); err != nil {
		return r.over(items, err)
	}
	batch, buf, err := r.stage(items, before)
	if err != nil {
		return r.unsure(items, err)
	}
	if len(batch) == 0 {
		return nil
	}
	if err := r.w.commit(ctx, buf); err != nil {
		return r.over(items, err)
	}
	if !r.term.Valid() {
		return r.unsure(items, fmt.Errorf("entries %d to %d were durable too late: %w", before.index+1, batch[len(batch)-1].at.index, ErrDeposed))
	}
	r.n.m.commit.Observe(time.Since(begin).Seconds())
	r.n.m.ledgerBytes.Add(float64(len(buf)))
	r.n.shots.count(len(batch), len(buf))
	if err := r.applyAll(batch); err != nil {
		return r.unsure(items, err)
	}
	return nil
}

// over ends the epoch after a failed write or sync.
func (r *reign) over(items []*item, cause error) error {
	r.n.m.syncFailures.Inc()
	return r.unsure(items, fmt.Errorf("%w: %w", ErrEpochOver, cause))
}

// unsure tells those who offered facts to look again later; facts that did get
// in are then known by their numbers.
func (r *reign) unsure(items []*item, err error) error {
	for _, it := range items {
		it.fail(fmt.Errorf("%w: %w", ErrUnsure, err))
	}
	return err
}

// stage gives items their places and frames them. Items that are in the ledger
// already, or not next in their stream, are answered and left out.
func (r *reign) stage(items []*item, before place) ([]placed, []byte, error) {
	var buf []byte
	batch := make([]placed, 0, len(items))
	taken := map[origin]uint64{}
	at := before
	for _, it := range items {
		if !r.admit(it, taken) {
			continue
		}
		now := max(at.time+1, time.Now().UnixMicro())
		payload, entry, err := it.entryOf(at.index+1, r.term.Epoch(), now)
		if err != nil {
			return nil, nil, fmt.Errorf("entry %d: %w", at.index+1, err)
		}
		buf = r.w.stage(buf, payload)
		at = place{epoch: entry.Epoch, index: entry.Index, time: now, chain: r.w.chain}
		batch = append(batch, placed{it, payload, entry, at})
	}
	return batch, buf, nil
}

// admit takes only what is next in its stream. taken holds how far this batch
// brings each stream.
func (r *reign) admit(it *item, taken map[origin]uint64) bool {
	if it.origin == nil {
		return true
	}
	o, seq := origin{it.origin.Incarnation, it.origin.Stream}, it.origin.Seq
	last, seen := taken[o]
	if !seen {
		last = r.n.taken(o)
	}
	switch {
	case seq == last+1, seeded.Out("duplicates"):
		taken[o] = seq
		return true
	case seq <= last:
		r.n.m.repeats.Inc()
		if o.stream != buspb.Origin_STREAM_PROPOSE {
			it.answer <- answer{}
		}
	default:
		r.n.m.gaps.Inc()
		it.fail(fmt.Errorf("fact %d of %s after %d: %w", seq, o.incarnation, last, ErrGap))
	}
	return false
}

// taken returns how far a stream is in the applied ledger.
func (n *Node) taken(o origin) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.memory.origins[o]
}

// applyAll applies a durable batch and answers those who offered it.
func (r *reign) applyAll(batch []placed) error {
	outs := make([]outcome, len(batch))
	for i, p := range batch {
		out, err := r.n.apply(p.entry, p.payload, p.at)
		if err != nil {
			return err
		}
		outs[i] = out
		r.n.shots.mention(p.item.stored, p.at.index)
	}
	r.n.announce()
	for i, p := range batch {
		if p.item.origin.GetStream() != buspb.Origin_STREAM_PROPOSE {
			p.item.answer <- answer{out: outs[i]}
		}
	}
	r.n.shots.consider(r.n)
	return nil
}
