package replication_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

func every(entries int64) func(*replication.Options) {
	return func(o *replication.Options) { o.SnapshotEntries, o.MaxFileBytes = entries, 1500 }
}

// published are the names of snapshots that have their place.
func published(t testing.TB, disk filestore.FS) (names []string) {
	entries, err := disk.ReadDir("snapshots")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "unfinished-") {
			names = append(names, e.Name())
		}
	}
	return names
}

// grow proposes until there are snapshots beyond the newest of before.
func (r *rig) grow(want int) {
	r.t.Helper()
	seen := map[string]bool{}
	for i := 0; len(seen) < want; i++ {
		if i > 3000 {
			r.t.Fatalf("only %d snapshots after %d proposals: %v", len(seen), i, published(r.t, r.fs))
		}
		r.propose(fmt.Sprintf("word %d of %s", i, r.o.Incarnation))
		for _, name := range published(r.t, r.fs) {
			seen[name] = true
		}
	}
}

func TestSnapshotsReplaceTheLedgerBeforeThem(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", every(20)).load().lead(1)
	a.grow(4)
	a.eventually("two snapshots are left", func() (any, bool) { return published(t, disk), len(published(t, disk)) == 2 })
	a.eventually("the beginning of the ledger is gone", func() (any, bool) {
		dir := "ledger/" + mustFind(t, disk, "ledger")[0].Name()
		first := mustFind(t, disk, dir)[0].Name()
		return first, first > fmt.Sprintf("%020d", 1)
	})
	_ = a.stop()
	a.verify()
	want, sum := a.bytes(), digestOf(a)

	after := disk.MustCut(t)
	b := newRig(t, after, "a-2", every(20)).load()
	if b.bytes() != want || digestOf(b) != sum {
		t.Error("a snapshot and the ledger after it give another state")
	}
	b.lead(2).grow(4)
	_ = b.stop()
	c := newRig(t, after.MustCut(t), "a-3", every(20)).load()
	if c.bytes() != b.bytes() {
		t.Error("after two more generations the state differs")
	}
	c.verify()
}

func TestRequestIDsAndOriginsSurviveInSnapshots(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", every(20)).load().run().lead(1)
	ask := func(r *rig, body string) (uint64, error) {
		return r.node.ProposeIndex(t.Context(), &buspb.Mutation{Kind: "book", Body: []byte(body), RequestId: body})
	}
	first, err := ask(a, "asked")
	if err != nil {
		t.Fatal(err)
	}
	_, err = ask(a, "refuse")
	wantErr(t, err, errNo)
	a.fact("fact")
	a.drained()
	a.grow(3)
	a.close()
	b := newRig(t, disk, "a-2", func(o *replication.Options) { every(20)(o); often(o) }).load().run().lead(2)
	if index, err := ask(b, "asked"); err != nil || index != first {
		t.Errorf("repeat: %d, %v; want %d", index, err, first)
	}
	_, err = ask(b, "refuse")
	wantErr(t, err, replication.ErrRefused)
	b.grow(3)
	b.wantCount("asked", 1)
	b.wantCount("fact", 1)
}

func TestDamagedSnapshotIsPassedOverForTheOlder(t *testing.T) {
	for _, file := range []string{"book.jsonl", "replication.jsonl", "manifest.jsonl"} {
		t.Run(file, func(t *testing.T) {
			disk := filestoretest.NewPowerCut(t, 1)
			a := newRig(t, disk, "a-1", every(20)).load().lead(1)
			a.grow(3)
			a.eventually("pruned", func() (any, bool) { return nil, len(published(t, disk)) == 2 })
			_ = a.stop()
			names := published(t, disk)
			damage(t, disk, path.Join("snapshots", names[len(names)-1], file), 12)
			b := newRig(t, disk, "a-2", every(20)).load()
			if b.bytes() != a.bytes() || digestOf(b) != digestOf(a) {
				t.Error("the older snapshot and the ledger after it give another state")
			}
			_, err := replication.Verify(t.Context(), b.store)
			wantErr(t, err, replication.ErrDamaged)
			b.lead(2).grow(6) // the damaged one makes way for whole ones
			b.eventually("only whole ones are left", func() (any, bool) {
				_, err := replication.Verify(t.Context(), b.store)
				return err, err == nil
			})
		})
	}
}

// gate is a book whose views wait to be written.
type gate struct {
	*book
	begun chan struct{} // one slot per view
	open  chan struct{}
}

