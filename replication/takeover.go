package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"raptorpack/filestore"
	"raptorpack/internal/seeded"
	"raptorpack/proto/buspb"
)

// takeOver brings this node to the end of every epoch before term's, and makes
// that end final. A state that stands on entries which are not in the ledger, or
// not any more, is thrown away and loaded again, once.
func (n *Node) takeOver(ctx context.Context, term Term) error {
	err := n.sealAndReplay(ctx, term)
	if err == nil || !errors.Is(err, ErrDiverged) && !n.overtaken(ctx, err) {
		return err
	}
	n.m.reloads.Inc()
	n.log.Error("state does not lead on to the ledger, loading again", "epoch", term.Epoch(), "index", n.place().index, "err", err)
	if err := n.load(ctx); err != nil {
		return err
	}
	return n.sealAndReplay(ctx, term)
}

// overtaken reports whether err may mean that snapshots have replaced the entries
// that this node would need.
func (n *Node) overtaken(ctx context.Context, err error) bool {
	if !errors.Is(err, ErrGap) && !errors.Is(err, ErrDamaged) {
		return false
	}
	published, _, err := listSnapshots(ctx, n.urgent)
	if err != nil || len(published) == 0 {
		return false
	}
	newest, _, _ := parseSnapshotName(published[0])
	return newest > n.place().index
}

func (n *Node) sealAndReplay(ctx context.Context, term Term) error {
	for epoch := max(n.place().epoch, 1); epoch < term.Epoch(); epoch++ {
		seal, err := n.sealOf(ctx, epoch)
		if err == nil && seal == nil {
			seal, err = n.seal(ctx, term, epoch)
		}
		if err != nil {
			return err
		}
		if err := n.replayTo(ctx, epoch, seal); err != nil {
			return err
		}
	}
	return nil
}

// sealOf returns the seal of an epoch, nil while there is none.
func (n *Node) sealOf(ctx context.Context, epoch uint64) (*filestore.LedgerSeal, error) {
	return readSeal(ctx, n.urgent, epoch)
}

