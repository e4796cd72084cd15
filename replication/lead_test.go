package replication_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
	"raptorpack/replication"
)

func TestFailedSyncEndsTheEpochAndNothingIsLostOrDoubled(t *testing.T) {
	for name, fault := range map[string]filestoretest.Fault{
		"sync lost its bytes": {Op: filestoretest.Sync, Path: "ledger/*/*", Err: syscall.EIO, Drop: true},
		"sync lied":           {Op: filestoretest.Sync, Path: "ledger/*/*", Err: syscall.EIO, After: true},
		"write was torn":      {Op: filestoretest.Write, Path: "ledger/*/*", Err: syscall.ENOSPC, Torn: 40},
		"disk full":           {Op: filestoretest.Write, Path: "ledger/*/*", Err: syscall.ENOSPC, Torn: -1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().lead(1)
			r.propose("before")
			r.fault.Inject(fault)
			answer := make(chan error, 1)
			go func() { answer <- r.node.Propose(t.Context(), mutation("during")) }()
			ended := r.stopLead
			r.eventually("the epoch ends", func() (any, bool) {
				nobody, _ := r.node.Leaderless()
				return nil, nobody
			})
			wantErr(t, ended(), replication.ErrEpochOver, fault.Err)
			r.lead(2)
			if err := <-answer; err != nil {
				t.Errorf("the next epoch should have taken it: %v", err)
			}
			r.propose("after")
			for _, word := range []string{"before", "during", "after"} {
				r.wantCount(word, 1)
			}
			r.verify()
		})
	}
}

func TestDeposedMasterChangesNothing(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	old := newRig(t, disk, "a-1", nil).load().lead(1)
	old.propose("agreed")
	pause := old.fault.Inject(filestoretest.Fault{Op: filestoretest.Write, Path: "ledger/*/*", Hang: true, Times: filestoretest.Always})
	answer := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { answer <- old.node.Propose(ctx, mutation("too late")) }()
	old.eventually("the old master is paused", func() (any, bool) { return nil, pause.Hanging() > 0 })

	next := newRig(t, disk, "b-1", nil).load().lead(2)
	next.propose("from the new one")

	old.term.lost.Store(true)
	pause.Lift()
	old.eventually("the old master steps down", func() (any, bool) {
		nobody, _ := old.node.Leaderless()
		return nil, nobody
	})
	wantErr(t, old.stop(), replication.ErrDeposed)
	old.wantCount("too late", 0)
	cancel()
	wantErr(t, <-answer, replication.ErrUnsure)

	if report := next.verify(); report.BeyondSeal == 0 {
		t.Error("verify does not count what the old master wrote beyond the seal")
	}
	_ = next.stop()
	fresh := newRig(t, disk, "c-1", nil).load()
	fresh.wantCount("too late", 0)
	fresh.wantCount("agreed", 1)
	fresh.wantCount("from the new one", 1)
	if fresh.bytes() != next.bytes() {
		t.Error("a fresh node has another state than the new master")
	}

	// The old process still has the mutation: leading again, it brings it once.
	old.lead(3)
	old.eventually("it is brought in at last", func() (any, bool) { return nil, old.book.count("too late") == 1 })
	old.wantCount("from the new one", 1)
}

func TestStateBeyondTheSealIsThrownAway(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	a.propose("agreed")
	// A late reader sees an entry that the seal will not have.
	a.term.lost.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() { answer <- a.node.Propose(ctx, mutation("too late")) }()
	a.eventually("a steps down", func() (any, bool) {
		nobody, _ := a.node.Leaderless()
		return nil, nobody
	})
	cancel()
	<-answer
	late := newRig(t, disk, "late-1", nil).load()
	late.wantCount("too late", 1)
	_, index, _ := a.node.Position()
	_, _, chain := a.node.Position()
	if _, err := (&term{store: a.store, epoch: 2}).SealLedger(t.Context(), 1, 0, index, chain); err != nil {
		t.Fatal(err)
	}
	late.lead(3)
	late.wantCount("too late", 0)
	late.wantCount("agreed", 1)
	late.verify()
}

