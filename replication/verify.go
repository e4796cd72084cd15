package replication

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// Report is what Verify found to be whole.
type Report struct {
	Epochs     int      `json:"epochs"`      // with a ledger
	Seals      int      `json:"seals"`       // held against the chain
	FirstIndex uint64   `json:"first_index"` // 0: the ledger is empty
	LastIndex  uint64   `json:"last_index"`
	Chain      [32]byte `json:"-"`            // after LastIndex
	Blobs      int      `json:"blobs"`        // bodies read and hashed
	Snapshots  int      `json:"snapshots"`    // read, hashed and held against the chain
	TornBytes  int64    `json:"torn_bytes"`   // after the valid end of the newest epoch
	BeyondSeal int64    `json:"beyond_bytes"` // after the sealed ends of older epochs
}

// Verify walks the whole ledger that is left: each record's check and
// predecessor, files and their successors, seals, bodies in blobs, and
// snapshots against the chain. It returns the first break as ErrDamaged,
// ErrGap or ErrDiverged, with what was whole before it. It changes nothing and
// may run beside a live pack.
func Verify(ctx context.Context, store *filestore.Store) (Report, error) {
	for again := 0; ; again++ {
		before, _, _ := oldest(ctx, store) // what is wrong with it, the walk meets too
		v := &verifier{store: store, blobs: newBlobs(Options{Store: store, MaxBodyBytes: maxFileBytes})}
		err := v.snapshots(ctx)
		if err == nil {
			_, err = eachEntry(ctx, store, v.epochEnds, v.entry)
		}
		if err == nil || again == verifyAgain || !prunedSince(ctx, store, before) {
			return v.report, err
		}
	}
}

// verifyAgain is how often a walk is begun anew that a live pack spoilt.
const verifyAgain = 20

// prunedSince reports whether a live pack has removed the beginning of the ledger
// since it was looked for: then what a walk from there missed says nothing.
func prunedSince(ctx context.Context, store *filestore.Store, before place) bool {
	now, _, err := oldest(ctx, store)
	return err == nil && now.index > before.index || errors.Is(err, fs.ErrNotExist)
}

type verifier struct {
	store  *filestore.Store
	blobs  *blobs
	report Report
	kept   map[uint64]*manifest
}

// snapshots verifies those published; their chains are compared on the walk.
func (v *verifier) snapshots(ctx context.Context) error {
	names, _, err := listSnapshots(ctx, v.store)
	if err != nil {
		return err
	}
	v.kept = map[uint64]*manifest{}
	for _, name := range names {
		m, err := verifySnapshot(ctx, v.store, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned meanwhile
		}
		if err != nil {
			return err
		}
		v.kept[m.Index] = m
		v.report.Snapshots++
	}
	return nil
}

func (v *verifier) entry(ctx context.Context, e *buspb.Entry, at place) error {
	if v.report.FirstIndex == 0 {
		v.report.FirstIndex = e.Index
	}
	v.report.LastIndex, v.report.Chain = at.index, at.chain
	if m := v.kept[at.index]; m != nil && (chainHash(m.Chain) != at.chain || m.Epoch != at.epoch) {
		return fmt.Errorf("snapshot %s has another chain than the ledger: %w", snapshotName(m.Index, m.Epoch), ErrDamaged)
	}
	if len(e.Mutation.Blob) == 0 {
		return nil
	}
	if _, err := v.blobs.whole(ctx, e.Mutation); err != nil {
		return fmt.Errorf("entry %d: %w", e.Index, err)
	}
	v.report.Blobs++
	return nil
}

func (v *verifier) epochEnds(end epochEnd, seal *filestore.LedgerSeal) {
	if end.file != "" {
		v.report.Epochs++
	}
	if seal == nil {
		v.report.TornBytes += end.rest
		return
	}
	v.report.Seals++
	v.report.BeyondSeal += end.rest
}

// eachEntry visits what is left of the ledger, from its first file on, up to
// the seals and to the valid end of the newest epoch. ended, unless nil, is
// told of each epoch.
func eachEntry(
	ctx context.Context, store *filestore.Store, ended func(epochEnd, *filestore.LedgerSeal), fn func(context.Context, *buspb.Entry, place) error,
) (place, error) {
	from, epochs, err := oldest(ctx, store)
	if err != nil || len(epochs) == 0 {
		return from, err
	}
	w := &walker{store: store, wait: 5 * time.Second}
	for epoch := epochs[0]; epoch <= epochs[len(epochs)-1]; epoch++ {
		seal, err := readSeal(ctx, store, epoch)
		if err != nil {
			return from, err
		}
		limit := uint64(toTheEnd)
		if seal != nil {
			limit = seal.LastIndex
		} else if epoch != epochs[len(epochs)-1] {
			return from, fmt.Errorf("epoch %d has no seal, but epoch %d has a ledger: %w", epoch, epochs[len(epochs)-1], ErrDamaged)
		}
		end, err := w.epoch(ctx, epoch, from, limit, func(e *buspb.Entry, _ []byte, at place) error { return fn(ctx, e, at) })
		if err == nil && seal != nil {
			err = checkSeal(end, seal, from)
		}
		if err != nil {
			return end.place, fmt.Errorf("epoch %d after entry %d: %w", epoch, end.index, err)
		}
		if ended != nil {
			ended(end, seal)
		}
		from = end.place
	}
	return from, nil
}

// oldest finds the place before the first entry that is left.
func oldest(ctx context.Context, store *filestore.Store) (place, []uint64, error) {
	epochs, err := listEpochs(ctx, store)
	if err != nil {
		return place{}, nil, fmt.Errorf("list ledger: %w", err)
	}
	for i, epoch := range epochs {
		firsts, err := listNumbers(ctx, store, epochDir(epoch))
		if err != nil {
			return place{}, nil, fmt.Errorf("list ledger: %w", err)
		}
		if len(firsts) == 0 {
			continue
		}
		name := ledgerFile(epoch, firsts[0])
		data, err := store.ReadFile(ctx, name, maxFileBytes)
		if err != nil {
			return place{}, nil, fmt.Errorf("read ledger: %w", err)
		}
		h, err := parseHeader(data)
		if errors.Is(err, errTorn) && len(firsts) == 1 && (&fileScan{}).checkTail(data) == nil {
			continue // its writer died while it made this file
		}
		if err != nil {
			return place{}, nil, fmt.Errorf("read %s: %w", path.Base(name), damaged(err))
		}
		return place{index: h.first - 1, chain: h.chain}, epochs[i:], nil
	}
	return place{}, nil, nil
}
