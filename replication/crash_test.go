package replication_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"raptorpack/filestore/filestoretest"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

// story is a node that has a hard life, and what it promised meanwhile.
type story struct {
	t     *testing.T
	rt    *rapid.T
	disk  *filestoretest.PowerCut
	rig   *rig
	epoch uint64
	runs  int
	words int

	mu     sync.Mutex
	told   map[string]bool // acknowledged: exactly once, for ever
	asked  map[string]bool // anything asked for: at most once
	resend []string        // request ids whose answer was lost
}

func (s *story) word() string { s.words++; return fmt.Sprintf("word-%d", s.words) }

// begin starts the next process.
func (s *story) begin() {
	s.runs++
	s.rig = newRig(s.t, s.disk, fmt.Sprintf("a-%d", s.runs), func(o *replication.Options) {
		o.TailEvery, o.SnapshotEntries, o.MaxFileBytes = 2*time.Millisecond, 15, 1500
		o.StopGrace, o.MaxPendingBytes = 50*time.Millisecond, 4000
	})
	if err := s.rig.node.Load(s.t.Context()); err != nil {
		s.rt.Fatalf("load: %v", err)
	}
	s.rig.run()
	s.lead()
}

func (s *story) lead() {
	s.epoch++
	failed := s.rig.leadUnwaited(s.epoch)
	for {
		if at, _, _ := s.rig.node.Position(); at == s.epoch {
			return
		}
		select {
		case err := <-failed:
			s.rt.Fatalf("lead epoch %d: %v", s.epoch, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// note keeps what an answer promises.
func (s *story) note(word string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[word] = true
	if err == nil {
		s.told[word] = true
	}
}

// propose asks for several words at once, some with request ids.
func (s *story) propose() {
	var wg sync.WaitGroup
	for range 6 {
		word := s.word()
		m := mutation(word)
		if s.words%2 == 0 {
			m.RequestId = word
		}
		wg.Go(func() { s.note(word, s.rig.node.Propose(s.t.Context(), m)) })
	}
	wg.Wait()
}

// append writes several facts at once.
func (s *story) append() {
	var wg sync.WaitGroup
	for range 4 {
		one, two := s.word(), s.word()
		wg.Go(func() {
			err := s.rig.node.Outbox().AppendSync(s.t.Context(), facts(one, two))
			s.note(one, err)
			s.note(two, err)
		})
	}
	wg.Wait()
}

// lose breaks the epoch under a proposal whose caller does not wait.
func (s *story) lose(fault filestoretest.Fault) {
	fault.Op, fault.Path, fault.Err = filestoretest.Sync, "ledger/*/*", syscall.EIO
	hit := s.rig.fault.Inject(fault)
	word := s.word()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.note(word, s.rig.node.Propose(ctx, &buspb.Mutation{Kind: "book", Body: []byte(word), RequestId: word}))
	}()
	s.rig.eventually("the sync fails", func() (any, bool) { return nil, hit.Struck() > 0 })
	cancel()
	<-done
	s.resend = append(s.resend, word)
	if err := s.rig.stopLead(); !errors.Is(err, replication.ErrEpochOver) {
		s.rt.Fatalf("lead ended with %v", err)
	}
	s.lead()
}

// again sends what got no answer.
func (s *story) again() {
	for _, word := range s.resend {
		s.note(word, s.rig.node.Propose(s.t.Context(), &buspb.Mutation{Kind: "book", Body: []byte(word), RequestId: word}))
	}
	s.resend = nil
}

// cut takes the power while proposals and facts are on their way.
func (s *story) cut() {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	for range 4 {
		word, fact := s.word(), s.word()
		wg.Go(func() { s.note(word, s.rig.node.Propose(ctx, mutation(word))) })
		wg.Go(func() { s.note(fact, s.rig.node.Outbox().AppendSync(ctx, facts(fact))) })
	}
	after, err := s.disk.Cut()
	cancel()
	wg.Wait()
	s.rig.close()
	if err != nil {
		s.rt.Fatal(err)
	}
	s.disk = after
	s.begin()
	s.check()
}

// kill ends the process; the machine and its page cache live on.
func (s *story) kill() {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	for range 3 {
		word := s.word()
		wg.Go(func() { s.note(word, s.rig.node.Propose(ctx, mutation(word))) })
	}
	cancel()
	wg.Wait()
	s.rig.close()
	s.begin()
	s.check()
}

func (s *story) breakOutbox() {
	s.rig.fault.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "outbox/*/*", Err: syscall.EIO, Drop: s.words%2 == 0})
	s.append()
}

func (s *story) nextEpoch() {
	if err := s.rig.stopLead(); err != nil {
		s.rt.Fatalf("lead: %v", err)
	}
	s.lead()
}

// check holds the state against the promises: facts may still be on their way.
func (s *story) check() {
	for word := range s.asked {
		if n := s.rig.book.count(word); n > 1 {
			s.rt.Fatalf("%s was applied %d times", word, n)
		}
	}
}

// end waits for the last facts and holds everything against the promises.
func (s *story) end() {
	s.again()
	s.rig.eventually("all that was promised is there", func() (any, bool) {
		var missing []string
		for _, word := range slices.Sorted(maps.Keys(s.told)) {
			if s.rig.book.count(word) == 0 {
				missing = append(missing, word)
			}
		}
		return missing, len(missing) == 0
	})
	s.check()
	_ = s.rig.stop() // what it led is over
	if _, err := replication.Verify(s.t.Context(), s.rig.store); err != nil {
		s.rt.Fatalf("verify: %v", err)
	}
	want, sum := s.rig.bytes(), digestOf(s.rig)
	s.rig.close()
	fresh := newRig(s.t, s.disk, "fresh-1", nil)
	defer fresh.close()
	if err := fresh.node.Load(s.t.Context()); err != nil {
		s.rt.Fatalf("load: %v", err)
	}
	if fresh.bytes() != want || digestOf(fresh) != sum {
		s.rt.Fatalf("a fresh node has another state:\n got %s\nwant %s", fresh.bytes(), want)
	}
}

// Whatever happens to process, disk and power: what was acknowledged is applied
// exactly once, nothing is applied twice, and every node gets the same state.
func TestPromisesHoldThroughCrashes(t *testing.T) {
	if !flagGiven("rapid.checks") {
		if err := flag.Set("rapid.checks", "12"); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"propose", "propose", "append", "append", "again", "lost", "lied", "breakOutbox", "nextEpoch", "kill", "cut", "cut"}
	rapid.Check(t, func(rt *rapid.T) {
		disk := filestoretest.NewPowerCut(t, rapid.Uint64().Draw(rt, "seed"))
		s := &story{t: t, rt: rt, disk: disk, told: map[string]bool{}, asked: map[string]bool{}}
		s.begin()
		defer func() { s.rig.close() }()
		for _, step := range rapid.SliceOfN(rapid.SampledFrom(names), 4, 14).Draw(rt, "steps") {
			switch step {
			case "propose":
				s.propose()
			case "append":
				s.append()
			case "again":
				s.again()
			case "lost":
				s.lose(filestoretest.Fault{Drop: true})
			case "lied":
				s.lose(filestoretest.Fault{After: true})
			case "breakOutbox":
				s.breakOutbox()
			case "nextEpoch":
				s.nextEpoch()
			case "kill":
				s.kill()
			case "cut":
				s.cut()
			}
		}
		s.end()
	})
}

func flagGiven(name string) (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}