func TestEntryTimeNeverGoesBack(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	a.propose("now")
	_ = a.stop()
	last := a.book.times[0]
	synctest.Test(t, func(t *testing.T) { // its clock stands in the year 2000
		if time.Now().UnixMicro() >= last {
			t.Fatal("the clock did not jump back")
		}
		b := newRig(t, disk, "a-2", nil).load().lead(2)
		b.propose("before")
		b.propose("before too")
		if got := b.book.times[1:]; got[0] <= last || got[1] <= got[0] || got[1] > last+10 {
			t.Errorf("entry times %v after %d", got, last)
		}
		b.close()
	})
}

func TestLedgerGoesOnInNewFiles(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	small := func(o *replication.Options) { o.MaxFileBytes = 2000 }
	a := newRig(t, disk, "a-1", small).load().lead(1)
	for i := range 60 {
		a.propose(fmt.Sprint("word ", i))
	}
	_ = a.stop()
	files := mustFind(t, disk, "ledger/"+mustFind(t, disk, "ledger")[0].Name())
	if len(files) < 3 {
		t.Fatalf("%d files, want several", len(files))
	}
	b := newRig(t, disk.MustCut(t), "a-2", small).load()
	if b.book.total() != 60 {
		t.Errorf("%d applied, want 60", b.book.total())
	}
	if report := b.verify(); report.LastIndex != 61 || report.Epochs != 1 {
		t.Errorf("verify: %+v", report)
	}
}

func TestMissingFilesOfTheLedgerAreTold(t *testing.T) {
	small := func(o *replication.Options) { o.MaxFileBytes = 1000 }
	for name, at := range map[string]int{"first": 0, "middle": 1, "last": -1} {
		t.Run(name, func(t *testing.T) {
			disk := filestoretest.NewPowerCut(t, 1)
			a := newRig(t, disk, "a-1", small).load().lead(1)
			for i := range 20 {
				a.propose(fmt.Sprint("word ", i))
			}
			_ = a.stop()
			dir := "ledger/" + mustFind(t, disk, "ledger")[0].Name()
			files := mustFind(t, disk, dir)
			if err := disk.Remove(path.Join(dir, files[(at+len(files))%len(files)].Name())); err != nil {
				t.Fatal(err)
			}
			wantErr(t, newRig(t, disk, "a-2", small).node.Load(t.Context()), replication.ErrGap)
		})
	}
}

// ledgerOf returns the only ledger file.
func ledgerOf(t testing.TB, disk *filestoretest.PowerCut) string {
	t.Helper()
	dirs := mustFind(t, disk, "ledger")
	dir := path.Join("ledger", dirs[len(dirs)-1].Name())
	return path.Join(dir, mustFind(t, disk, dir)[0].Name())
}

