package filestore_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

var quiet = slog.New(slog.DiscardHandler)

// openOn opens a store over an FS and closes it with the test.
func openOn(t testing.TB, fsys filestore.FS) *filestore.Store {
	t.Helper()
	s, err := filestore.Open("", filestore.Options{FS: fsys, Logger: quiet})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close(context.Background())) })
	return s
}

// newFaulty returns a store in a fresh directory, and its faults.
func newFaulty(t testing.TB) (*filestore.Store, *filestoretest.Faulty) {
	t.Helper()
	faulty := filestoretest.NewFaulty(newDisk(t))
	return openOn(t, faulty), faulty
}

func newDisk(t testing.TB) *filestore.Dir {
	t.Helper()
	disk, err := filestore.OpenOS(t.TempDir())
	check(t, err)
	t.Cleanup(func() { check(t, disk.Close()) })
	return disk
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("got error %v, want %v", err, target)
		}
	}
}

func wantFile(t testing.TB, s *filestore.Store, path, text string) {
	t.Helper()
	data, err := s.ReadFile(context.Background(), path, 1<<20)
	check(t, err)
	if string(data) != text {
		t.Errorf("%s: got %q, want %q", path, data, text)
	}
}

func TestEveryFSKeepsTheContract(t *testing.T) {
	t.Run("Dir", func(t *testing.T) {
		filestoretest.Run(t, func(t *testing.T) filestore.FS { return newDisk(t) })
	})
	t.Run("Faulty", func(t *testing.T) {
		filestoretest.Run(t, func(t *testing.T) filestore.FS { return filestoretest.NewFaulty(newDisk(t)) })
	})
	t.Run("PowerCut", func(t *testing.T) {
		filestoretest.Run(t, func(t *testing.T) filestore.FS { return filestoretest.NewPowerCut(t, 1) })
	})
	t.Run("FaultyPowerCut", func(t *testing.T) {
		filestoretest.Run(t, func(t *testing.T) filestore.FS { return filestoretest.NewFaulty(filestoretest.NewPowerCut(t, 1)) })
	})
}

func TestDirNeverFollowsALinkOutOfTheRoot(t *testing.T) {
	outside := t.TempDir()
	check(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600))
	root := t.TempDir()
	check(t, os.Symlink(outside, filepath.Join(root, "way-out")))
	disk, err := filestore.OpenOS(root)
	check(t, err)
	defer disk.Close()
	if f, err := disk.Open("way-out/secret"); err == nil {
		f.Close()
		t.Error("a symbolic link led out of the root")
	}
	if f, err := disk.Create("way-out/new"); err == nil {
		f.Close()
		t.Error("a file was made outside of the root")
	}
}

func TestFilesAreNotForEverybody(t *testing.T) {
	root := t.TempDir()
	s, err := filestore.Open(root, filestore.Options{Logger: quiet})
	check(t, err)
	defer s.Close(t.Context())
	check(t, s.ReplaceFile(t.Context(), "a/b", []byte("x")))
	for path, allowed := range map[string]fs.FileMode{"a": 0o750, "a/b": 0o640} {
		info, err := os.Stat(filepath.Join(root, path))
		check(t, err)
		if mode := info.Mode().Perm(); mode&^allowed != 0 || mode&0o600 != 0o600 {
			t.Errorf("%s has mode %o, want at most %o", path, mode, allowed)
		}
	}
}

func TestOpenNeedsADirectory(t *testing.T) {
	_, err := filestore.Open(filepath.Join(t.TempDir(), "missing"), filestore.Options{})
	wantErr(t, err, fs.ErrNotExist)
}