func readSeal(ctx context.Context, s *filestore.Store, epoch uint64) (*filestore.LedgerSeal, error) {
	seal, err := s.LedgerSeal(ctx, epoch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return seal, err
}

// seal finds the valid end of an older epoch, makes what lies before it
// durable, and publishes it. The files may have been written and never synced
// by a process that is gone: a seal must not promise bytes that a power cut
// can still take.
func (n *Node) seal(ctx context.Context, term Term, epoch uint64) (*filestore.LedgerSeal, error) {
	if err := lastWritten(ctx, n.urgent, epoch); err != nil {
		return nil, fmt.Errorf("seal epoch %d: %w", epoch, err)
	}
	end, err := n.endOf(ctx, epoch)
	if err != nil {
		return nil, fmt.Errorf("seal epoch %d: %w", epoch, err)
	}
	if end.file != "" {
		if err := n.harden(ctx, end.file); err != nil {
			return nil, fmt.Errorf("seal epoch %d: %w", epoch, err)
		}
		again, err := n.endOf(ctx, epoch)
		if err != nil {
			return nil, fmt.Errorf("seal epoch %d: %w", epoch, err)
		}
		if again.index < end.index { // what came since, from a writer that lives yet, is not synced
			end = again
		}
	}
	if end.rest > 0 {
		n.m.tornBytes.Add(float64(end.rest))
		n.log.Warn("ledger has a torn tail", "epoch", epoch, "index", end.index, "file", end.file, "bytes", end.rest)
	}
	seal, err := term.SealLedger(ctx, epoch, end.length, end.index, end.chain)
	if err != nil {
		return nil, fmt.Errorf("seal epoch %d: %w", epoch, err)
	}
	n.log.Info("ledger of epoch is sealed", "epoch", epoch, "index", seal.LastIndex, "by", seal.By)
	return seal, nil
}

// lastWritten makes sure that an epoch without a seal is the last that has a
// ledger: nobody begins one before all older epochs are sealed.
func lastWritten(ctx context.Context, s *filestore.Store, epoch uint64) error {
	epochs, err := listEpochs(ctx, s)
	if err != nil {
		return err
	}
	if len(epochs) > 0 && epochs[len(epochs)-1] > epoch {
		return fmt.Errorf("epoch %d has no seal, but epoch %d has a ledger: %w", epoch, epochs[len(epochs)-1], ErrDamaged)
	}
	return nil
}

func (n *Node) walker() *walker {
	return &walker{store: n.urgent, wait: n.o.SuccessorWait}
}

// endOf walks an epoch from this node's position and applies nothing.
func (n *Node) endOf(ctx context.Context, epoch uint64) (epochEnd, error) {
	return n.walker().epoch(ctx, epoch, n.place(), toTheEnd, func(*buspb.Entry, []byte, place) error { return nil })
}

// harden syncs a ledger file and the names that lead to it. Files before it
// were synced before they named their successors.
func (n *Node) harden(ctx context.Context, name string) error {
	file, err := n.urgent.OpenWrite(ctx, name)
	if err != nil {
		return err
	}
	defer discard(ctx, file)
	if err := file.Sync(ctx); err != nil {
		return err
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if err := n.urgent.SyncDir(ctx, dir); err != nil {
			return err
		}
	}
	return n.urgent.SyncDir(ctx, ".")
}

// replayTo applies the entries of an epoch up to its seal.
func (n *Node) replayTo(ctx context.Context, epoch uint64, seal *filestore.LedgerSeal) error {
	if seeded.Out("seal") {
		_, err := n.replay(ctx, epoch, toTheEnd)
		return err
	}
	from := n.place()
	if from.index > seal.LastIndex {
		return fmt.Errorf("replay epoch %d: this node applied entry %d, its seal says %d: %w", epoch, from.index, seal.LastIndex, ErrDiverged)
	}
	end, err := n.replay(ctx, epoch, seal.LastIndex)
	if err != nil {
		return err
	}
	if err := checkSeal(end, seal, from); err != nil {
		return fmt.Errorf("replay epoch %d: %w", epoch, err)
	}
	if end.rest > 0 {
		n.m.beyondSeal.Set(float64(end.rest))
	}
	return nil
}

// checkSeal holds the end of a walk against the seal of its epoch.
func checkSeal(end epochEnd, seal *filestore.LedgerSeal, from place) error {
	if end.index == seal.LastIndex && end.chain == seal.Chain {
		return nil
	}
	if end.index == from.index && from.index == seal.LastIndex {
		return fmt.Errorf("chain after entry %d is not the seal's: %w", end.index, ErrDiverged)
	}
	return fmt.Errorf("ledger ends at entry %d, its seal says %d (chain equal: %t): %w",
		end.index, seal.LastIndex, end.chain == seal.Chain, ErrDamaged)
}

// replay applies the entries of an epoch after this node's position, up to the
// entry limit.
func (n *Node) replay(ctx context.Context, epoch, limit uint64) (epochEnd, error) {
	end, err := n.walker().epoch(ctx, epoch, n.place(), limit, func(e *buspb.Entry, payload []byte, at place) error {
		return n.take(ctx, e, bytes.Clone(payload), at)
	})
	n.announce()
	if err != nil {
		return end, fmt.Errorf("replay epoch %d: %w", epoch, err)
	}
	return end, nil
}

// take applies an entry that this node did not order itself.
func (n *Node) take(ctx context.Context, e *buspb.Entry, payload []byte, at place) error {
	stored := e.Mutation
	whole, err := n.blobs.whole(ctx, stored)
	if err != nil {
		return fmt.Errorf("entry %d: %w", e.Index, err)
	}
	e.Mutation = whole
	if _, err := n.apply(e, payload, at); err != nil {
		return err
	}
	n.shots.mention(stored, at.index)
	n.shots.count(1, recordHead+len(payload))
	return ctx.Err()
}