func size(t testing.TB, disk *filestoretest.PowerCut, name string) int64 {
	t.Helper()
	f, err := disk.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func truncate(t testing.TB, disk *filestoretest.PowerCut, name string, size int64) {
	t.Helper()
	f, err := disk.OpenWrite(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(size), f.Sync()); err != nil {
		t.Fatal(err)
	}
}

// A power cut may leave any beginning of the last group of entries, which
// nobody was told of. Whatever it is, the next master seals it and goes on.
func TestCrashAtEveryByteOfTheTail(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	a.propose("told")
	name := ledgerOf(t, disk)
	told := size(t, disk, name)
	a.propose("tail")
	_ = a.stop()
	whole := size(t, disk, name)
	for cut := whole; cut >= told; cut-- {
		truncate(t, disk, name, cut)
		b := newRig(t, disk, "b-1", nil).load()
		b.wantCount("told", 1)
		want := 0
		if cut == whole {
			want = 1
		}
		b.wantCount("tail", want)
		b.close()
	}
	b := newRig(t, disk, "b-2", nil).load().lead(2)
	b.propose("next")
	b.verify()
	_ = b.stop()
	newRig(t, disk, "b-3", nil).load().wantCount("next", 1)
}

// What was synced once and does not read any more is not a torn tail: nobody
// may lead over it, for that would drop acknowledged entries in silence.
func TestDamageBeforeTheTailIsNotTakenForOne(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	a.propose("told")
	name := ledgerOf(t, disk)
	a.propose("told too")
	last := size(t, disk, name)
	a.propose("tail")
	_ = a.stop()
	for at := int64(0); at < last; at += 7 {
		damage(t, disk, name, at)
		b := newRig(t, disk, "b-1", nil)
		wantErr(t, b.node.Load(t.Context()), replication.ErrDamaged)
		wantErr(t, <-b.leadUnwaited(2), replication.ErrDamaged)
		b.close()
		damage(t, disk, name, at) // and back
	}
	for at := last; at < size(t, disk, name); at += 7 {
		damage(t, disk, name, at)
		b := newRig(t, disk, "b-1", nil).load()
		b.wantCount("told too", 1)
		b.wantCount("tail", 0)
		b.close()
		damage(t, disk, name, at)
	}
}

func TestEpochThatDiedBeforeItsFirstFileIsPassed(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	a.propose("one")
	_ = a.stop()
	b := newRig(t, disk, "a-2", nil).load()
	b.fault.Inject(filestoretest.Fault{Op: filestoretest.Write, Path: "ledger/*/*", Err: syscall.EIO, Torn: 20})
	wantErr(t, <-b.leadUnwaited(2), syscall.EIO)
	b.close()
	c := newRig(t, disk, "a-3", nil).load().lead(4) // 3 was claimed and did nothing
	c.propose("two")
	if report := c.verify(); report.Seals != 3 {
		t.Errorf("%d seals, want 3", report.Seals)
	}
	_ = c.stop()
	d := newRig(t, disk.MustCut(t), "a-4", nil).load()
	d.wantCount("one", 1)
	d.wantCount("two", 1)
}

// A process that is killed leaves entries in the page cache that were never
// synced. Once sealed they count, so sealing has to make them durable.
func TestSealPromisesOnlyWhatIsDurable(t *testing.T) {
	for seed := range uint64(8) {
		disk := filestoretest.NewPowerCut(t, seed)
		a := newRig(t, disk, "a-1", nil).load().lead(1)
		a.propose("told")
		killed := a.fault.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "ledger/*/*", Err: syscall.EIO, Times: filestoretest.Always})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = a.node.Propose(ctx, mutation("written, never synced")) }()
		a.eventually("the sync fails", func() (any, bool) { return nil, killed.Struck() > 0 })
		cancel()
		a.close()
		b := newRig(t, disk, "a-2", nil).load().lead(2)
		b.propose("after")
		had := b.book.count("written, never synced")
		b.close()
		c := newRig(t, disk.MustCut(t), "a-3", nil).load()
		c.wantCount("written, never synced", had)
		c.wantCount("after", 1)
		c.verify()
		c.close()
	}
}

func TestLeadEndsWhenTheMountHangs(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	r := newRig(t, disk, "a-1", func(o *replication.Options) { o.StopGrace = 20 * time.Millisecond }).load().lead(1)
	hang := r.fault.Inject(filestoretest.Fault{Match: func(p string) bool { return strings.HasPrefix(p, "ledger") }, Hang: true, Times: filestoretest.Always})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = r.node.Propose(ctx, mutation("word")) }()
	r.eventually("it hangs", func() (any, bool) { return nil, hang.Hanging() > 0 })
	wantErr(t, r.stop(), replication.ErrEpochOver)
	cancel()
	hang.Lift()
}

func TestOnlyOneLoadOrLeadAtATime(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().lead(1)
	wantErr(t, r.node.Load(t.Context()), replication.ErrBusy)
	wantErr(t, r.node.Lead(t.Context(), &term{epoch: 2}), replication.ErrBusy)
}

func TestAnEpochIsLedOnlyOnce(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().lead(1)
	_ = r.stop()
	wantErr(t, <-r.leadUnwaited(1), replication.ErrDeposed)
}

