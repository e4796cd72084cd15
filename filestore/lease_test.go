package filestore_test

import (
	"context"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

// campaign makes a store lead, and fails the test if it does not.
func campaign(t testing.TB, s *filestore.Store) *filestore.Term {
	t.Helper()
	term, err := s.Candidate(filestore.CandidateOptions{}).Campaign(t.Context())
	check(t, err)
	return term
}

func TestFirstCandidateLeadsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		s, faulty := newFaulty(t)
		newest, err := s.NewestEpoch(t.Context())
		check(t, err)
		if newest != 0 {
			t.Errorf("newest epoch of an empty store is %d", newest)
		}
		term := campaign(t, s)
		if term.Epoch() != 1 || !term.Valid() || time.Since(begin) != 0 {
			t.Errorf("epoch %d, valid %v, after %v", term.Epoch(), term.Valid(), time.Since(begin))
		}
		wantNoTemp(t, faulty, "lease")
		check(t, term.Release(t.Context()))
	})
}

func TestCleanHandOverTakesLessThanASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		first := campaign(t, openOn(t, disk))
		stop := running(t, first.Keep)
		next := make(chan *filestore.Term, 1) // one answer
		standby := openOn(t, disk)
		go func() { next <- campaign(t, standby) }()
		time.Sleep(time.Minute)
		if len(next) != 0 || !first.Valid() {
			t.Fatal("a kept lease was taken")
		}
		check(t, stop())
		begin := time.Now()
		check(t, first.Release(t.Context()))
		second := <-next
		if took := time.Since(begin); second.Epoch() != 2 || took > 300*time.Millisecond {
			t.Errorf("epoch %d after %v", second.Epoch(), took)
		}
		check(t, second.Release(t.Context()))
	})
}

func TestStandbyLeadsSoonAfterTheMasterDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		first := campaign(t, openOn(t, disk))
		stop := running(t, first.Keep)
		next := make(chan *filestore.Term, 1) // one answer
		standby := openOn(t, disk)
		go func() { next <- campaign(t, standby) }()
		time.Sleep(30*time.Second + time.Millisecond)
		check(t, stop()) // dies: nothing is released
		begin := time.Now()
		second := <-next
		took := time.Since(begin)
		if first.Valid() {
			t.Error("two masters")
		}
		if took > 6*time.Second {
			t.Errorf("took %v, want TTL + 2 s at most", took)
		}
		check(t, second.Release(t.Context()))
	})
}

func TestKilledMasterOfThisMachineCostsNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		killed, next := openOn(t, disk), openOn(t, disk)
		killed.SetProcess(func(p *filestore.Process) { p.Pretend("boot", 7, deadPID(t), 1) })
		next.SetProcess(func(p *filestore.Process) { p.Pretend("boot", 7, os.Getpid(), next.PIDStart()) })
		campaign(t, killed)
		begin := time.Now()
		term := campaign(t, next)
		if term.Epoch() != 2 || time.Since(begin) != 0 {
			t.Errorf("epoch %d after %v", term.Epoch(), time.Since(begin))
		}
		check(t, term.Release(t.Context()))
	})
}

func TestPausedMasterWakesDeposed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		pausing := filestoretest.NewFaulty(disk)
		old := campaign(t, openOn(t, pausing))
		lost := make(chan error, 1) // one answer
		go func() { lost <- old.Keep(limited(t)) }()
		time.Sleep(10 * time.Second)
		pause := pausing.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true})
		next := campaign(t, openOn(t, disk))
		stop := running(t, next.Keep)
		if old.Valid() {
			t.Error("two masters")
		}
		time.Sleep(10 * time.Second)
		pause.Lift() // its late renewal lands now, in its own record
		wantErr(t, <-lost, filestore.ErrLeaseLost)
		time.Sleep(time.Minute)
		if old.Valid() || !next.Valid() {
			t.Errorf("old valid %v, new valid %v", old.Valid(), next.Valid())
		}
		_, err := old.SealLedger(t.Context(), 0, 1, 1, [32]byte{})
		wantErr(t, err, filestore.ErrLeaseLost)
		check(t, old.Release(t.Context()))
		check(t, stop())
		check(t, next.Release(t.Context()))
	})
}

func TestMasterThatFindsAHigherEpochStepsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// As after a pause in which this machine's clocks stood still.
		s, faulty := newFaulty(t)
		term := campaign(t, s)
		check(t, faulty.Link("lease/epoch-1", "lease/epoch-2"))
		begin := time.Now()
		wantErr(t, term.Keep(limited(t)), filestore.ErrLeaseLost)
		if took := time.Since(begin); took > 2*time.Second || term.Valid() {
			t.Errorf("noticed after %v, valid %v", took, term.Valid())
		}
	})
}

func TestLostLinkReplyIsStillAClaim(t *testing.T) {
	for _, lost := range []error{syscall.EIO, syscall.ESTALE, syscall.EEXIST, syscall.ETIMEDOUT} {
		synctest.Test(t, func(t *testing.T) {
			s, faulty := newFaulty(t)
			faulty.Inject(filestoretest.Fault{Op: filestoretest.Link, Path: "lease/epoch-1", After: true, Err: lost})
			term := campaign(t, s)
			if term.Epoch() != 1 || !term.Valid() {
				t.Errorf("%v: epoch %d, valid %v", lost, term.Epoch(), term.Valid())
			}
			check(t, term.Release(t.Context()))
		})
	}
}

