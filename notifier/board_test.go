package notifier_test

import (
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"raptorpack/ids"
	"raptorpack/notifier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t testing.TB, n int) ids.Client {
	t.Helper()
	c, err := ids.ParseClient(fmt.Sprintf("C.%016x", n))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rang(s notifier.Signal) bool {
	select {
	case <-s:
		return true
	default:
		return false
	}
}

func TestWakeRingsOnlyTheClientsBell(t *testing.T) {
	b := notifier.New(nil)
	one, oneBell := b.Register(ids.RootOrg, client(t, 1))
	_, twoBell := b.Register(ids.RootOrg, client(t, 2))
	defer one.Close()

	for range 2 {
		if !b.Wake(ids.RootOrg, client(t, 1)) {
			t.Fatal("wake did not find the connection")
		}
	}
	if !rang(oneBell) || rang(oneBell) {
		t.Error("two wakes must leave exactly one signal")
	}
	if rang(twoBell) {
		t.Error("the other client was woken")
	}
	if b.Wake(ids.RootOrg, client(t, 3)) {
		t.Error("woke a client that is not here")
	}
}

func TestOrgsAreApart(t *testing.T) {
	b := notifier.New(nil)
	org, err := ids.ParseOrg("O123")
	if err != nil {
		t.Fatal(err)
	}
	_, bell := b.Register(org, client(t, 1))
	if b.Wake(ids.RootOrg, client(t, 1)) || rang(bell) || b.Connected(ids.RootOrg, client(t, 1)) {
		t.Error("a client of another org was taken for it")
	}
}

func TestNewestConnectionWinsAndOlderIsTold(t *testing.T) {
	b := notifier.New(nil)
	old, oldBell := b.Register(ids.RootOrg, client(t, 1))
	fresh, freshBell := b.Register(ids.RootOrg, client(t, 1))
	if !old.Replaced() || !rang(oldBell) || fresh.Replaced() {
		t.Fatal("the older connection was not told, or the newer was")
	}
	old.Close() // late: must not remove the newer one
	if !b.Connected(ids.RootOrg, client(t, 1)) || b.Count() != 1 {
		t.Fatal("closing a replaced waiter removed its successor")
	}
	b.Wake(ids.RootOrg, client(t, 1))
	if rang(oldBell) || !rang(freshBell) {
		t.Error("the wake went to the older connection")
	}
	fresh.Close()
	fresh.Close()
	if b.Count() != 0 || b.Connected(ids.RootOrg, client(t, 1)) {
		t.Error("closed connection is still counted")
	}
}

func TestChangesReportEachClientOnceAsItStands(t *testing.T) {
	b := notifier.New(nil)
	early, _ := b.Register(ids.RootOrg, client(t, 1))
	signal := b.Track()
	if !rang(signal) {
		t.Fatal("clients that were there before must count as changed")
	}
	if got := b.Changes(); len(got) != 1 || !got[0].Connected {
		t.Fatalf("first changes: %v", got)
	}
	w, _ := b.Register(ids.RootOrg, client(t, 2))
	w.Close()
	early.Close()
	b.Register(ids.RootOrg, client(t, 3))
	if !rang(signal) {
		t.Fatal("no signal after changes")
	}
	want := map[ids.Client]bool{client(t, 1): false, client(t, 2): false, client(t, 3): true}
	got := b.Changes()
	for _, c := range got {
		if want[c.Client] != c.Connected {
			t.Errorf("%s connected = %v", c.Client, c.Connected)
		}
	}
	if len(got) != len(want) || len(b.Changes()) != 0 {
		t.Errorf("%d changes, then more; want %d, then none", len(got), len(want))
	}
}

func TestConcurrentComingsAndGoingsKeepCount(t *testing.T) {
	b := notifier.New(nil)
	b.Track()
	var done sync.WaitGroup
	for g := range 8 {
		done.Go(func() {
			for i := range 500 {
				w, _ := b.Register(ids.RootOrg, client(t, i%50))
				b.Wake(ids.RootOrg, client(t, (i+g)%50))
				w.Close()
			}
		})
	}
	done.Wait()
	listed := 0
	for range b.All() {
		listed++
	}
	if b.Count() != 0 || listed != 0 {
		t.Errorf("count %d, listed %d after all left", b.Count(), listed)
	}
}

func BenchmarkRegisterWakeClose(b *testing.B) {
	board := notifier.New(nil)
	board.Track()
	c := client(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		w, _ := board.Register(ids.RootOrg, c)
		board.Wake(ids.RootOrg, c)
		w.Close()
	}
}
