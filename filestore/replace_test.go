package filestore_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

func TestReplaceFileIsWholeOrNotAtAll(t *testing.T) {
	s, faulty := newFaulty(t)
	check(t, s.ReplaceFile(t.Context(), "d/view.json", []byte("old")))
	for _, fault := range []filestoretest.Fault{
		{Op: filestoretest.Write, Torn: 1},
		{Op: filestoretest.Write, Err: syscall.EIO},
		{Op: filestoretest.Sync, Err: syscall.EIO, Drop: true},
		{Op: filestoretest.Create, Err: syscall.EACCES},
		{Op: filestoretest.Rename, Err: syscall.EPERM},
	} {
		faulty.Inject(fault)
		if err := s.ReplaceFile(t.Context(), "d/view.json", []byte("new")); err == nil {
			t.Errorf("%+v went unnoticed", fault)
		}
		faulty.Clear()
		wantFile(t, s, "d/view.json", "old")
	}
	check(t, s.ReplaceFile(t.Context(), "d/view.json", []byte("new")))
	wantFile(t, s, "d/view.json", "new")
	wantNoTemp(t, faulty, "d")
}

// wantNoTemp checks that no unfinished file stayed behind.
func wantNoTemp(t *testing.T, fsys filestore.FS, dir string) {
	t.Helper()
	entries, err := fsys.ReadDir(dir)
	check(t, err)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			t.Errorf("%s stayed behind", entry.Name())
		}
	}
}

func TestLostAnswersOfNameChangesAreResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		for _, lost := range []error{syscall.EIO, syscall.ESTALE, syscall.ETIMEDOUT, fs.ErrExist, fs.ErrNotExist} {
			faulty.Inject(filestoretest.Fault{Op: filestoretest.Link, After: true, Err: lost})
			faulty.Inject(filestoretest.Fault{Op: filestoretest.Rename, After: true, Err: lost})
			name := fmt.Sprintf("p/%v", lost)
			check(t, s.PublishFile(t.Context(), name, []byte("mine")))
			wantFile(t, s, name, "mine")
			check(t, s.ReplaceFile(t.Context(), name, []byte("newer")))
			wantFile(t, s, name, "newer")
			check(t, s.Rename(t.Context(), name, name+".moved"))
		}
		wantNoTemp(t, faulty, "p")
	})
}

func TestNameChangesNotDoneAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Link, Times: 2, Err: syscall.EIO})
		check(t, s.PublishFile(t.Context(), "a", []byte("x")))
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Rename, Times: 2, Err: syscall.ESTALE})
		check(t, s.ReplaceFile(t.Context(), "a", []byte("y")))
		wantFile(t, s, "a", "y")
	})
}

func TestPublishHasOneWinner(t *testing.T) {
	disk := newDisk(t)
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 6 {
		s := openOn(t, disk)
		all.Go(func() {
			err := s.PublishFile(t.Context(), "d/seal", fmt.Appendf(nil, "by %d", i))
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, filestore.ErrExists):
				t.Errorf("publish: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d winners, want 1", won.Load())
	}
	wantNoTemp(t, disk, "d")
}

func TestPublishLoserMakesTheWinnersNameDurable(t *testing.T) {
	for seed := range uint64(20) {
		power := filestoretest.NewPowerCut(t, seed)
		mine := openOn(t, power)
		check(t, mine.MkdirAll(t.Context(), "d"))
		f, err := power.Create("d/seal") // the winner died before it could sync the directory
		check(t, err)
		_, err = f.WriteAt([]byte("first"), 0)
		check(t, errors.Join(err, f.Sync(), f.Close()))
		wantErr(t, mine.PublishFile(t.Context(), "d/seal", []byte("second")), filestore.ErrExists)
		wantFile(t, openOn(t, power.MustCut(t)), "d/seal", "first")
	}
}

func TestWhatWasReportedDoneSurvivesPowerCuts(t *testing.T) {
	for seed := range uint64(40) {
		power := filestoretest.NewPowerCut(t, seed)
		faulty := filestoretest.NewFaulty(power)
		s := openOn(t, faulty)
		check(t, s.ReplaceFile(t.Context(), "a/b/view", []byte("old")))
		check(t, s.PublishFile(t.Context(), "c/d/seal", []byte("seal")))
		h, err := s.CreateFile(t.Context(), "e/f/rows")
		check(t, err)
		_, err = h.WriteAt(t.Context(), []byte("synced"), 0)
		check(t, errors.Join(err, h.Sync(t.Context()), s.SyncDir(t.Context(), "e/f")))
		_, err = h.WriteAt(t.Context(), []byte(" and not"), 6)
		check(t, err)
		faulty.Inject(filestoretest.Fault{Op: filestoretest.SyncDir, Path: "a/b", Err: syscall.ENOLINK})
		wantErr(t, s.ReplaceFile(t.Context(), "a/b/view", []byte("new")), syscall.ENOLINK) // renamed, not durable

		power = power.MustCut(t)
		wantErr(t, h.Sync(t.Context()), filestoretest.ErrCut)
		after := openOn(t, power)
		data, err := after.ReadFile(t.Context(), "a/b/view", 100)
		check(t, err)
		if got := string(data); got != "old" && got != "new" {
			t.Fatalf("seed %d: view is %q", seed, got)
		}
		wantFile(t, after, "c/d/seal", "seal")
		data, err = after.ReadFile(t.Context(), "e/f/rows", 100)
		check(t, err)
		if !strings.HasPrefix(string(data), "synced") {
			t.Fatalf("seed %d: synced bytes lost: %q", seed, data)
		}
	}
}

func TestReadFileHoldsItsLimit(t *testing.T) {
	s, _ := newFaulty(t)
	check(t, s.ReplaceFile(t.Context(), "a", []byte("12345")))
	_, err := s.ReadFile(t.Context(), "a", 4)
	wantErr(t, err, filestore.ErrTooLarge)
	_, err = s.ReadFile(t.Context(), "a", 5)
	check(t, err)
	_, err = s.ReadFile(t.Context(), "b", 5)
	wantErr(t, err, fs.ErrNotExist)
}

func TestUnfinishedFilesAreNotListed(t *testing.T) {
	s, faulty := newFaulty(t)
	check(t, s.ReplaceFile(t.Context(), "d/a", nil))
	for _, name := range []string{"d/.tmp-0011", "d/.nfs0022"} {
		f, err := faulty.Create(name)
		check(t, err)
		check(t, f.Close())
	}
	names, err := s.ReadDir(t.Context(), "d")
	check(t, err)
	if len(names) != 1 || names[0] != "a" {
		t.Errorf("listed %v, want [a]", names)
	}
	_, err = s.ReadDir(t.Context(), "missing")
	wantErr(t, err, fs.ErrNotExist)
}
