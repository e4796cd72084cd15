package node

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/master"
	"raptorpack/minion"
)

// campaigner is a candidate that never wins.
type campaigner struct {
	under atomic.Int32 // campaigns under way
	begun atomic.Int32
	err   error // what a campaign ends with at once, if anything
}

func (c *campaigner) Campaign(ctx context.Context) (*filestore.Term, error) {
	c.begun.Add(1)
	if c.err != nil {
		return nil, c.err
	}
	c.under.Add(1)
	defer c.under.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// follower follows nobody.
type follower struct{ under atomic.Int32 }

func (f *follower) Follow(ctx context.Context) error {
	f.under.Add(1)
	defer f.under.Add(-1)
	<-ctx.Done()
	return nil
}

func (f *follower) Age() (time.Duration, bool) { return 0, true }

func TestNodeIsACandidateOnlyWhileItsLeaseHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &campaigner{}
		f := &follower{}
		n := &Node{lease: newLease(), master: master.New(master.Options{Candidate: c}), minion: minion.New(minion.Options{Ledger: f})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1) // one answer
		go func() { done <- n.lead(ctx) }()
		for life := range int32(3) {
			synctest.Wait()
			if c.under.Load() != 1 || c.begun.Load() != life+1 {
				t.Errorf("life %d: %d campaigns under way, %d begun", life, c.under.Load(), c.begun.Load())
			}
			n.lease.set(false)
			synctest.Wait()
			if c.under.Load() != 0 || len(done) != 0 {
				t.Errorf("life %d: %d campaigns without a lease, ended: %d", life, c.under.Load(), len(done))
			}
			if f.under.Load() != 1 {
				t.Errorf("life %d: it does not follow meanwhile", life)
			}
			n.lease.set(true)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("told to stop, it said %v", err)
		}
	})
}

func TestCandidateThatCannotLeadEndsTheNode(t *testing.T) {
	n := &Node{lease: newLease(), master: master.New(master.Options{Candidate: &campaigner{err: filestore.ErrUnfit}})}
	if err := n.lead(t.Context()); !errors.Is(err, filestore.ErrUnfit) {
		t.Errorf("got %v", err)
	}
}
