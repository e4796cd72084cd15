package filestore_test

import (
	"io/fs"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

func TestFullDiskReleasesTheReserveForTheLedger(t *testing.T) {
	faulty := filestoretest.NewFaulty(newDisk(t))
	faulty.SetDiskSize(10 << 20)
	reg := prometheus.NewRegistry()
	s, err := filestore.Open("", filestore.Options{FS: faulty, Logger: quiet, Registerer: reg})
	check(t, err)
	defer s.Close(t.Context())
	check(t, s.Reserve(t.Context(), 2<<20))
	check(t, s.Reserve(t.Context(), 2<<20)) // repeats cost nothing

	bulk, err := s.CreateFile(t.Context(), "rows")
	check(t, err)
	ledger, err := s.Urgent().CreateFile(t.Context(), "ledger")
	check(t, err)
	written := int64(0)
	for err == nil {
		_, err = bulk.WriteAt(t.Context(), make([]byte, 1<<20), written)
		written += 1 << 20
	}
	wantErr(t, err, filestore.ErrFull, syscall.ENOSPC)
	_, err = s.Stat(t.Context(), "reserve")
	wantErr(t, err, fs.ErrNotExist)
	if gathered(t, reg, "raptorpack_filestore_full") != 1 {
		t.Error("metric does not say full")
	}

	// The space that came free is not for bulk data.
	before := s.Stats()["create"]
	_, err = s.CreateFile(t.Context(), "more")
	wantErr(t, err, filestore.ErrFull)
	wantErr(t, s.ReplaceFile(t.Context(), "view", []byte("x")), filestore.ErrFull)
	if s.Stats()["create"] != before {
		t.Error("a refused create reached the disk")
	}
	_, err = ledger.WriteAt(t.Context(), make([]byte, 1<<20), 0)
	check(t, err)
	check(t, ledger.Sync(t.Context()))
	check(t, filestore.LookAtDisk(s.Urgent(), t.Context()))
	if gathered(t, reg, "raptorpack_filestore_disk_alarm") != 1 || gathered(t, reg, "raptorpack_filestore_full") != 1 {
		t.Error("no alarm on a full disk")
	}

	// Somebody cleans up: the reserve comes back first, then bulk data may.
	check(t, bulk.Close(t.Context()))
	check(t, s.Remove(t.Context(), "rows"))
	check(t, filestore.LookAtDisk(s.Urgent(), t.Context()))
	info, err := s.Stat(t.Context(), "reserve")
	check(t, err)
	if info.Size() != 2<<20 {
		t.Errorf("reserve of %d bytes", info.Size())
	}
	check(t, s.ReplaceFile(t.Context(), "view", []byte("x")))
	if gathered(t, reg, "raptorpack_filestore_disk_alarm") != 0 || gathered(t, reg, "raptorpack_filestore_full") != 0 {
		t.Error("alarm stays")
	}
	check(t, ledger.Close(t.Context()))
}

func TestReserveTakenByAnotherNodeStopsBulkHereToo(t *testing.T) {
	faulty := filestoretest.NewFaulty(newDisk(t))
	faulty.SetDiskSize(6 << 20)
	mine, other := openOn(t, faulty), openOn(t, faulty)
	check(t, mine.Reserve(t.Context(), 2<<20))
	check(t, other.Reserve(t.Context(), 2<<20))
	h, err := mine.Urgent().CreateFile(t.Context(), "filler")
	check(t, err)
	_, err = h.WriteAt(t.Context(), make([]byte, 3<<20), 0)
	check(t, err)
	check(t, h.Close(t.Context()))
	check(t, other.ReleaseReserve(t.Context()))
	check(t, filestore.LookAtDisk(mine.Urgent(), t.Context()))
	_, err = mine.CreateFile(t.Context(), "rows")
	wantErr(t, err, filestore.ErrFull)
}

func TestWithoutReserveAFullDiskIsTriedAgain(t *testing.T) {
	s, faulty := newFaulty(t)
	faulty.Inject(filestoretest.Fault{Op: filestoretest.Create, Err: syscall.ENOSPC})
	wantErr(t, s.ReplaceFile(t.Context(), "a", []byte("x")), filestore.ErrFull)
	check(t, s.ReplaceFile(t.Context(), "a", []byte("x")))
}

func TestStoreOpensOnAFullDiskAndTakesOnlyWhatIsUrgent(t *testing.T) {
	faulty := filestoretest.NewFaulty(newDisk(t))
	faulty.SetDiskSize(3 << 20)
	s := openOn(t, faulty)
	check(t, s.Reserve(t.Context(), 2<<20))
	wantNoTemp(t, faulty, ".")
	_, err := s.CreateFile(t.Context(), "bulk")
	wantErr(t, err, filestore.ErrFull)
	h, err := s.Urgent().CreateFile(t.Context(), "ledger")
	check(t, err)
	check(t, h.Close(t.Context()))
	if writes := s.Stats()["write"]; writes != 0 {
		t.Errorf("%d writes: the little room was spent on trying", writes)
	}
}
