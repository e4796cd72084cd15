package replication_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

func TestProposeIsAppliedHereAndAfterRestart(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	for i := range 10 {
		a.propose(fmt.Sprint("word ", i))
		a.wantCount(fmt.Sprint("word ", i), 1)
	}
	_, index, chain := a.node.Position()
	if index != 11 {
		t.Errorf("stands at %d, want 11: the epoch's first entry and ten more", index)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	want, sum := a.bytes(), digestOf(a)

	b := newRig(t, disk.MustCut(t), "a-2", nil).load()
	if got := b.bytes(); got != want {
		t.Errorf("after a power cut:\n got %s\nwant %s", got, want)
	}
	if _, at, again := b.node.Position(); at != index || again != chain {
		t.Errorf("loaded to entry %d, want %d with the same chain", at, index)
	}
	if digestOf(b) != sum {
		t.Error("digest differs after replay")
	}
}

func digestOf(r *rig) [32]byte {
	_, sum := r.node.Digest()
	return sum
}

func TestRefusalReachesProposer(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().lead(1)
	index, err := r.node.ProposeIndex(t.Context(), mutation("refuse me"))
	wantErr(t, err, errNo, replication.ErrRefused)
	if index != 2 {
		t.Errorf("refused at index %d, want 2", index)
	}
	r.propose("yes")
	if r.book.total() != 1 {
		t.Errorf("%d mutations were applied, want 1", r.book.total())
	}
}

func TestRequestIDAnswersWhatTheFirstWasAnswered(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	ask := func(r *rig, body, id, who string) (uint64, error) {
		return r.node.ProposeIndex(t.Context(), &buspb.Mutation{Kind: "book", Body: []byte(body), RequestId: id, Principal: who})
	}
	first, err := ask(a, "once", "r1", "ann")
	if err != nil {
		t.Fatal(err)
	}
	refusedAt, err := ask(a, "refuse", "r2", "ann")
	wantErr(t, err, errNo)
	if _, err := ask(a, "bob's", "r1", "bob"); err != nil {
		t.Fatal(err)
	}
	a.wantCount("bob's", 1)
	check := func(r *rig) {
		t.Helper()
		if index, err := ask(r, "once more", "r1", "ann"); err != nil || index != first {
			t.Errorf("repeat: index %d, %v; want %d, nil", index, err, first)
		}
		r.wantCount("once more", 0)
		index, err := ask(r, "yes", "r2", "ann")
		wantErr(t, err, replication.ErrRefused)
		if index != refusedAt || !strings.Contains(err.Error(), errNo.Error()) {
			t.Errorf("repeat of a refusal: index %d, %v", index, err)
		}
		if index, known, err := r.node.Earlier("ann", "r1"); !known || index != first || err != nil {
			t.Errorf("earlier: %d, %v, %v; want %d", index, known, err, first)
		}
		if index, known, err := r.node.Earlier("ann", "r2"); !known || index != refusedAt || !errors.Is(err, replication.ErrRefused) {
			t.Errorf("earlier refusal: %d, %v, %v", index, known, err)
		}
		if _, known, err := r.node.Earlier("bob", "r2"); known || err != nil {
			t.Errorf("a request of somebody else is known: %v", err)
		}
	}
	check(a)
	_ = a.stop()
	check(newRig(t, disk, "a-2", nil).load().lead(2))
}

func TestConcurrentRepeatsApplyOnce(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().lead(1)
	var wg sync.WaitGroup
	indices := make([]uint64, 20)
	for i := range indices {
		wg.Go(func() {
			m := &buspb.Mutation{Kind: "book", Body: []byte("same"), RequestId: "r"}
			var err error
			if indices[i], err = r.node.ProposeIndex(t.Context(), m); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.wantCount("same", 1)
	for _, index := range indices {
		if index != indices[0] {
			t.Fatalf("repeats got different indices: %v", indices)
		}
	}
}

func TestRequestIDIsForgottenAfterADay(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, disk, "a-1", nil).load().lead(1)
		ask := func() {
			t.Helper()
			if err := r.node.Propose(t.Context(), &buspb.Mutation{Kind: "book", Body: []byte("word"), RequestId: "r"}); err != nil {
				t.Fatal(err)
			}
		}
		ask()
		time.Sleep(24*time.Hour - time.Minute)
		r.propose("other")
		ask()
		r.wantCount("word", 1)
		time.Sleep(2 * time.Minute)
		r.propose("another") // entry time moves only with entries
		ask()
		r.wantCount("word", 2)
		r.close()
	})
}

func TestProposeWithoutMasterWaitsThenSaysSo(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, disk, "a-1", nil).load()
		begin := time.Now()
		err := r.node.Propose(t.Context(), mutation("word"))
		wantErr(t, err, replication.ErrNoMaster)
		if errors.Is(err, replication.ErrUnsure) {
			t.Error("nobody took it, so it is not unsure")
		}
		if waited := time.Since(begin); waited != 15*time.Second {
			t.Errorf("waited %v, want 15 s", waited)
		}
		r.close()
	})
}

func TestProposeGoesOnWhenAMasterComes(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, disk, "a-1", nil).load()
		answer := make(chan error, 1)
		go func() { answer <- r.node.Propose(t.Context(), mutation("word")) }()
		time.Sleep(14 * time.Second)
		r.lead(1)
		if err := <-answer; err != nil {
			t.Error(err)
		}
		r.wantCount("word", 1)
		r.close()
	})
}