type gatedView struct {
	g *gate
	v io.WriterTo
}

func (g *gate) View() io.WriterTo { return gatedView{g, g.book.View()} }

func (v gatedView) WriteTo(w io.Writer) (int64, error) {
	v.g.begun <- struct{}{}
	<-v.g.open
	return v.v.WriteTo(w)
}

func TestApplyGoesOnWhileASnapshotIsWritten(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	g := &gate{begun: make(chan struct{}, 100), open: make(chan struct{})}
	a := newRig(t, disk, "a-1", func(o *replication.Options) {
		g.book = o.States[0].(*book)
		o.States, o.SnapshotEntries = []replication.State{g}, 10
	}).load().lead(1)
	for i := range 15 {
		a.propose(fmt.Sprint("before ", i))
	}
	<-g.begun
	for i := range 200 {
		a.propose(fmt.Sprint("meanwhile ", i))
	}
	close(g.open)
	a.eventually("a snapshot is there", func() (any, bool) { return nil, len(published(t, disk)) > 0 })
	first := published(t, disk)[0]
	data, err := a.store.ReadFile(t.Context(), path.Join("snapshots", first, "book.jsonl"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var index int
	if _, err := fmt.Sscanf(first, "%d-", &index); err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(data, []byte("\n")); lines != index-1 {
		t.Errorf("snapshot at entry %d has %d words, want %d", index, lines, index-1)
	}
	_ = a.stop()
	if b := newRig(t, disk, "a-2", nil).load(); b.bytes() != a.bytes() {
		t.Error("restored state differs")
	}
}

func TestFailedSnapshotHarmsNothingAndIsTriedAgain(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	synctest.Test(t, func(t *testing.T) {
		a := newRig(t, disk, "a-1", every(10)).load().lead(1)
		full := a.fault.Inject(filestoretest.Fault{
			Op: filestoretest.Write, Match: func(p string) bool { return strings.HasPrefix(p, "snapshots/") },
			Err: syscall.EIO, Torn: 10, Times: filestoretest.Always,
		})
		for i := range 30 {
			a.propose(fmt.Sprint("word ", i))
		}
		synctest.Wait()
		if len(published(t, disk)) != 0 || full.Struck() != 1 {
			t.Errorf("published %v after %d failures, want none after one", published(t, disk), full.Struck())
		}
		full.Lift()
		time.Sleep(2 * time.Minute)
		a.propose("later")
		synctest.Wait()
		if len(published(t, disk)) != 1 {
			t.Errorf("published %v, want one", published(t, disk))
		}
		a.close()
	})
	newRig(t, disk, "a-2", nil).load().wantCount("later", 1)
}

// A power cut in the middle of a snapshot or of what it makes superfluous.
func TestPowerCutAroundSnapshots(t *testing.T) {
	for seed := range uint64(20) {
		disk := filestoretest.NewPowerCut(t, seed)
		a := newRig(t, disk, "a-1", every(8)).load().run().lead(1)
		for i := range 40 + int(seed) {
			a.propose(fmt.Sprint("word ", i))
			a.fact(fmt.Sprint("fact ", i))
		}
		after := disk.MustCut(t) // while snapshots are under way
		a.close()
		b := newRig(t, after, "a-2", func(o *replication.Options) { every(8)(o); often(o) }).load().run().lead(2)
		for i := range 40 + int(seed) {
			b.wantCount(fmt.Sprint("word ", i), 1)
			fact := fmt.Sprint("fact ", i)
			b.eventually("facts are taken", func() (any, bool) { return fact, b.book.count(fact) > 0 })
			b.wantCount(fact, 1)
		}
		b.propose("end")
		_ = b.stop()
		b.verify()
		b.close()
	}
}

func TestEndedIncarnationsAreForgottenWithTheirFiles(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	name, err := ids.ParseNode("a")
	if err != nil {
		t.Fatal(err)
	}
	live := func(epoch uint64) *rig {
		r := newRig(t, disk, fmt.Sprintf("a-%d", epoch), func(o *replication.Options) { every(20)(o); often(o) })
		held, err := r.store.ClaimIncarnation(t.Context(), filestore.IncarnationOptions{Node: name})
		if err != nil {
			t.Fatal(err)
		}
		if held.Name() != r.o.Incarnation {
			t.Fatalf("claimed %s, want %s", held.Name(), r.o.Incarnation)
		}
		r.load().run().lead(epoch)
		r.fact("fact of " + held.Name())
		r.drained()
		r.grow(3)
		_ = r.stop()
		if err := held.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		return r
	}
	live(1)
	live(2)
	last := live(3)
	last.lead(4)
	last.grow(3)
	last.eventually("only the living has an outbox", func() (any, bool) {
		last.propose(fmt.Sprint("more ", time.Now()))
		left := mustFind(t, disk, "outbox")
		return left, len(left) == 1
	})
	last.eventually("and streams of its own", func() (any, bool) {
		last.propose(fmt.Sprint("more ", time.Now()))
		names := published(t, disk)
		data, err := last.store.ReadFile(t.Context(), path.Join("snapshots", names[len(names)-1], "replication.jsonl"), 1<<20)
		if err != nil {
			return err, false // it may have been replaced meanwhile
		}
		var old []string
		for line := range bytes.Lines(data) {
			var l struct{ Incarnation string }
			if err := json.Unmarshal(line, &l); err != nil {
				t.Fatal(err)
			}
			if l.Incarnation == "a-1" || l.Incarnation == "a-2" {
				old = append(old, l.Incarnation)
			}
		}
		return old, len(old) == 0
	})
	for i := 1; i <= 3; i++ {
		last.wantCount(fmt.Sprintf("fact of a-%d", i), 1)
	}
	_ = last.stop()
	last.verify()
}

func TestBlobsGoWhenNoEntryNamesThem(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	synctest.Test(t, func(t *testing.T) {
		a := newRig(t, disk, "a-1", every(10)).load().lead(1)
		a.propose(strings.Repeat("x", 300<<10))
		write := func(n int) {
			for range n {
				a.propose(fmt.Sprint("word ", time.Now()))
				synctest.Wait()
			}
		}
		write(60)
		if n := len(mustFind(t, disk, "blobs")); n != 1 {
			t.Fatalf("%d blobs within the hour, want 1", n)
		}
		time.Sleep(2 * time.Hour)
		a.propose(strings.Repeat("y", 300<<10))
		write(25)
		names := mustFind(t, disk, "blobs")
		if len(names) != 1 {
			t.Errorf("%d blobs, want only the new one", len(names))
		}
		a.close()
		b := newRig(t, disk, "a-2", nil).load()
		if b.bytes() != a.bytes() {
			t.Error("state differs")
		}
		b.verify()
		b.close()
	})
}

func TestUnknownSectionIsNotDropped(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", every(10)).load().lead(1)
	a.grow(1)
	_ = a.stop()
	b := newRig(t, disk, "a-2", func(o *replication.Options) { o.States = nil })
	wantErr(t, b.node.Load(t.Context()), replication.ErrUnknownKind)
}

func TestConcurrentReadersSeeThePositionMove(t *testing.T) {
	r := newRig(t, filestoretest.NewPowerCut(t, 1), "a-1", every(25)).load().lead(1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for index := uint64(1); index <= 100; index++ {
				if err := r.node.WaitApplied(t.Context(), index); err != nil {
					t.Error(err)
					return
				}
				if _, at, _ := r.node.Position(); at < index {
					t.Errorf("stands at %d after waiting for %d", at, index)
				}
				r.node.Digest()
			}
		})
	}
	for i := range 100 {
		r.propose(fmt.Sprint(i))
	}
	wg.Wait()
}

func TestDamagedOutboxHoldsUpNoSnapshotAndNoOtherFile(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	node, err := ids.ParseNode("a")
	if err != nil {
		t.Fatal(err)
	}
	dead := newRig(t, disk, "a-1", nil)
	held, err := dead.store.ClaimIncarnation(t.Context(), filestore.IncarnationOptions{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	dead.load()
	dead.fact("one")
	name := "outbox/a-1/" + mustFind(t, disk, "outbox/a-1")[0].Name()
	at := size(t, disk, name)
	dead.fact("two")
	dead.fact("three")
	if err := held.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	dead.close()
	damage(t, disk, name, at+25)
	r := newRig(t, disk, "b-1", func(o *replication.Options) { every(20)(o); often(o) }).load().run().lead(1)
	r.grow(4)
	r.eventually("the beginning of the ledger is gone", func() (any, bool) {
		dir := "ledger/" + mustFind(t, disk, "ledger")[0].Name()
		first := mustFind(t, disk, dir)[0].Name()
		return first, first > fmt.Sprintf("%020d", 1)
	})
	r.eventually("two snapshots are left", func() (any, bool) { return published(t, disk), len(published(t, disk)) == 2 })
}
