package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

func TestRevivalSurvivesALostAnswer(t *testing.T) {
	for _, lost := range []error{syscall.EIO, syscall.ESTALE, syscall.EEXIST, syscall.ETIMEDOUT} {
		for name, blind := range map[string]bool{"inode seen": false, "inode not seen": true} {
			t.Run(lost.Error()+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, faulty := newFaulty(t)
					ctx, stop := context.WithCancel(t.Context())
					i := start(t, s, "fe")
					h := hold(ctx, i)
					hang := hangAll(faulty)
					<-h.lapses
					hang.Lift()
					reply := faulty.Inject(filestoretest.Fault{Op: filestoretest.Link, Path: "nodes/fe/1.end-0", After: true, Err: lost})
					if blind { // the first try ends without knowing
						faulty.Inject(filestoretest.Fault{Op: filestoretest.Open, Path: "nodes/fe/1.end-0", Times: 4, Err: syscall.EACCES})
					}
					until(t, "the next life", i.Valid)
					if reply.Struck() != 1 || i.Life() != 1 {
						t.Errorf("struck %d, life %d", reply.Struck(), i.Life())
					}
					stop()
					check(t, <-h.over)
					check(t, i.Release(t.Context()))
				})
			})
		}
	}
}

// The lease of a new life counts from before the first try that may have linked:
// who watches may have counted from there.
func TestLifeWhoseBeginTookTooLongIsNotLived(t *testing.T) {
	const link, beat = "nodes/fe/1.end-0", "nodes/fe/1"
	for name, c := range map[string]struct {
		faults []filestoretest.Fault
		life   uint64
	}{
		"link in time":        {[]filestoretest.Fault{{Op: filestoretest.Link, Path: link, After: true, Delay: 29 * time.Second}}, 1},
		"link too late":       {[]filestoretest.Fault{{Op: filestoretest.Link, Path: link, After: true, Delay: 30 * time.Second}}, 2},
		"names not synced":    {[]filestoretest.Fault{{Op: filestoretest.SyncDir, Path: "nodes/fe", Delay: 31 * time.Second}}, 2},
		"heartbeat too late":  {[]filestoretest.Fault{{Op: filestoretest.Sync, Path: beat, After: true, Delay: 31 * time.Second}}, 2},
		"together too late":   {[]filestoretest.Fault{{Op: filestoretest.Link, Path: link, After: true, Delay: 16 * time.Second}, {Op: filestoretest.Sync, Path: beat, Delay: 16 * time.Second}}, 2},
		"first answer lost":   {[]filestoretest.Fault{{Op: filestoretest.Link, Path: link, After: true, Err: syscall.EIO}, {Op: filestoretest.Open, Path: link, Delay: 31 * time.Second, Err: syscall.EIO}}, 2},
		"two lives too short": {[]filestoretest.Fault{{Op: filestoretest.Link, Path: "nodes/fe/1.end-*", Times: 2, Delay: 31 * time.Second}}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, faulty := newFaulty(t)
				ctx, stop := context.WithCancel(t.Context())
				i := start(t, s, "fe")
				h := hold(ctx, i)
				hang := hangAll(faulty)
				<-h.lapses
				hang.Lift()
				for _, fault := range c.faults {
					faulty.Inject(fault)
				}
				until(t, "a life", i.Valid)
				if i.Life() != c.life || len(h.lapses) != 0 {
					t.Errorf("lives in life %d, want %d; %d more lapses", i.Life(), c.life, len(h.lapses))
				}
				stop()
				check(t, <-h.over)
				check(t, i.Release(t.Context()))
			})
		})
	}
}

// A renewal that was abandoned in the last life may land in the next one.
func TestLateHeartbeatOfTheLastLifeHarmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		faulty := filestoretest.NewFaulty(disk)
		ctx, stop := context.WithCancel(t.Context())
		i := start(t, openOn(t, faulty), "fe")
		h := hold(ctx, i)
		w := openOn(t, disk).Watcher(0, 0)
		late := faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Path: "nodes/fe/1", Hang: true})
		<-h.lapses
		until(t, "the next life", i.Valid)
		time.Sleep(time.Minute)
		if got := only(t, w).Heartbeat; got.Life != 1 {
			t.Fatalf("heartbeat %+v", got)
		}
		late.Lift()
		until(t, "the old record", func() bool { return only(t, w).Heartbeat.Life == 0 })
		if info := only(t, w); info.Life != 1 {
			t.Errorf("its life is forgotten: %+v", info)
		}
		_, err := openOn(t, disk).ClaimIncarnation(t.Context(), filestore.IncarnationOptions{Node: node(t, "fe")})
		wantErr(t, err, filestore.ErrNodeRunning)
		if took := until(t, "the new record", func() bool { return only(t, w).Heartbeat.Life == 1 }); took > 8*time.Second {
			t.Errorf("the next renewal took %v", took)
		}
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if info := only(t, w); info.Lapsed || !i.Valid() {
				t.Fatalf("valid %v, seen as %+v", i.Valid(), info)
			}
		}
		stop()
		check(t, <-h.over)
		check(t, i.Release(t.Context()))
	})
}