func TestClaimThatTookTooLongIsNotLed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Link, Path: "lease/epoch-1", After: true, Delay: 5 * time.Second})
		term := campaign(t, s)
		if term.Epoch() != 2 || !term.Valid() {
			t.Errorf("epoch %d, valid %v, want a second one", term.Epoch(), term.Valid())
		}
		check(t, term.Release(t.Context()))
	})
}

func TestCampaignOutlastsAnAilingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		check(t, campaign(t, s).Release(t.Context()))
		candidate := s.Candidate(filestore.CandidateOptions{})
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Open, Path: "lease/epoch-1", Times: 20, Err: syscall.EIO})
		faulty.Inject(filestoretest.Fault{Op: filestoretest.ReadDir, Path: "lease", Skip: 1, Times: 20, Err: syscall.ESTALE})
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Path: "lease/*", Skip: 2, Times: 2, Err: syscall.ENOSPC})
		term, err := candidate.Campaign(t.Context())
		check(t, err)
		if term.Epoch() != 2 {
			t.Errorf("epoch %d, want 2", term.Epoch())
		}
		check(t, term.Release(t.Context()))
	})
}

func TestCampaignEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		term := campaign(t, openOn(t, disk))
		stop := running(t, term.Keep)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := openOn(t, disk).Candidate(filestore.CandidateOptions{}).Campaign(ctx)
		wantErr(t, err, context.DeadlineExceeded)
		check(t, stop())
		check(t, term.Release(t.Context()))
	})
}

func TestHungMountNeitherClaimsNorKeepsUntilItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		term := campaign(t, s)
		hang := faulty.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true})
		begin := time.Now()
		wantErr(t, term.Keep(limited(t)), filestore.ErrLeaseLost)
		if took := time.Since(begin); took != 4*time.Second {
			t.Errorf("lost after %v, want 4s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := s.Candidate(filestore.CandidateOptions{}).Campaign(ctx)
		wantErr(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Minute, hang.Lift)
		next := campaign(t, s)
		if next.Epoch() != 2 {
			t.Errorf("epoch %d, want 2", next.Epoch())
		}
		check(t, next.Release(t.Context()))
	})
}

func TestTornHeartbeatOfADeadMasterStandsStillToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		campaign(t, s)
		f, err := faulty.OpenWrite("lease/epoch-1")
		check(t, err)
		_, err = f.WriteAt([]byte("torn"), 100)
		check(t, err)
		check(t, f.Close())
		_, err = s.EpochHeartbeat(t.Context(), 1)
		wantErr(t, err, filestore.ErrBadRecord)
		begin := time.Now()
		term := campaign(t, s)
		if took := time.Since(begin); took < 5*time.Second || term.Epoch() != 2 {
			t.Errorf("epoch %d after %v", term.Epoch(), took)
		}
		beat, err := s.EpochHeartbeat(t.Context(), 2)
		check(t, err)
		if beat.Counter != 1 || beat.TTL != 4*time.Second || beat.PID != os.Getpid() {
			t.Errorf("heartbeat %+v", beat)
		}
		check(t, term.Release(t.Context()))
	})
}

func TestFirstLedgerSealStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		s := openOn(t, disk)
		check(t, campaign(t, s).Release(t.Context()))
		second := campaign(t, s)
		_, err := s.LedgerSeal(t.Context(), 1)
		wantErr(t, err, fs.ErrNotExist)
		chain := [32]byte{1, 2, 3}
		seal, err := second.SealLedger(t.Context(), 1, 1000, 17, chain)
		check(t, err)
		want := filestore.LedgerSeal{Epoch: 1, By: 2, Length: 1000, LastIndex: 17, Chain: chain}
		if *seal != want {
			t.Errorf("got %+v, want %+v", *seal, want)
		}
		for _, epoch := range []uint64{2, 3} {
			_, err = second.SealLedger(t.Context(), epoch, 0, 0, chain)
			wantErr(t, err, fs.ErrInvalid)
		}
		check(t, second.Release(t.Context()))
		third := campaign(t, openOn(t, disk))
		seal, err = third.SealLedger(t.Context(), 1, 2000, 18, [32]byte{})
		check(t, err)
		if *seal != want {
			t.Errorf("a later seal won: %+v", *seal)
		}
		check(t, third.Release(t.Context()))
	})
}

func TestDamagedSealsAreTold(t *testing.T) {
	s, _ := newFaulty(t)
	for i, text := range []string{"", "{", `{"epoch":1,"chain":"00"}`, `{"epoch":9}`, `[]`, `{"epoch":1,"length":-1,"chain":""}`} {
		check(t, s.ReplaceFile(t.Context(), "lease/seal-1", []byte(text)))
		if _, err := s.LedgerSeal(t.Context(), 1); err == nil {
			t.Errorf("ledger seal %d read well", i)
		} else {
			wantErr(t, err, filestore.ErrBadRecord)
		}
		check(t, s.ReplaceFile(t.Context(), "nodes/a/1.seal", []byte(text)))
		_, err := s.ReadSeal(t.Context(), "a-1")
		wantErr(t, err, filestore.ErrBadRecord)
	}
}
