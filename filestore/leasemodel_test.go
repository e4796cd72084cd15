package filestore_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

// mishap is something that befalls one candidate at some time.
type mishap struct {
	who   int
	at    time.Duration
	fault filestoretest.Fault
}

func drawMishap(t *rapid.T) mishap {
	ops := []filestoretest.Op{"", filestoretest.Write, filestoretest.Sync, filestoretest.Link, filestoretest.Open, filestoretest.ReadDir, filestoretest.SyncDir}
	m := mishap{
		who: rapid.IntRange(0, 2).Draw(t, "who"),
		at:  time.Duration(rapid.IntRange(0, 50_000).Draw(t, "at ms")) * time.Millisecond,
		fault: filestoretest.Fault{
			Op:    rapid.SampledFrom(ops).Draw(t, "op"),
			Times: rapid.IntRange(1, 6).Draw(t, "times"),
			After: rapid.Bool().Draw(t, "after"),
			Delay: time.Duration(rapid.IntRange(0, 9_000).Draw(t, "delay ms")) * time.Millisecond,
		},
	}
	if rapid.IntRange(0, 2).Draw(t, "fails") == 0 {
		m.fault.Err = rapid.SampledFrom([]error{syscall.EIO, syscall.ESTALE, syscall.ENOSPC}).Draw(t, "err")
	}
	return m
}

// contest is three candidates of one store, and who of them believes to lead.
type contest struct {
	mu    sync.Mutex
	terms []*filestore.Term
	seen  map[uint64]int // epoch: candidate
	wrong []string
}

// lead is what a node does for ever: campaign, keep, follow again. Every third
// term ends cleanly.
func (c *contest) lead(ctx context.Context, who int, s *filestore.Store) {
	for ctx.Err() == nil {
		term, err := s.Candidate(filestore.CandidateOptions{}).Campaign(ctx)
		if err != nil {
			time.Sleep(time.Second) // unfit for the moment
			continue
		}
		c.note(who, term)
		held, cancel := context.WithTimeout(ctx, 10*time.Second)
		if err := term.Keep(held); err == nil && term.Epoch()%3 == 0 {
			_ = term.Release(held) // its failure only makes others wait
		}
		cancel()
	}
}

func (c *contest) note(who int, term *filestore.Term) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, taken := c.seen[term.Epoch()]; taken {
		c.wrong = append(c.wrong, fmt.Sprintf("epoch %d won by %d and %d", term.Epoch(), other, who))
	}
	c.seen[term.Epoch()] = who
	c.terms = append(c.terms, term)
}

// inspect counts the valid terms of this moment.
func (c *contest) inspect(at time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	valid := 0
	for _, term := range c.terms {
		if term.Valid() {
			valid++
		}
	}
	if valid > 1 {
		c.wrong = append(c.wrong, fmt.Sprintf("%d masters at %v", valid, at))
	}
}

// play runs a contest for a minute of bubble time.
func play(t *testing.T, mishaps []mishap) *contest {
	disk := filestoretest.NewPowerCut(t, 1) // its syncs are quick; the power stays on
	c := &contest{seen: map[uint64]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var faults []*filestoretest.Faulty
	for who := range 3 {
		faulty := filestoretest.NewFaulty(disk)
		faults = append(faults, faulty)
		s := openOn(t, faulty)
		all.Go(func() { c.lead(ctx, who, s) })
	}
	for _, m := range mishaps {
		all.Go(func() {
			time.Sleep(m.at)
			faults[m.who].Inject(m.fault)
		})
	}
	const step = 100 * time.Millisecond
	for at := time.Duration(0); at < 60*time.Second; at += step {
		time.Sleep(step)
		c.inspect(at)
	}
	cancel()
	for _, f := range faults {
		f.Clear()
	}
	all.Wait()
	return c
}

func TestNeverTwoMastersWhateverHappens(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		check(t, f.Value.Set("25")) // more by hand
		defer func() { check(t, f.Value.Set(f.DefValue)) }()
	}
	rapid.Check(t, func(rt *rapid.T) {
		mishaps := rapid.SliceOfN(rapid.Custom(drawMishap), 0, 12).Draw(rt, "mishaps")
		var c *contest
		synctest.Test(t, func(t *testing.T) { c = play(t, mishaps) })
		if len(c.wrong) > 0 {
			rt.Fatal(c.wrong)
		}
		if len(c.seen) == 0 {
			rt.Fatal("nobody ever led")
		}
	})
}
