package filestore_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
)

func node(t testing.TB, name string) ids.Node {
	t.Helper()
	n, err := ids.ParseNode(name)
	check(t, err)
	return n
}

// start claims the next incarnation of a node.
func start(t testing.TB, s *filestore.Store, name string) *filestore.Incarnation {
	t.Helper()
	i, err := s.ClaimIncarnation(t.Context(), filestore.IncarnationOptions{Node: node(t, name)})
	check(t, err)
	return i
}

// limited returns a context that ends what should have ended long before. For
// bubbles.
func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// running runs f and returns what stops it and what it returned.
func running(t testing.TB, f func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1) // one answer
	go func() { done <- f(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func TestFirstStartAndCleanRestartDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		begin := time.Now()
		first := start(t, openOn(t, disk), "fe")
		if first.Name() != "fe-1" || !first.Valid() {
			t.Errorf("got %s, valid %v", first.Name(), first.Valid())
		}
		stop := running(t, first.Run)
		synctest.Wait()
		check(t, stop())
		check(t, first.Release(t.Context()))
		if first.Valid() {
			t.Error("valid after release")
		}
		second := start(t, openOn(t, disk), "fe")
		if second.Name() != "fe-2" {
			t.Errorf("got %s, want fe-2", second.Name())
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		check(t, second.Release(t.Context()))
	})
}

func TestNodeNameInUseIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		first := start(t, openOn(t, disk), "fe")
		stop := running(t, first.Run)
		_, err := openOn(t, disk).ClaimIncarnation(t.Context(), filestore.IncarnationOptions{Node: node(t, "fe")})
		wantErr(t, err, filestore.ErrNodeRunning)
		var who *filestore.NodeRunningError
		host, _ := os.Hostname()
		if !errors.As(err, &who) || who.PID != os.Getpid() || who.Host != host || who.Since.IsZero() || who.Node != "fe" {
			t.Errorf("refusal does not say who runs: %v", err)
		}
		other := start(t, openOn(t, disk), "fe-2") // another name is free
		check(t, other.Release(t.Context()))
		check(t, stop())
		check(t, first.Release(t.Context()))
	})
}

func TestSilentPredecessorIsWaitedForByTheWatchersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		first := start(t, openOn(t, disk), "fe") // never renews, as if its machine were gone
		time.Sleep(20 * time.Second)             // nobody watched: does not count
		begin := time.Now()
		second := start(t, openOn(t, disk), "fe")
		if waited := time.Since(begin); waited < 31*time.Second || waited > 32*time.Second {
			t.Errorf("waited %v, want TTL + margin", waited)
		}
		if first.Valid() {
			t.Error("the silent one believes to be valid")
		}
		wantErr(t, first.Run(limited(t)), filestore.ErrLeaseLost)
		check(t, second.Release(t.Context()))
	})
}

// deadPID returns the id of a process that has ended.
func deadPID(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("true")
	check(t, cmd.Run())
	return cmd.Process.Pid
}

func TestKilledPredecessorOfThisMachineCostsNoWait(t *testing.T) {
	const boot = "some-boot"
	self, dead := os.Getpid(), deadPID(t)
	cases := map[string]struct {
		boot       string
		namespace  uint64
		pid        int
		start      uint64 // added to the real one
		waitsAtAll bool
	}{
		"pid is gone":               {boot, 7, dead, 0, false},
		"pid was taken anew":        {boot, 7, self, 1, false},
		"runs or hangs":             {boot, 7, self, 0, true},
		"other boot":                {"other-boot", 7, dead, 0, true},
		"other pid namespace":       {boot, 8, dead, 0, true},
		"pid namespace not known":   {boot, 0, dead, 0, true},
		"boot not known":            {"", 7, dead, 0, true},
		"both not known, same host": {"", 0, dead, 0, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := newDisk(t)
				killed := openOn(t, disk)
				killed.SetProcess(func(p *filestore.Process) { p.Pretend(c.boot, c.namespace, c.pid, killed.PIDStart()+c.start) })
				start(t, killed, "fe")
				next := openOn(t, disk)
				next.SetProcess(func(p *filestore.Process) { p.Pretend(boot, 7, self, next.PIDStart()) })
				begin := time.Now()
				check(t, start(t, next, "fe").Release(t.Context()))
				if waited := time.Since(begin); (waited > 0) != c.waitsAtAll {
					t.Errorf("waited %v", waited)
				}
			})
		})
	}
}

