package replication_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

var _ filestore.OutboxWriter = (*replication.Outbox)(nil)

func often(o *replication.Options) { o.TailEvery = 5 * time.Millisecond }

func facts(words ...string) []*buspb.Mutation {
	all := make([]*buspb.Mutation, len(words))
	for i, w := range words {
		all[i] = mutation(w)
	}
	return all
}

func (r *rig) fact(words ...string) {
	r.t.Helper()
	if err := r.node.Outbox().AppendSync(r.t.Context(), facts(words...)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) drained() {
	r.t.Helper()
	r.eventually("the outbox is sent", func() (any, bool) { return r.node.Outbox().Lag(), r.node.Outbox().Lag() == 0 })
}

func TestFactsAreTakenInOrderOnceTheyAreDurable(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().run()
	for i := range 50 {
		r.fact(fmt.Sprint("fact ", i), fmt.Sprint("and ", i))
	}
	if lag := r.node.Outbox().Lag(); lag != 100 {
		t.Errorf("lag is %d with no master, want 100", lag)
	}
	r.lead(1)
	r.drained()
	for i := range 50 {
		r.wantCount(fmt.Sprint("fact ", i), 1)
		r.wantCount(fmt.Sprint("and ", i), 1)
	}
}

func TestFactsOfADeadIncarnationAreTakenOnce(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().run().lead(1)
	a.fact("taken")
	a.drained()
	_ = a.stop()
	large := strings.Repeat("large ", 60_000)
	a.fact("left behind", large)
	a.fact("left behind too")
	a.close()

	after := disk.MustCut(t)
	for run := 2; run <= 4; run++ {
		b := newRig(t, after, fmt.Sprintf("a-%d", run), often).load().run().lead(uint64(run))
		b.fact(fmt.Sprint("own ", run))
		b.drained()
		for _, word := range []string{"taken", "left behind", large, "left behind too", fmt.Sprint("own ", run)} {
			b.eventually("facts of the dead are taken", func() (any, bool) { return word[:5], b.book.count(word) > 0 })
			b.wantCount(word, 1)
		}
		b.close()
	}
}

func TestAdoptedIsWhoseFactsAreAllInTheState(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	node, err := ids.ParseNode("a")
	if err != nil {
		t.Fatal(err)
	}
	a := newRig(t, disk, "a-1", nil)
	held, err := a.store.ClaimIncarnation(t.Context(), filestore.IncarnationOptions{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	a.load()
	for i := range 50 {
		a.fact(fmt.Sprint("left behind ", i))
	}
	if err := held.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.close()

	b := newRig(t, disk, "b-1", often).load().run()
	if b.node.Adopted("a-1") {
		t.Error("adopted with no master")
	}
	b.lead(1)
	b.eventually("the dead one's outbox is through", func() (any, bool) { return nil, b.node.Adopted("a-1") })
	if n := b.book.total(); n != 50 {
		t.Errorf("%d facts are in the state when they should all be", n)
	}
}

func TestFactsOfAnotherLivingNodeAreTailed(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	master := newRig(t, disk, "a-1", often).load().lead(1)
	other := newRig(t, disk, "b-1", func(o *replication.Options) { o.MaxFileBytes = 500 }).load()
	for i := range 40 {
		other.fact(fmt.Sprint("word ", i))
		if i%10 == 0 {
			master.eventually("it is tailed", func() (any, bool) { return i, master.book.count(fmt.Sprint("word ", i)) == 1 })
		}
	}
	master.eventually("all are taken", func() (any, bool) { return master.book.total(), master.book.total() == 40 })
	master.verify()
}

func TestFailedSyncOfTheOutboxGoesOnInANewFile(t *testing.T) {
	for name, fault := range map[string]filestoretest.Fault{
		"lost":  {Op: filestoretest.Sync, Path: "outbox/*/*", Err: syscall.EIO, Drop: true},
		"lied":  {Op: filestoretest.Sync, Path: "outbox/*/*", Err: syscall.EIO, After: true, Times: 2},
		"torn":  {Op: filestoretest.Write, Path: "outbox/*/*", Err: syscall.EIO, Torn: 30},
		"names": {Op: filestoretest.SyncDir, Path: "outbox/*", Err: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			disk := filestoretest.NewPowerCut(t, 1)
			a := newRig(t, disk, "a-1", nil).load()
			if name != "names" {
				a.fact("before")
			}
			hit := a.fault.Inject(fault)
			a.fact("during")
			a.fact("after")
			if hit.Struck() == 0 {
				t.Fatal("the fault did not strike")
			}
			if n := len(mustFind(t, disk, "outbox/a-1")); n < 2 {
				t.Errorf("%d outbox files, want a new one after the error", n)
			}
			a.close()
			b := newRig(t, disk.MustCut(t), "a-2", often).load().lead(1)
			b.eventually("all are taken", func() (any, bool) { return b.bytes(), b.book.count("after") == 1 })
			b.wantCount("during", 1)
		})
	}
}

// A store that failed for long is used again once it works, however many files
// were finished meanwhile.
func TestOutboxOutlastsLongTrouble(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().run().lead(1)
	r.fact("before")
	for part := range 1100 { // left behind by writes that failed
		name := fmt.Sprintf("outbox/a-1/%020d", 2)
		if part > 0 {
			name = fmt.Sprintf("%s.%d", name, part)
		}
		file, err := r.fault.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	r.fault.Inject(filestoretest.Fault{Op: filestoretest.Write, Path: "outbox/*/*", Err: syscall.EIO})
	r.fact("after")
	r.drained()
	r.wantCount("after", 1)
}

func TestAppendSyncTellsWhenNothingCanBeWritten(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().run().lead(1)
	full := r.fault.Inject(filestoretest.Fault{Op: filestoretest.Create, Path: "outbox/*/*", Err: syscall.ENOSPC, Times: filestoretest.Always})
	err := r.node.Outbox().AppendSync(t.Context(), facts("turned away"))
	wantErr(t, err, syscall.ENOSPC, filestore.ErrFull)
	full.Lift()
	r.fact("later")
	r.drained()
	r.wantCount("turned away", 1) // it had its number, so it went along
	r.wantCount("later", 1)
}

func TestOutboxFarBehindIsReadFromItsFiles(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", func(o *replication.Options) {
		o.MaxPendingBytes, o.MaxFileBytes = 3000, 2000
	}).load().run()
	for i := range 100 {
		r.fact(fmt.Sprint("fact ", i))
	}
	r.lead(1)
	r.fact("last")
	r.drained()
	if r.book.total() != 101 {
		t.Errorf("%d facts taken, want 101", r.book.total())
	}
	r.wantCount("last", 1)
}

func TestManyWritersShareSyncsOfTheOutbox(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load()
	slow := r.fault.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "outbox/*/*", Hang: true, Times: filestoretest.Always})
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			if err := r.node.Outbox().AppendSync(t.Context(), facts(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	r.eventually("the first sync hangs, the others are numbered", func() (any, bool) {
		return slow.Hanging(), slow.Hanging() == 1 && r.node.Numbered() == 30
	})
	slow.Lift()
	wg.Wait()
	if n := slow.Struck(); n > 3 {
		t.Errorf("%d syncs for 30 facts that waited together", n)
	}
}

func TestAUsedIncarnationIsRefused(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load()
	a.fact("word")
	a.close()
	wantErr(t, newRig(t, disk, "a-1", nil).node.Load(t.Context()), replication.ErrInvalid)
}

func TestDamagedOutboxStopsAtTheDamage(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load()
	a.fact("one")
	name := "outbox/a-1/" + mustFind(t, disk, "outbox/a-1")[0].Name()
	at := size(t, disk, name)
	a.fact("two")
	a.fact("three")
	a.close()
	damage(t, disk, name, at+25)
	b := newRig(t, disk, "a-2", often).load().lead(1)
	b.eventually("what is whole is taken", func() (any, bool) { return nil, b.book.count("one") == 1 })
	b.propose("the ledger goes on")
	b.wantCount("three", 0)
	damage(t, disk, name, at+25) // an operator brings the file back
	b.eventually("the rest is taken", func() (any, bool) { return b.bytes(), b.book.count("three") == 1 })
	b.wantCount("two", 1)
}

func TestFactsBehindABadHeaderAreTakenAllTheSame(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load()
	a.fact("one")
	a.fact("two")
	a.close()
	damage(t, disk, "outbox/a-1/"+mustFind(t, disk, "outbox/a-1")[0].Name(), 9)
	b := newRig(t, disk, "a-2", often).load().lead(1)
	b.eventually("all are taken", func() (any, bool) { return b.bytes(), b.book.count("two") == 1 })
	b.wantCount("one", 1)
}

func TestFactsGoOnAfterABrokenEpoch(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().run().lead(1)
	r.fact("before")
	r.drained()
	r.fault.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "ledger/*/*", Err: syscall.EIO, After: true})
	r.fact("during")
	ended := r.stopLead
	r.eventually("the epoch ends", func() (any, bool) {
		nobody, _ := r.node.Leaderless()
		return nil, nobody
	})
	wantErr(t, ended(), replication.ErrEpochOver)
	r.fact("between")
	r.lead(2)
	r.drained()
	for _, word := range []string{"before", "during", "between"} {
		r.wantCount(word, 1)
	}
}