func TestReadsAreRetriedAfterPassingErrors(t *testing.T) {
	for _, passing := range []error{syscall.ESTALE, syscall.EIO} {
		synctest.Test(t, func(t *testing.T) {
			s, faulty := newFaulty(t)
			check(t, s.ReplaceFile(t.Context(), "a", []byte("text")))
			for _, op := range []filestoretest.Op{filestoretest.Open, filestoretest.Read, filestoretest.ReadDir, filestoretest.Stat} {
				hit := faulty.Inject(filestoretest.Fault{Op: op, Times: 2, Err: passing})
				wantFile(t, s, "a", "text")
				_, err := s.ReadDir(t.Context(), ".")
				check(t, err)
				_, err = s.Stat(t.Context(), "a")
				check(t, err)
				if hit.Struck() != 2 {
					t.Errorf("%s: struck %d times, want 2", op, hit.Struck())
				}
			}
			faulty.Inject(filestoretest.Fault{Op: filestoretest.Open, Times: filestoretest.Always, Err: passing})
			_, err := s.ReadFile(t.Context(), "a", 10)
			wantErr(t, err, passing)
		})
	}
}

func TestWritesAndSyncsAreNeverRepeated(t *testing.T) {
	for _, op := range []filestoretest.Op{filestoretest.Write, filestoretest.Sync, filestoretest.Truncate} {
		s, faulty := newFaulty(t)
		h, err := s.CreateFile(t.Context(), "d/a")
		check(t, err)
		hit := faulty.Inject(filestoretest.Fault{Op: op, Times: filestoretest.Always, Err: syscall.EIO})
		_, wErr := h.WriteAt(t.Context(), []byte("x"), 0)
		err = errors.Join(wErr, h.Truncate(t.Context(), 5), h.Sync(t.Context()))
		wantErr(t, err, syscall.EIO)
		faulty.Clear()
		if hit.Struck() != 1 {
			t.Errorf("%s: tried %d times, want 1", op, hit.Struck())
		}
		before := s.Stats()
		_, wErr = h.WriteAt(t.Context(), []byte("x"), 0)
		wantErr(t, wErr, filestore.ErrFinished, syscall.EIO)
		wantErr(t, h.Sync(t.Context()), filestore.ErrFinished, syscall.EIO)
		if after := s.Stats(); after["write"] != before["write"] || after["sync"] != before["sync"] {
			t.Errorf("%s: a finished handle still made calls", op)
		}
		check(t, h.Close(t.Context()))
	}
}

func TestShortWriteFinishesTheHandle(t *testing.T) {
	s, faulty := newFaulty(t)
	h, err := s.CreateFile(t.Context(), "a")
	check(t, err)
	defer h.Close(t.Context())
	faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Torn: 2})
	n, err := h.WriteAt(t.Context(), []byte("four"), 0)
	if n != 2 {
		t.Errorf("wrote %d bytes, want 2", n)
	}
	wantErr(t, err, io.ErrShortWrite)
	wantErr(t, h.Sync(t.Context()), filestore.ErrFinished)
}

func TestFailedSyncMayLoseWhatWasWritten(t *testing.T) {
	s, faulty := newFaulty(t)
	h, err := s.CreateFile(t.Context(), "a")
	check(t, err)
	defer h.Close(t.Context())
	write := func(text string, off int64) {
		_, err := h.WriteAt(t.Context(), []byte(text), off)
		check(t, err)
	}
	write("kept", 0)
	check(t, h.Sync(t.Context()))
	write("lo", 0)
	write("lost", 4)
	faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Drop: true, Err: syscall.EIO})
	wantErr(t, h.Sync(t.Context()), syscall.EIO)
	wantFile(t, s, "a", "kept")
}

func TestCallersLeaveAHungMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := filestoretest.NewFaulty(newDisk(t))
		reg := prometheus.NewRegistry()
		s, err := filestore.Open("", filestore.Options{FS: disk, Logger: quiet, MaxCalls: 2, Registerer: reg})
		check(t, err)
		check(t, s.ReplaceFile(t.Context(), "a", []byte("x")))
		hung := disk.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true})
		for range 5 { // more than the pool holds
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			begin := time.Now()
			_, err := s.Stat(ctx, "a")
			wantErr(t, err, context.DeadlineExceeded)
			if took := time.Since(begin); took != time.Second {
				t.Errorf("caller was held %v, want 1s", took)
			}
			cancel()
		}
		if hung.Hanging() != 2 {
			t.Errorf("%d calls hang, want 2, the size of the pool", hung.Hanging())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.Urgent().Stat(ctx, "a")
		wantErr(t, err, filestore.ErrAbandoned) // it had a thread of its own
		hung.Lift()
		_, err = s.Stat(t.Context(), "a")
		check(t, err)
		check(t, s.Close(t.Context()))
		if got := gathered(t, reg, "raptorpack_filestore_calls_abandoned_total"); got != 3 {
			t.Errorf("abandoned calls: %v, want 3", got)
		}
	})
}

func TestAbandonedOpenClosesWhatItBrings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		check(t, s.ReplaceFile(t.Context(), "a", []byte("x")))
		late := faulty.Inject(filestoretest.Fault{Op: filestoretest.Open, Hang: true, After: true})
		closed := faulty.Inject(filestoretest.Fault{Op: filestoretest.Close, Times: filestoretest.Always})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.OpenFile(ctx, "a")
		wantErr(t, err, filestore.ErrAbandoned, context.DeadlineExceeded)
		late.Lift()
		synctest.Wait()
		if closed.Struck() != 1 {
			t.Errorf("closed %d times, want 1", closed.Struck())
		}
	})
}

func TestAbandonedWriteFinishesTheHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, faulty := newFaulty(t)
		h, err := s.CreateFile(t.Context(), "a")
		check(t, err)
		hung := faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = h.WriteAt(ctx, []byte("x"), 0)
		wantErr(t, err, filestore.ErrAbandoned)
		hung.Lift()
		synctest.Wait()
		wantErr(t, h.Sync(t.Context()), filestore.ErrFinished)
		check(t, h.Close(t.Context()))
	})
}

func TestWriteThatNeverBeganLeavesTheHandleUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := filestoretest.NewFaulty(newDisk(t))
		s, err := filestore.Open("", filestore.Options{FS: faulty, Logger: quiet, MaxCalls: 1})
		check(t, err)
		h, err := s.CreateFile(t.Context(), "a")
		check(t, err)
		hung := faulty.Inject(filestoretest.Fault{Op: filestoretest.Stat, Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.Stat(ctx, ".") // takes the only slot
		wantErr(t, err, filestore.ErrAbandoned)
		waiting, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = h.WriteAt(waiting, []byte("x"), 0)
		wantErr(t, err, context.DeadlineExceeded)
		hung.Lift()
		_, err = h.WriteAt(t.Context(), []byte("x"), 0)
		check(t, errors.Join(err, h.Sync(t.Context()), h.Close(t.Context()), s.Close(t.Context())))
	})
}

func TestClosedStoreRefuses(t *testing.T) {
	s, err := filestore.Open(t.TempDir(), filestore.Options{Logger: quiet})
	check(t, err)
	check(t, s.Close(t.Context()))
	check(t, s.Close(t.Context()))
	_, err = s.ReadDir(t.Context(), ".")
	wantErr(t, err, fs.ErrClosed)
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := filestoretest.NewFaulty(newDisk(t))
		s, err := filestore.Open("", filestore.Options{FS: disk, Logger: quiet})
		check(t, err)
		hung := disk.Inject(filestoretest.Fault{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.Stat(ctx, ".")
		wantErr(t, err, filestore.ErrAbandoned)
		again, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantErr(t, s.Close(again), context.DeadlineExceeded)
		hung.Lift()
	})
}

func TestMkdirAllSyncsEachParentOnce(t *testing.T) {
	s, _ := newFaulty(t)
	check(t, s.MkdirAll(t.Context(), "a/b/c"))
	first := s.Stats()
	if first["mkdir"] != 3 || first["syncdir"] != 3 {
		t.Errorf("got %d mkdir and %d syncdir, want 3 each", first["mkdir"], first["syncdir"])
	}
	check(t, s.MkdirAll(t.Context(), "a/b/c"))
	check(t, s.MkdirAll(t.Context(), "a/b"))
	if again := s.Stats(); again["mkdir"] != 3 || again["syncdir"] != 3 {
		t.Error("a known directory cost calls")
	}
	for _, path := range []string{"../x", "/x", "a/../b", ""} {
		wantErr(t, s.MkdirAll(t.Context(), path), fs.ErrInvalid)
	}
}