// A record that goes back is the late write of one that may be dead: no reason to
// tell a successor that the name is in use.
func TestRecordThatGoesBackIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		faulty := filestoretest.NewFaulty(disk)
		ctx, die := context.WithCancel(t.Context())
		i := start(t, openOn(t, faulty), "fe")
		h := hold(ctx, i)
		late := faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Path: "nodes/fe/1", Hang: true})
		<-h.lapses
		until(t, "the next life", i.Valid)
		time.Sleep(time.Minute)
		die()
		check(t, <-h.over)
		time.AfterFunc(5*time.Second, late.Lift)
		begin := time.Now()
		next := start(t, openOn(t, disk), "fe")
		if took := time.Since(begin); took < 36*time.Second || took > 37*time.Second {
			t.Errorf("waited %v, want TTL and margin from the late write on", took)
		}
		check(t, next.Release(t.Context()))
	})
}

// Who decided is not known then: nobody may act as if it were they.
func TestDamagedEndingStopsTheHolderAndDelaysTheOthers(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "torn": `{"incarnation":"fe-1","li`, "state": `{"incarnation":"fe-1","state":"resting"}`,
		"another's": `{"incarnation":"fe-7","state":"buried"}`, "another life's": `{"incarnation":"fe-1","life":3,"state":"buried"}`,
		"too long": `{"incarnation":"fe-1","state":"buried"}` + string(make([]byte, 5000)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := newDisk(t)
				faulty := filestoretest.NewFaulty(disk)
				i := start(t, openOn(t, faulty), "fe")
				h := hold(limited(t), i)
				hang := hangAll(faulty)
				<-h.lapses
				check(t, openOn(t, disk).PublishFile(t.Context(), "nodes/fe/1.end-0", []byte(text)))
				hang.Lift()
				wantErr(t, <-h.over, filestore.ErrSealed)
				begin := time.Now()
				next := start(t, openOn(t, disk), "fe")
				if took := time.Since(begin); took < 31*time.Second || took > 32*time.Second {
					t.Errorf("waited %v, want TTL and margin", took)
				}
				_, err := disk.Stat("nodes/fe/1.end-1")
				check(t, err)
				check(t, next.Release(t.Context()))
			})
		})
	}
}

func FuzzEnding(f *testing.F) {
	f.Add("1.end-0", []byte(`{"incarnation":"fe-1","life":0,"state":"buried","by":"host pid 1","time":"2026-03-01T12:00:00Z"}`))
	f.Add("18446744073709551615.end-18446744073709551615", []byte(`{"life":18446744073709551616}`))
	f.Add("01.end-", []byte(`[]`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if n, life, ok := filestore.ParseEndName(name); ok && fmt.Sprintf("%d.end-%d", n, life) != name {
			t.Errorf("%q reads as %d, %d", name, n, life)
		}
		if err := filestore.ParseEnding(data); err != nil {
			wantErr(t, err, filestore.ErrBadRecord)
		}
	})
}

func TestRevivalThatIsRefusedForLongGivesWayToANewStart(t *testing.T) {
	for name, c := range map[string]struct {
		fault filestoretest.Fault
		want  error
	}{
		"end refused":       {filestoretest.Fault{Op: filestoretest.Link, Path: "nodes/fe/1.end-*", Err: syscall.EACCES}, syscall.EACCES},
		"heartbeat refused": {filestoretest.Fault{Op: filestoretest.Write, Path: "nodes/fe/1", Err: syscall.EIO}, syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, faulty := newFaulty(t)
				i := start(t, s, "fe")
				c.fault.Times = filestoretest.Always
				faulty.Inject(c.fault)
				hang := faulty.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true})
				h := hold(limited(t), i)
				<-h.lapses
				hang.Lift()
				begin := time.Now()
				wantErr(t, <-h.over, filestore.ErrLeaseLost, c.want)
				if took := time.Since(begin); took < 25*time.Second || took > 35*time.Second {
					t.Errorf("gave up after %v, want about the TTL", took)
				}
				if i.Valid() {
					t.Error("valid")
				}
				faulty.Clear()
				// A later call counts what the first one did: the life that it began is over.
				time.Sleep(10 * time.Second)
				check(t, i.Revive(t.Context()))
				if !i.Valid() || name == "heartbeat refused" && i.Life() != 2 {
					t.Errorf("valid %v, life %d", i.Valid(), i.Life())
				}
				check(t, i.Release(t.Context()))
			})
		})
	}
}

func TestRevivalEndsWhenTheClaimIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		faulty := filestoretest.NewFaulty(disk)
		i := start(t, openOn(t, faulty), "fe")
		h := hold(limited(t), i)
		hang := hangAll(faulty)
		<-h.lapses
		check(t, openOn(t, disk).ReplaceFile(t.Context(), "nodes/fe/1", []byte("somebody's")))
		hang.Lift()
		wantErr(t, <-h.over, filestore.ErrSealed)
	})
}

func TestRevivalWaitsForAReadOnlyStoreAndEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		ctx, stop := context.WithCancel(t.Context())
		i := start(t, s, "fe")
		h := hold(ctx, i)
		for _, op := range []filestoretest.Op{filestoretest.Create, filestoretest.Write, filestoretest.Link} {
			faulty.Inject(filestoretest.Fault{Op: op, Times: filestoretest.Always, Err: syscall.EROFS})
		}
		<-h.lapses
		time.Sleep(time.Hour)
		if len(h.over) != 0 || i.Life() != 0 {
			t.Errorf("did not wait: life %d", i.Life())
		}
		if _, err := faulty.Stat("nodes/fe/1.end-0"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an end was written: %v", err)
		}
		stop()
		wantErr(t, <-h.over, context.Canceled)
		check(t, i.Release(t.Context()))
		faulty.Clear()
	})
}