func TestNoPowerCutLetsANumberBeUsedTwice(t *testing.T) {
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			power := filestoretest.NewPowerCut(t, seed)
			first := start(t, openOn(t, power), "fe")
			stop := running(t, first.Run)
			time.Sleep(time.Minute)
			power = power.MustCut(t)
			second := start(t, openOn(t, power), "fe")
			if second.Name() != "fe-2" {
				t.Errorf("seed %d: got %s after a cut", seed, second.Name())
			}
			_ = stop() // its files are gone
			check(t, second.Release(t.Context()))
		})
	}
}

func TestSimultaneousStartsGiveOneIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		var mu sync.Mutex
		var winners []*filestore.Incarnation
		var all sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range 4 {
			s := openOn(t, disk)
			all.Go(func() {
				i, err := s.ClaimIncarnation(ctx, filestore.IncarnationOptions{Node: node(t, "fe")})
				if err != nil {
					wantErr(t, err, filestore.ErrNodeRunning)
					return
				}
				mu.Lock()
				winners = append(winners, i)
				mu.Unlock()
				check(t, i.Run(ctx))
			})
		}
		time.Sleep(2 * time.Minute)
		cancel()
		all.Wait()
		if len(winners) != 1 {
			t.Errorf("%d winners, want 1", len(winners))
		}
	})
}

func TestSealedIncarnationExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		s := openOn(t, disk)
		i := start(t, s, "fe")
		done := make(chan error, 1) // one answer
		go func() { done <- i.Run(limited(t)) }()
		lengths := map[string]int64{"hunts/H.1/results/A/fe-1.jsonl.gz": 77}
		wantErr(t, openOn(t, disk).SealIncarnation(t.Context(), "fe-1", lengths), filestore.ErrAlive)
		time.Sleep(time.Minute)
		if !i.Valid() {
			t.Error("lost its lease by a seal that was refused")
		}
		// As after a pause in which this machine's clocks stood still.
		check(t, s.PublishFile(t.Context(), "nodes/fe/1.end-0", []byte(`{"incarnation":"fe-1","state":"buried"}`)))
		check(t, openOn(t, disk).SealIncarnation(t.Context(), "fe-1", lengths))
		wantErr(t, s.SealIncarnation(t.Context(), "fe-1", nil), filestore.ErrExists)
		wantErr(t, <-done, filestore.ErrSealed)
		if i.Valid() {
			t.Error("sealed and valid")
		}
		seal, err := s.ReadSeal(t.Context(), "fe-1")
		check(t, err)
		if len(seal.Lengths) != 1 || seal.Lengths["hunts/H.1/results/A/fe-1.jsonl.gz"] != 77 || seal.Incarnation != "fe-1" {
			t.Errorf("got seal %+v", seal)
		}
		_, err = s.ReadSeal(t.Context(), "fe-9")
		wantErr(t, err, fs.ErrNotExist)
		begin := time.Now()
		check(t, start(t, openOn(t, disk), "fe").Release(t.Context()))
		if time.Since(begin) != 0 {
			t.Error("waited for a sealed predecessor")
		}
	})
}

func TestIncarnationThatFindsItsSuccessorExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// As after a pause in which this machine's clocks stood still.
		s, faulty := newFaulty(t)
		i := start(t, s, "fe")
		check(t, faulty.Link("nodes/fe/1", "nodes/fe/2"))
		wantErr(t, i.Run(limited(t)), filestore.ErrSealed)
		if i.Valid() {
			t.Error("succeeded and valid")
		}
	})
}

func TestHungIncarnationLosesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		paused := filestoretest.NewFaulty(disk)
		i := start(t, openOn(t, paused), "fe")
		pause := paused.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true})
		done := make(chan error, 1) // one answer
		go func() { done <- i.Run(limited(t)) }()
		next := start(t, openOn(t, disk), "fe")
		wantErr(t, <-done, filestore.ErrLeaseLost)
		pause.Lift()
		check(t, next.Release(t.Context()))
	})
}