// The whole way with filestore's own leases.
func TestLeadsWithARealTerm(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	name, err := ids.ParseNode("a")
	if err != nil {
		t.Fatal(err)
	}
	for epoch := uint64(1); epoch <= 3; epoch++ {
		r := newRig(t, disk, fmt.Sprintf("a-%d", epoch), nil).load()
		held, err := r.store.Candidate(filestore.CandidateOptions{Node: name}).Campaign(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		kept, led := make(chan error, 1), make(chan error, 1)
		go func() { kept <- held.Keep(ctx) }()
		go func() { led <- r.node.Lead(ctx, held) }()
		r.propose(fmt.Sprint("epoch ", epoch))
		cancel()
		if err := errors.Join(<-led, <-kept, held.Release(t.Context())); err != nil {
			t.Fatal(err)
		}
		if at, _, _ := r.node.Position(); at != epoch || r.book.total() != int(epoch) {
			t.Errorf("epoch %d with %d applied, want %d", at, r.book.total(), epoch)
		}
		r.verify()
		r.close()
	}
	if _, err := disk.Stat("lease/seal-2"); errors.Is(err, fs.ErrNotExist) {
		t.Error("no seal of epoch 2")
	}
}

// A named file that this host does not see yet is waited for, never skipped.
func TestNamedFileIsWaitedFor(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	small := func(o *replication.Options) { o.MaxFileBytes, o.SuccessorWait = 1000, time.Minute }
	a := newRig(t, disk, "a-1", small).load().lead(1)
	for i := range 20 {
		a.propose(fmt.Sprint("word ", i))
	}
	_ = a.stop()
	dir := "ledger/" + mustFind(t, disk, "ledger")[0].Name()
	hidden := path.Join(dir, mustFind(t, disk, dir)[1].Name())
	if err := disk.Rename(hidden, "hidden"); err != nil {
		t.Fatal(err)
	}
	b := newRig(t, disk, "a-2", small)
	looks := b.fault.Inject(filestoretest.Fault{Op: filestoretest.ReadDir, Path: dir, Times: filestoretest.Always})
	loaded := make(chan error, 1)
	go func() { loaded <- b.node.Load(context.Background()) }()
	b.eventually("it looks for the file", func() (any, bool) { return looks.Struck(), looks.Struck() > 3 })
	if err := disk.Rename("hidden", hidden); err != nil {
		t.Fatal(err)
	}
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	if b.book.total() != 20 {
		t.Errorf("%d applied, want 20", b.book.total())
	}
}

// A master that was slow to begin may write its first entry after its epoch was
// sealed as empty.
func TestEpochThatWasSealedEmptyStaysEmpty(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	fresh := newRig(t, disk, "f-1", nil).load()
	_, _, nothing := fresh.node.Position()
	old := newRig(t, disk, "a-1", nil).load().lead(1)
	old.propose("too late")
	_ = old.stop()
	if _, err := (&term{store: fresh.store, epoch: 2}).SealLedger(t.Context(), 1, 0, 0, nothing); err != nil {
		t.Fatal(err)
	}
	b := newRig(t, disk, "b-1", nil).load().lead(3)
	b.propose("agreed")
	b.wantCount("too late", 0)
	if report := b.verify(); report.BeyondSeal == 0 {
		t.Error("verify does not count what lies beyond the seal")
	}
	_ = b.stop()
	c := newRig(t, disk.MustCut(t), "c-1", nil).load()
	c.wantCount("too late", 0)
	c.wantCount("agreed", 1)
}

func TestCandidateFarBehindLoadsWhatReplacedTheLedger(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	late := newRig(t, disk, "b-1", every(20)).load()
	a := newRig(t, disk, "a-1", every(20)).load().lead(1)
	a.propose("early")
	a.grow(4)
	a.eventually("the beginning of the ledger is gone", func() (any, bool) {
		dir := "ledger/" + mustFind(t, disk, "ledger")[0].Name()
		first := mustFind(t, disk, dir)[0].Name()
		return first, first > fmt.Sprintf("%020d", 1)
	})
	_ = a.stop()
	want := a.bytes()
	late.lead(2)
	if late.bytes() != want {
		t.Error("the state is another")
	}
	late.propose("late")
	late.wantCount("early", 1)
	late.verify()
}