func TestProposeIsUnsureWhenItsCallerLeaves(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().lead(1)
	slow := r.fault.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "ledger/*/*", Hang: true, Times: filestoretest.Always})
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() { answer <- r.node.Propose(ctx, mutation("word")) }()
	r.eventually("the sync hangs", func() (any, bool) { return slow.Hanging(), slow.Hanging() > 0 })
	cancel()
	wantErr(t, <-answer, replication.ErrUnsure, context.Canceled)
	slow.Lift()
	r.eventually("it is applied all the same", func() (any, bool) { return nil, r.book.count("word") == 1 })
	r.propose("next")
}

func TestProposeIsUnsureWhenNobodyFollowsABrokenEpoch(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, disk, "a-1", nil).load().lead(1)
		r.fault.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "ledger/*/*", Err: syscall.EIO})
		begin := time.Now()
		err := r.node.Propose(t.Context(), mutation("word"))
		wantErr(t, err, replication.ErrUnsure)
		if waited := time.Since(begin); waited < 15*time.Second || waited > 16*time.Second {
			t.Errorf("waited %v for the next master, want 15 s", waited)
		}
		wantErr(t, r.stop(), replication.ErrEpochOver, syscall.EIO)
		r.close()
	})
}

func TestImpossibleMutationsAreRefusedBeforeTheLedger(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", func(o *replication.Options) { o.MaxBodyBytes = 1000 }).load().lead(1)
	for name, c := range map[string]struct {
		m    *buspb.Mutation
		want error
	}{
		"nil":          {nil, replication.ErrUnknownKind},
		"unknown kind": {&buspb.Mutation{Kind: "film"}, replication.ErrUnknownKind},
		"own kind":     {&buspb.Mutation{Kind: "ledger.epoch"}, replication.ErrUnknownKind},
		"large body":   {mutation(strings.Repeat("x", 1001)), replication.ErrTooLarge},
		"large id":     {&buspb.Mutation{Kind: "book", RequestId: strings.Repeat("x", 300)}, replication.ErrTooLarge},
		"not UTF-8":    {&buspb.Mutation{Kind: "book", Principal: "\xff"}, replication.ErrInvalid},
		"forged blob":  {&buspb.Mutation{Kind: "book", Blob: make([]byte, 32)}, replication.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			wantErr(t, r.node.Propose(t.Context(), c.m), c.want)
		})
	}
	if _, index, _ := r.node.Position(); index != 1 {
		t.Errorf("ledger stands at %d, want 1", index)
	}
}

func TestLargeBodyIsAFileNamedByItsHash(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	large := strings.Repeat("large ", 100_000)
	a.propose(large)
	a.propose("small")
	a.wantCount(large, 1)
	name := fmt.Sprintf("blobs/%x", sha256.Sum256([]byte(large)))
	if data, err := a.store.ReadFile(t.Context(), name, 1<<20); err != nil || string(data) != large {
		t.Errorf("blob: %d bytes, %v", len(data), err)
	}
	if report := a.verify(); report.Blobs != 1 {
		t.Errorf("verify found %d blobs, want 1", report.Blobs)
	}
	_ = a.stop()
	after := disk.MustCut(t)
	b := newRig(t, after, "a-2", nil).load()
	b.wantCount(large, 1)

	damage(t, after, name, 17)
	c := newRig(t, after, "a-3", nil)
	wantErr(t, c.node.Load(t.Context()), replication.ErrDamaged)
	_, err := replication.Verify(t.Context(), c.store)
	wantErr(t, err, replication.ErrDamaged)
}

// damage flips a bit of a file.
func damage(t testing.TB, on filestore.FS, name string, at int64) {
	t.Helper()
	f, err := on.OpenWrite(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x20
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestManyProposersShareSyncs(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().lead(1)
	before := r.store.Stats()["sync"]
	var wg sync.WaitGroup
	const proposers, each = 50, 10
	for p := range proposers {
		wg.Go(func() {
			for i := range each {
				if err := r.node.Propose(t.Context(), mutation(fmt.Sprint(p, " ", i))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if r.book.total() != proposers*each {
		t.Errorf("applied %d, want %d", r.book.total(), proposers*each)
	}
	if syncs := r.store.Stats()["sync"] - before; syncs > proposers*each/2 {
		t.Errorf("%d syncs for %d proposals of %d at a time", syncs, proposers*each, proposers)
	}
	last := int64(0)
	for _, at := range r.book.times {
		if at <= last {
			t.Fatal("entry time went back")
		}
		last = at
	}
}

func TestWaitingProposalsAreBounded(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, disk, "a-1", func(o *replication.Options) { o.MaxPendingBytes = 4000 }).load()
		answers := make(chan error, 10)
		for range cap(answers) {
			go func() { answers <- r.node.Propose(t.Context(), mutation("word")) }()
		}
		time.Sleep(31 * time.Second) // those without room wait once more for a master
		for range cap(answers) {
			wantErr(t, <-answers, replication.ErrNoMaster)
		}
		r.lead(1)
		r.propose("later")
		r.wantCount("word", 0)
		r.close()
	})
}

func TestMetricsCountWhatHappened(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", func(o *replication.Options) { o.Registerer = reg }).load().run().lead(1)
	r.propose("word")
	wantErr(t, r.node.Propose(t.Context(), mutation("refuse")), errNo)
	r.fact("fact")
	r.drained()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"raptorpack_replication_index":                 4,
		"raptorpack_replication_epoch":                 1,
		"raptorpack_replication_entries_total applied": 3,
		"raptorpack_replication_entries_total refused": 1,
		"raptorpack_replication_facts_total own":       1,
		"raptorpack_replication_outbox_lag_entries":    0,
		"raptorpack_replication_ledger_failures_total": 0,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