// Nobody may take the files of such a one for complete.
func TestIncarnationThatLostItsLeaseOrStillWritesIsNotReleased(t *testing.T) {
	released := func(t *testing.T, s *filestore.Store) bool {
		t.Helper()
		all, err := s.Incarnations(t.Context())
		check(t, err)
		if len(all) != 1 {
			t.Fatalf("%d incarnations", len(all))
		}
		return all[0].Released
	}
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		i := start(t, s, "fe")
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Times: filestoretest.Always, Err: syscall.EROFS})
		wantErr(t, i.Run(limited(t)), filestore.ErrLeaseLost)
		awaited := make(chan struct{})
		go func() { defer close(awaited); i.Await(t.Context()) }()
		time.Sleep(time.Hour)
		select {
		case <-awaited:
			t.Error("a store that takes nothing counts as one that is back")
		default:
		}
		faulty.Clear()
		<-awaited
		check(t, i.Release(t.Context()))
		if released(t, s) {
			t.Error("released without a lease")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		i := start(t, s, "fe")
		late := faulty.Inject(filestoretest.Fault{Op: filestoretest.Mkdir, Hang: true})
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantErr(t, s.MkdirAll(impatient, "late"), filestore.ErrAbandoned)
		check(t, i.Release(t.Context()))
		if released(t, s) || i.Valid() {
			t.Error("released while a call was under way")
		}
		late.Lift()
	})
}

func TestIncarnationSurvivesAFailedRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		i := start(t, s, "fe")
		stop := running(t, i.Run)
		failed := faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "nodes/fe/1", Times: 2, Err: syscall.EIO, Drop: true})
		time.Sleep(time.Minute)
		if failed.Struck() != 2 || !i.Valid() {
			t.Errorf("struck %d times, valid %v", failed.Struck(), i.Valid())
		}
		check(t, stop())
		check(t, i.Release(t.Context()))
	})
}

func TestTroubleWithTheHeartbeatIsToldHalfWayToTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		fault filestoretest.Fault
		want  string
	}{
		"refused":   {filestoretest.Fault{Op: filestoretest.Write, Err: syscall.EROFS}, "filestore is read-only"},
		"no answer": {filestoretest.Fault{Op: filestoretest.Write, Hang: true}, "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, faulty := newFaulty(t)
				i := start(t, s, "fe")
				stop := running(t, i.Run)
				time.Sleep(time.Minute + time.Second) // just after a renewal
				c.fault.Path, c.fault.Times = "nodes/fe/1", filestoretest.Always
				fault := faulty.Inject(c.fault)
				time.Sleep(13 * time.Second)
				if err := i.Trouble(); err != nil {
					t.Errorf("told before half of the lease has passed: %v", err)
				}
				time.Sleep(4 * time.Second)
				if err := i.Trouble(); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "nodes/fe/1") || !i.Valid() {
					t.Errorf("trouble %v, valid %v", err, i.Valid())
				}
				fault.Lift()
				time.Sleep(10 * time.Second)
				if err := i.Trouble(); err != nil || !i.Valid() {
					t.Errorf("afterwards: %v, valid %v", err, i.Valid())
				}
				check(t, stop())
				check(t, i.Release(t.Context()))
			})
		})
	}
}

func TestLateRenewalDoesNotCount(t *testing.T) {
	for _, op := range []filestoretest.Op{filestoretest.Write, filestoretest.Sync} {
		synctest.Test(t, func(t *testing.T) {
			s, faulty := newFaulty(t)
			i := start(t, s, "fe")
			faulty.Inject(filestoretest.Fault{Op: op, Path: "nodes/fe/1", After: true, Delay: 31 * time.Second})
			begin := time.Now()
			wantErr(t, i.Run(limited(t)), filestore.ErrLeaseLost)
			if took := time.Since(begin); took != 30*time.Second {
				t.Errorf("gave up after %v, want 30s", took)
			}
			time.Sleep(time.Minute) // the renewal completes now
			if i.Valid() {
				t.Error("a late renewal revived the lease")
			}
		})
	}
}

func TestLeaseThatRanOutIsNeverExtended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// As when the whole process was stopped between a sync and its return.
		s, _ := newFaulty(t)
		i := start(t, s, "fe")
		time.Sleep(30 * time.Second)
		if filestore.ExtendNow(i) || i.Valid() {
			t.Error("extended after its end")
		}
	})
}

func TestExpiryCountsFromBeforeTheRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		i := start(t, s, "fe")
		// Renewal begins at 7.5 s and completes at 27.5 s: it lasts until 37.5 s.
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "nodes/fe/1", After: true, Delay: 20 * time.Second})
		hung := faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Path: "nodes/fe/1", Skip: 1, Times: filestoretest.Always, Hang: true})
		begin := time.Now()
		wantErr(t, i.Run(limited(t)), filestore.ErrLeaseLost)
		if took := time.Since(begin); took != 37500*time.Millisecond {
			t.Errorf("lease lasted %v, want 37.5s", took)
		}
		hung.Lift()
	})
}

func TestWatcherJudgesByItsOwnClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		watching := openOn(t, disk)
		live, dead, clean := start(t, openOn(t, disk), "live"), start(t, openOn(t, disk), "dead"), start(t, openOn(t, disk), "clean")
		stop := running(t, live.Run)
		check(t, clean.Release(t.Context()))
		time.Sleep(2 * time.Minute)
		if dead.Valid() {
			t.Error("the silent one is valid")
		}
		w := watching.Watcher(0, 0)
		judge := func() map[string]bool {
			all, err := w.Look(t.Context())
			check(t, err)
			verdict := map[string]bool{}
			for _, info := range all {
				verdict[info.Name] = info.Dead || info.Lapsed
				if info.Released != (info.Name == "clean-1") {
					t.Errorf("%s: released %v", info.Name, info.Released)
				}
			}
			return verdict
		}
		final := func() map[string]bool {
			all, err := w.Look(t.Context())
			check(t, err)
			dead := map[string]bool{}
			for _, info := range all {
				dead[info.Name] = info.Dead
			}
			return dead
		}
		if got := judge(); got["live-1"] || got["dead-1"] || !got["clean-1"] {
			t.Errorf("first look: %v", got)
		}
		for range 10 {
			time.Sleep(3 * time.Second)
			if got := judge(); got["dead-1"] {
				t.Errorf("judged too early: %v", got)
			}
		}
		time.Sleep(time.Second)
		if got := judge(); got["live-1"] || !got["dead-1"] {
			t.Errorf("after TTL and margin: %v", got)
		}
		if got := final(); got["live-1"] || got["dead-1"] || !got["clean-1"] {
			t.Errorf("dead for good before anybody is buried: %v", got)
		}
		check(t, stop())
		check(t, live.Release(t.Context()))
	})
}

func TestIncarnationsListsAll(t *testing.T) {
	s, _ := newFaulty(t)
	all, err := s.Incarnations(t.Context())
	check(t, err)
	if len(all) != 0 {
		t.Errorf("empty store lists %v", all)
	}
	for range 11 {
		check(t, start(t, s, "a-b").Release(t.Context()))
	}
	check(t, s.SealIncarnation(t.Context(), "a-b-3", map[string]int64{}))
	all, err = s.Incarnations(t.Context())
	check(t, err)
	if len(all) != 11 {
		t.Fatalf("%d incarnations, want 11", len(all))
	}
	for i, info := range all {
		if info.N != uint64(i+1) || info.Node.String() != "a-b" || info.Heartbeat.Counter != 2 || !info.Released || info.Sealed != (info.N == 3) {
			t.Errorf("got %+v at %d", info, i)
		}
	}
}

func TestIncarnationNamesReadBack(t *testing.T) {
	n, i, err := filestore.SplitIncarnation("a-b.c-17")
	check(t, err)
	if n.String() != "a-b.c" || i != 17 {
		t.Errorf("got %s, %d", n, i)
	}
	for _, bad := range []string{"", "a", "a-", "-1", "a-0", "a-01", "a-x", "a-1-", "../a-1", "A-1", "a-18446744073709551616"} {
		_, _, err := filestore.SplitIncarnation(bad)
		wantErr(t, err, ids.ErrInvalid)
	}
}

func TestClaimNeedsANodeName(t *testing.T) {
	s, _ := newFaulty(t)
	_, err := s.ClaimIncarnation(t.Context(), filestore.IncarnationOptions{})
	wantErr(t, err, ids.ErrInvalid)
}
