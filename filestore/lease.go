package filestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"time"

	"raptorpack/ids"
	"raptorpack/internal/retry"
)

const (
	leaseDir    = "lease"
	epochPrefix = "epoch-"
)

// CandidateOptions sets up a node that may become master.
type CandidateOptions struct {
	Node   ids.Node      // for people
	TTL    time.Duration // how long one renewal lasts; 0: 4 s
	Margin time.Duration // what is waited beyond it; 0: 1 s
}

// Candidate wants to become master. For one goroutine.
type Candidate struct {
	store  *Store
	o      CandidateOptions
	probed bool
}

// Candidate returns one that has done nothing yet.
func (s *Store) Candidate(o CandidateOptions) *Candidate {
	if o.TTL <= 0 {
		o.TTL = 4 * time.Second
	}
	if o.Margin <= 0 {
		o.Margin = time.Second
	}
	return &Candidate{store: s.Urgent(), o: o}
}

// Campaign blocks until this node holds a new epoch. It returns ErrUnfit if
// the mount cannot carry a lease, and otherwise only when ctx ends: a store
// that is slow or does not answer is probed and asked again.
func (c *Candidate) Campaign(ctx context.Context) (*Term, error) {
	watch := c.store.observer(c.o.TTL, c.o.Margin)
	ailing := false
	for {
		term, err := c.attempt(ctx, watch)
		switch {
		case ctx.Err() != nil && term == nil:
			return nil, fmt.Errorf("campaign: %w", context.Cause(ctx))
		case term != nil:
			return term, nil
		case errors.Is(err, ErrUnfit) && !mayPass(err):
			return nil, fmt.Errorf("campaign: %w", err)
		case err != nil && !ailing:
			c.store.log.WarnContext(ctx, "campaign does not get on", "err", err)
		case err == nil && ailing:
			c.store.log.InfoContext(ctx, "campaign gets on again")
		}
		ailing = err != nil
		if !retry.Sleep(ctx, pollEvery(c.o.TTL)) {
			return nil, fmt.Errorf("campaign: %w", context.Cause(ctx))
		}
	}
}

// mayPass reports reasons of an unfit mount that another probe may not meet.
func mayPass(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrFull) || passing(err)
}

// attempt claims the next epoch if the newest one is over; otherwise it has
// taken note of its heartbeat and returns nothing.
func (c *Candidate) attempt(ctx context.Context, watch *observer) (*Term, error) {
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	newest, err := c.store.NewestEpoch(ctx)
	if err != nil {
		return nil, err
	}
	if newest > 0 {
		seen, err := watch.look(ctx, epochPath(newest), 0) // terms have one life
		if err != nil || !seen.verdict.dead() {
			return nil, err
		}
	}
	held, err := c.store.take(ctx, "mastership", epochPath(newest+1), c.o.Node.String(), c.o.TTL)
	if errors.Is(err, ErrExists) {
		return nil, nil // somebody was quicker: watch that one
	}
	if err != nil {
		return nil, fmt.Errorf("claim epoch %d: %w", newest+1, err)
	}
	term := &Term{store: c.store, epoch: newest + 1, claim: held}
	if !term.Valid() {
		return nil, errors.Join(held.lost(nil), term.Release(ctx))
	}
	return term, nil
}

func (c *Candidate) prepare(ctx context.Context) error {
	if c.probed {
		return nil
	}
	if err := c.store.ProbeMount(ctx); err != nil {
		return err
	}
	if err := c.store.MkdirAll(ctx, leaseDir); err != nil {
		return err
	}
	c.probed = true
	return nil
}

// NewestEpoch returns the highest epoch ever claimed, by a fresh listing, and 0
// if there was none.
func (s *Store) NewestEpoch(ctx context.Context) (uint64, error) {
	names, err := s.Urgent().ReadDir(ctx, leaseDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return highest(names, epochPrefix, ""), err
}

// EpochHeartbeat returns the claim record of an epoch that a listing showed.
func (s *Store) EpochHeartbeat(ctx context.Context, epoch uint64) (Heartbeat, error) {
	record, err := s.Urgent().ReadFile(ctx, epochPath(epoch), heartbeatBytes)
	if err != nil {
		return Heartbeat{}, err
	}
	return DecodeHeartbeat(record)
}

func epochPath(epoch uint64) string {
	return path.Join(leaseDir, epochPrefix+strconv.FormatUint(epoch, 10))
}

// Term is one epoch of mastership, held by this process. Safe for concurrent
// use.
type Term struct {
	store *Store
	epoch uint64
	claim *claim
}

// Epoch returns the number of the term: 1, 2, ...
func (t *Term) Epoch() uint64 { return t.epoch }

// Valid reports whether the lease lasts at this moment: what was synced before
// may be applied, streamed and acknowledged now. Once false, for ever.
func (t *Term) Valid() bool { return t.claim.valid() }

// Keep renews the lease until ctx ends (nil) or it is lost (ErrLeaseLost): no
// renewal completed in time, or a higher epoch was claimed.
func (t *Term) Keep(ctx context.Context) error { return t.claim.keep(ctx, t.superseded) }

// superseded looks for a higher epoch. Nobody claims one while our lease lasts
// by a clock that runs; that of a paused virtual machine may not.
func (t *Term) superseded(ctx context.Context) error {
	newest, err := t.store.NewestEpoch(ctx)
	if err == nil && newest > t.epoch {
		return fmt.Errorf("epoch %d was claimed: %w", newest, ErrLeaseLost)
	}
	return err
}

// Release gives the lease up cleanly, after Keep has returned and everything
// that relied on it has stopped: the next master need not wait.
func (t *Term) Release(ctx context.Context) error { return t.claim.release(ctx) }

// SealLedger ends the ledger of an older epoch and returns the seal that
// stands: the first writer wins, so it need not be the one proposed here.
func (t *Term) SealLedger(ctx context.Context, epoch uint64, length int64, lastIndex uint64, chain [32]byte) (*LedgerSeal, error) {
	if epoch >= t.epoch || length < 0 {
		return nil, fmt.Errorf("seal epoch %d at %d in epoch %d: %w", epoch, length, t.epoch, fs.ErrInvalid)
	}
	if !t.Valid() {
		return nil, fmt.Errorf("seal epoch %d: %w", epoch, ErrLeaseLost)
	}
	data, err := json.Marshal(LedgerSeal{Epoch: epoch, By: t.epoch, Length: length, LastIndex: lastIndex, Chain: chain})
	if err != nil {
		return nil, fmt.Errorf("seal epoch %d: %w", epoch, err)
	}
	err = t.store.PublishFile(ctx, path.Join(leaseDir, ledgerSealName(epoch)), append(data, '\n'))
	if err != nil && !errors.Is(err, ErrExists) {
		return nil, fmt.Errorf("seal epoch %d: %w", epoch, err)
	}
	return t.store.LedgerSeal(ctx, epoch)
}