func TestRefusedFactDoesNotHoldUpTheRest(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", nil).load().run().lead(1)
	r.fact("one", "refuse this", "two")
	r.drained()
	r.wantCount("one", 1)
	r.wantCount("two", 1)
	if err := r.node.Outbox().AppendSync(context.Background(), []*buspb.Mutation{{Kind: "film"}}); err == nil {
		t.Error("a fact of unknown kind was taken")
	}
}

func TestFactsThatTheDiskDoesNotTakeAreBounded(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", func(o *replication.Options) { o.MaxPendingBytes = 2000 }).load().run().lead(1)
	full := r.fault.Inject(filestoretest.Fault{Op: filestoretest.Create, Path: "outbox/*/*", Err: syscall.ENOSPC, Times: filestoretest.Always})
	var err error
	taken := 0
	for i := range 20 {
		if err = r.node.Outbox().AppendSync(t.Context(), facts(fmt.Sprint(i))); errors.Is(err, replication.ErrNoRoom) {
			break
		}
		wantErr(t, err, filestore.ErrFull)
		taken++
	}
	wantErr(t, err, replication.ErrNoRoom)
	full.Lift()
	r.fact("later")
	r.drained()
	r.wantCount("later", 1)
	if r.book.total() != taken+1 {
		t.Errorf("%d facts applied, want the %d that had a number and one", r.book.total(), taken)
	}
}