func TestMkdirAllSyncsWhatOthersMade(t *testing.T) {
	disk := newDisk(t)
	check(t, disk.Mkdir("a"))
	s := openOn(t, disk)
	check(t, s.MkdirAll(t.Context(), "a"))
	if got := s.Stats()["syncdir"]; got != 1 {
		t.Errorf("%d directory syncs, want 1", got)
	}
}

func TestCreateFileComesBackAfterTheTreeWasRemoved(t *testing.T) {
	disk := newDisk(t)
	mine, other := openOn(t, disk), openOn(t, disk)
	check(t, mine.MkdirAll(t.Context(), "a/b"))
	check(t, other.RemoveAll(t.Context(), "a"))
	check(t, other.RemoveAll(t.Context(), "a"))
	h, err := mine.CreateFile(t.Context(), "a/b/c")
	check(t, err)
	check(t, h.Close(t.Context()))
	check(t, mine.RemoveAll(t.Context(), "a"))
	names, err := mine.ReadDir(t.Context(), ".")
	check(t, err)
	if len(names) != 0 {
		t.Errorf("left over: %v", names)
	}
	wantErr(t, mine.RemoveAll(t.Context(), "."), fs.ErrInvalid)
}

func TestCountersAreExactAndExported(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, err := filestore.Open(t.TempDir(), filestore.Options{Registerer: reg, Logger: quiet})
	check(t, err)
	defer s.Close(t.Context())
	h, err := s.CreateFile(t.Context(), "a")
	check(t, err)
	for i := range 3 {
		_, err := h.WriteAt(t.Context(), []byte("x"), int64(i))
		check(t, err)
	}
	check(t, h.Sync(t.Context()))
	check(t, h.Close(t.Context()))
	_, err = s.OpenFile(t.Context(), "missing")
	wantErr(t, err, fs.ErrNotExist)
	for kind, want := range map[string]int64{"create": 1, "write": 3, "sync": 1, "close": 1, "open": 1, "rename": 0} {
		if got := s.Stats()[kind]; got != want {
			t.Errorf("%s: %d calls, want %d", kind, got, want)
		}
	}
	exported := map[string]float64{}
	families, err := reg.Gather()
	check(t, err)
	for _, family := range families {
		if family.GetName() == "raptorpack_filestore_ops_total" {
			for _, m := range family.GetMetric() {
				exported[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	want := map[string]float64{"close ok": 1, "create ok": 1, "open missing": 1, "sync ok": 1, "write ok": 3}
	if !maps.Equal(exported, want) {
		t.Errorf("exported %v, want %v", exported, want)
	}
}

func TestErrorsSayWhatWasDone(t *testing.T) {
	s, faulty := newFaulty(t)
	_, err := s.OpenFile(t.Context(), "no/such")
	wantErr(t, err, fs.ErrNotExist)
	if got, want := err.Error(), "open no/such: no such file or directory"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for errno, sentinel := range map[syscall.Errno]error{
		syscall.ENOSPC: filestore.ErrFull, syscall.EDQUOT: filestore.ErrFull, syscall.EROFS: filestore.ErrReadOnly, syscall.EEXIST: filestore.ErrExists,
	} {
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Create, Err: &fs.PathError{Op: "openat", Path: "x", Err: errno}})
		_, err := s.CreateFile(t.Context(), "x")
		wantErr(t, err, sentinel, errno)
	}
}

// gathered returns the value of a metric without dimensions.
func gathered(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	check(t, err)
	for _, family := range families {
		if family.GetName() == name {
			m := family.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
