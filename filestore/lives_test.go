package filestore_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

// holder runs an incarnation as a node does: after a lapse it revives.
type holder struct {
	*filestore.Incarnation
	lapses chan error // of Run, as they happen; room for all of a test
	over   chan error // what ended it
}

func hold(ctx context.Context, i *filestore.Incarnation) *holder {
	h := &holder{i, make(chan error, 100), make(chan error, 1)}
	go func() {
		for {
			err := i.Run(ctx)
			if errors.Is(err, filestore.ErrLeaseLost) {
				h.lapses <- err
				if err = i.Revive(ctx); err == nil {
					continue
				}
			}
			h.over <- err
			return
		}
	}()
	return h
}

// until sleeps in short steps until a condition holds, and returns how long.
func until(t testing.TB, what string, met func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !met() {
		if time.Since(begin) > 10*time.Minute {
			t.Fatalf("waited 10 min for %s", what)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(begin)
}

// only looks at a store with a single incarnation.
func only(t testing.TB, w *filestore.Watcher) filestore.IncarnationInfo {
	t.Helper()
	all, err := w.Look(t.Context())
	check(t, err)
	if len(all) != 1 {
		t.Fatalf("%d incarnations", len(all))
	}
	return all[0]
}

func hangAll(faulty *filestoretest.Faulty) *filestoretest.Injection {
	return faulty.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true})
}

func TestIncarnationOutlivesAHangUnderItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		faulty := filestoretest.NewFaulty(disk)
		ctx, stop := context.WithCancel(t.Context())
		i := start(t, openOn(t, faulty), "fe")
		h := hold(ctx, i)
		time.Sleep(time.Minute)
		before := only(t, openOn(t, disk).Watcher(0, 0)).Heartbeat

		hang := hangAll(faulty)
		wantErr(t, <-h.lapses, filestore.ErrLeaseLost)
		for range 30 {
			time.Sleep(time.Second)
			if i.Valid() {
				t.Fatal("valid while the filestore hangs")
			}
		}
		hang.Lift()
		if took := until(t, "the next life", i.Valid); took > time.Second || i.Life() != 1 || i.Trouble() != nil {
			t.Errorf("valid after %v in life %d, trouble %v", took, i.Life(), i.Trouble())
		}
		info := only(t, openOn(t, disk).Watcher(0, 0))
		if b := info.Heartbeat; b.Life != 1 || b.Counter <= before.Counter || b.Run != before.Run || info.Life != 1 || info.Dead {
			t.Errorf("before %+v\nafter %+v", before, info)
		}
		time.Sleep(5 * time.Minute)
		if !i.Valid() || i.Life() != 1 || len(h.lapses) != 0 {
			t.Errorf("later: valid %v, life %d", i.Valid(), i.Life())
		}
		stop()
		check(t, <-h.over)
		check(t, i.Release(t.Context()))
		begin := time.Now()
		next := start(t, openOn(t, disk), "fe")
		if next.Name() != "fe-2" || next.Life() != 0 || time.Since(begin) != 0 {
			t.Errorf("%s in life %d after %v", next.Name(), next.Life(), time.Since(begin))
		}
		check(t, next.Release(t.Context()))
	})
}

func TestEachLapseIsALifeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		ctx, stop := context.WithCancel(t.Context())
		i := start(t, s, "fe")
		h := hold(ctx, i)
		for life := range uint64(4) {
			hang := hangAll(faulty)
			<-h.lapses
			time.Sleep(time.Minute)
			hang.Lift()
			until(t, "the next life", i.Valid)
			if i.Life() != life+1 {
				t.Errorf("life %d after %d lapses", i.Life(), life+1)
			}
		}
		names, err := s.ReadDir(t.Context(), "nodes/fe")
		check(t, err)
		if len(names) != 5 { // the claim and four ends
			t.Errorf("the node's directory has %v", names)
		}
		stop()
		check(t, <-h.over)
		check(t, i.Release(t.Context()))
	})
}

func TestBuriedIncarnationIsNotRevived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		faulty := filestoretest.NewFaulty(disk)
		i := start(t, openOn(t, faulty), "fe")
		h := hold(limited(t), i)
		master := openOn(t, disk)
		w := master.Watcher(0, 0)
		if info := only(t, w); info.Lapsed || info.Dead {
			t.Fatalf("at first %+v", info)
		} else if err := w.Bury(t.Context(), info); !errors.Is(err, filestore.ErrAlive) {
			t.Errorf("bury the living: %v", err)
		}
		hang := hangAll(faulty)
		var last filestore.IncarnationInfo
		until(t, "the verdict", func() bool { last = only(t, w); return last.Lapsed })
		if i.Valid() || last.Dead || last.Life != 0 {
			t.Errorf("valid %v, judged as %+v", i.Valid(), last)
		}
		wantErr(t, master.SealIncarnation(t.Context(), "fe-1", nil), filestore.ErrAlive)
		check(t, w.Bury(t.Context(), last))
		check(t, w.Bury(t.Context(), last)) // as another master would
		for name, w := range map[string]*filestore.Watcher{"who buried": w, "one that just began": openOn(t, disk).Watcher(0, 0)} {
			if info := only(t, w); !info.Dead || info.Lapsed || info.Sealed || info.Released {
				t.Errorf("%s sees %+v", name, info)
			} else {
				check(t, w.Bury(t.Context(), info))
			}
		}
		check(t, master.SealIncarnation(t.Context(), "fe-1", map[string]int64{"a": 1}))
		if info := only(t, w); !info.Sealed || !info.Dead {
			t.Errorf("sealed, seen as %+v", info)
		}
		hang.Lift()
		wantErr(t, <-h.over, filestore.ErrSealed)
		if i.Valid() || i.Life() != 0 {
			t.Errorf("valid %v, life %d", i.Valid(), i.Life())
		}
		check(t, i.Release(t.Context()))
		begin := time.Now()
		check(t, start(t, openOn(t, disk), "fe").Release(t.Context()))
		if time.Since(begin) != 0 {
			t.Error("waited for a buried predecessor")
		}
	})
}

func TestSuccessorBuriesBeforeItClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		faulty := filestoretest.NewFaulty(disk)
		i := start(t, openOn(t, faulty), "fe")
		h := hold(limited(t), i)
		hang := hangAll(faulty)
		next := start(t, openOn(t, disk), "fe")
		if _, err := disk.Stat("nodes/fe/1.end-0"); err != nil || next.Name() != "fe-2" {
			t.Errorf("%s has begun, its predecessor's end: %v", next.Name(), err)
		}
		hang.Lift()
		wantErr(t, <-h.over, filestore.ErrSealed)
		check(t, next.Release(t.Context()))
	})
}

// The next life's heartbeat may not show yet: from the link on it has its time.
func TestWatcherWhoWasTooLateCountsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		faulty := filestoretest.NewFaulty(disk)
		i := start(t, openOn(t, faulty), "fe")
		h := hold(limited(t), i)
		w := openOn(t, disk).Watcher(0, 0)
		hang := hangAll(faulty)
		var last filestore.IncarnationInfo
		until(t, "the verdict", func() bool { last = only(t, w); return last.Lapsed })

		// It takes its next life and hangs again before it can say so.
		again := faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Path: "nodes/fe/1", Times: filestoretest.Always, Hang: true})
		hang.Lift()
		until(t, "the link", func() bool { _, err := disk.Stat("nodes/fe/1.end-0"); return err == nil })
		wantErr(t, w.Bury(t.Context(), last), filestore.ErrAlive)
		learned := time.Now()
		until(t, "the verdict", func() bool {
			last = only(t, w)
			if last.Life != 1 || last.Heartbeat.Life != 0 || last.Dead || i.Valid() {
				t.Fatalf("seen as %+v, valid %v", last, i.Valid())
			}
			return last.Lapsed
		})
		if took := time.Since(learned); took < 31*time.Second || took > 32*time.Second {
			t.Errorf("judged after %v, want TTL and margin", took)
		}
		check(t, w.Bury(t.Context(), last))
		again.Lift()
		wantErr(t, <-h.over, filestore.ErrSealed)
	})
}

// What a power cut leaves of a burial is all or nothing, and a successor's claim
// never outlives the burial that it stands on.
func TestNoPowerCutBringsABuriedIncarnationBack(t *testing.T) {
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			power := filestoretest.NewPowerCut(t, seed)
			faulty := filestoretest.NewFaulty(power)
			first := start(t, openOn(t, faulty), "fe")
			h := hold(limited(t), first)
			hang := hangAll(faulty)
			second := start(t, openOn(t, power), "fe")
			power = power.MustCut(t)
			hang.Lift()
			all, err := openOn(t, power).Incarnations(t.Context())
			check(t, err)
			if len(all) != 2 || !all[0].Dead || all[0].Released || second.Name() != "fe-2" {
				t.Errorf("seed %d: after the cut %+v", seed, all)
			}
			if _, err := power.Stat("nodes/fe/1.end-0"); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
			if first.Valid() {
				t.Error("buried and valid")
			}
			_ = h
		})
	}
}

func TestAdvertisedAddressIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		ctx, stop := context.WithCancel(t.Context())
		i := start(t, s, "fe")
		h := hold(ctx, i)
		w := openOn(t, faulty).Watcher(0, 0)
		time.Sleep(time.Second)
		for _, addr := range []string{"10.0.0.1:7946", "[::1]:7946", ""} {
			i.Advertise(addr)
			synctest.Wait()
			if got := only(t, w).Heartbeat.Gossip; got != addr {
				t.Errorf("got %q, want %q", got, addr)
			}
		}
		i.Advertise("10.0.0.2:7946")
		synctest.Wait()
		before := only(t, w).Heartbeat.Counter
		i.Advertise("10.0.0.2:7946") // says nothing new
		synctest.Wait()
		if got := only(t, w).Heartbeat.Counter; got != before {
			t.Errorf("%d renewals for an address that did not change", got-before)
		}
		hang := hangAll(faulty)
		<-h.lapses
		i.Advertise("10.0.0.3:7946")
		hang.Lift()
		until(t, "the next life", i.Valid)
		if got := only(t, w).Heartbeat.Gossip; got != "10.0.0.3:7946" {
			t.Errorf("in the next life: %q", got)
		}
		stop()
		check(t, <-h.over)
		check(t, i.Release(t.Context()))
	})
}

func TestKilledProcessOfThisMachineNeedsNoBurial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		killed, next := openOn(t, disk), openOn(t, disk)
		killed.SetProcess(func(p *filestore.Process) { p.Pretend("boot", 7, deadPID(t), 1) })
		next.SetProcess(func(p *filestore.Process) { p.Pretend("boot", 7, os.Getpid(), next.PIDStart()) })
		start(t, killed, "fe")
		info := only(t, next.Watcher(0, 0))
		if !info.Dead || info.Lapsed {
			t.Errorf("seen as %+v", info)
		}
		check(t, next.SealIncarnation(t.Context(), "fe-1", nil))
		check(t, start(t, next, "fe").Release(t.Context()))
		if _, err := disk.Stat("nodes/fe/1.end-0"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("buried: %v", err)
		}
	})
}
