package filestore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
)

func uploadKey(number int64) filestore.UploadKey {
	return filestore.UploadKey{Client: client(7), Flow: flowX, Number: number}
}

func blob(seed uint64, size int) []byte {
	chance := rand.NewChaCha8([32]byte{byte(seed)})
	b := make([]byte, size)
	chance.Read(b)
	return b
}

func send(t testing.TB, k *kit, key filestore.UploadKey, data []byte, from, to int) {
	t.Helper()
	check(t, k.Submit(background, &filestore.Commit{Uploads: []filestore.UploadWrite{{Key: key, Offset: int64(from), Data: data[from:to]}}}))
}

func finish(key filestore.UploadKey, data []byte, components ...string) filestore.UploadFinish {
	return filestore.UploadFinish{Key: key, Accessor: "auto", Components: components, Size: int64(len(data)), StoredSize: int64(len(data))}
}

func wantUpload(t testing.TB, s *filestore.Store, stored *filestore.StoredUpload, data []byte) {
	t.Helper()
	sum := sha256.Sum256(data)
	if stored.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("%s: hash %s", stored.Path, stored.SHA256)
	}
	u, err := s.OpenUpload(background, stored.Path)
	check(t, err)
	defer u.Close(background)
	got, err := io.ReadAll(u.Stored(background))
	check(t, err)
	if !bytes.Equal(got, data) {
		t.Errorf("%s: %d bytes differ from the %d sent", stored.Path, len(got), len(data))
	}
}

func TestUploadGetsItsNameOnceWhole(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	key, data := uploadKey(0), blob(1, 300_000)
	send(t, k, key, data, 0, 100_000)
	send(t, k, key, data, 200_000, 300_000)
	_, err := k.FinishUpload(background, finish(key, data, "etc", "passwd"))
	wantErr(t, err, filestore.ErrIncomplete)
	var incomplete *filestore.IncompleteError
	if !errors.As(err, &incomplete) || incomplete.Missing.String() != "100000-199999" {
		t.Errorf("missing %v", err)
	}
	send(t, k, key, data, 100_000, 200_000)
	covered, done, err := s.UploadCoverage(background, key)
	check(t, err)
	if !covered.Contiguous(300_000) || done {
		t.Errorf("coverage %s, finished %v", covered, done)
	}
	stored, err := k.FinishUpload(background, finish(key, data, "etc", "passwd"))
	check(t, err)
	if want := path.Join(filestore.FlowUploadsDir(ids.RootOrg, client(7), flowX), "auto/etc/passwd"); stored.Path != want {
		t.Errorf("path %s, want %s", stored.Path, want)
	}
	wantUpload(t, s, stored, data)
	send(t, k, key, blob(2, 300_000), 0, 1000) // late, and other bytes: the stored file must not change
	again, err := k.FinishUpload(background, finish(key, data, "etc", "passwd"))
	check(t, err)
	if *again != *stored {
		t.Errorf("again %+v, want %+v", again, stored)
	}
	wantUpload(t, s, stored, data)
	if _, done, err := s.UploadCoverage(background, key); err != nil || !done {
		t.Errorf("finished %v, %v", done, err)
	}
	check(t, k.CleanUploads(background, ids.RootOrg, client(7), flowX))
	names, err := s.ReadDir(background, filestore.FlowUploadsDir(ids.RootOrg, client(7), flowX))
	check(t, err)
	if strings.Join(names, " ") != "auto" {
		t.Errorf("left after cleaning: %v", names)
	}
}

func TestUploadInAnyOrderResentAndRestarted(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	key, old, data := uploadKey(0), blob(1, 90_000), blob(2, 70_000)
	send(t, k, key, old, 0, 50_000)
	send(t, k, key, old, 50_000, 90_000)
	for _, from := range []int{0, 0, 20_000, 40_000, 30_000, 30_000, 50_000, 60_000, 10_000} { // starts over, shorter
		send(t, k, key, data, from, from+10_000)
	}
	stored, err := k.FinishUpload(background, finish(key, data, "x"))
	check(t, err)
	wantUpload(t, s, stored, data)
}

func TestUploadResumesOnAnotherIncarnation(t *testing.T) {
	s, _ := newFaulty(t)
	data := blob(3, 250_000)
	key := uploadKey(300) // lies in a folder of its own below .parts
	a := launch(t, s, "a-1")
	send(t, a, key, data, 0, 120_000)
	a.stop()
	b := launch(t, s, "b-1")
	send(t, b, key, data, 120_000, 200_000)
	_, err := b.FinishUpload(background, finish(key, data, "x"))
	wantErr(t, err, filestore.ErrIncomplete)
	c := launch(t, s, "a-2")
	send(t, c, key, data, 190_000, 250_000)
	stored, err := c.FinishUpload(background, finish(key, data, "x"))
	check(t, err)
	wantUpload(t, s, stored, data)
	for _, k := range []*kit{b, c, launch(t, s, "c-1")} { // also where the parts are gone
		again, err := k.FinishUpload(background, finish(key, data, "x"))
		check(t, err)
		if *again != *stored {
			t.Errorf("again %+v, want %+v", again, stored)
		}
	}
}

func TestPartWhoseNameWasNotSyncedIsNotGoneOnWith(t *testing.T) {
	s, faulty := newFaulty(t)
	data, key := blob(3, 50_000), uploadKey(0)
	a := launch(t, s, "a-1")
	send(t, a, key, data, 0, len(data))
	a.stop()
	b := launch(t, s, "b-1")
	faulty.Inject(filestoretest.Fault{Op: filestoretest.SyncDir, Err: errBroken})
	_, err := b.FinishUpload(background, finish(key, data, "x"))
	wantErr(t, err, errBroken)
	before := s.Stats()["syncdir"]
	send(t, b, key, data, 0, 10_000)
	if s.Stats()["syncdir"] == before {
		t.Error("bytes were acknowledged in a file whose name was never synced")
	}
	stored, err := b.FinishUpload(background, finish(key, data, "x"))
	check(t, err)
	wantUpload(t, s, stored, data)
}

func TestUploadExtentWithOtherBytesIsNotTaken(t *testing.T) {
	s, _ := newFaulty(t)
	key, data := uploadKey(0), blob(3, 100_000)
	a := launch(t, s, "a-1")
	send(t, a, key, data, 0, 50_000)
	a.stop()
	h, err := s.OpenWrite(background, path.Join(filestore.FlowUploadsDir(ids.RootOrg, client(7), flowX), ".parts/0-a-1"))
	check(t, err)
	_, err = h.WriteAt(background, []byte{data[77] ^ 1}, 77)
	check(t, err)
	check(t, h.Close(background))
	b := launch(t, s, "b-1")
	send(t, b, key, data, 50_000, 100_000)
	_, err = b.FinishUpload(background, finish(key, data, "x"))
	wantErr(t, err, filestore.ErrIncomplete)
	covered, _, err := s.UploadCoverage(background, key)
	check(t, err)
	if covered.String() != "50000-99999" {
		t.Errorf("coverage %s", covered)
	}
}

func TestUploadNamesNeverCollide(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	long := strings.Split(strings.Repeat("component/", 400), "/")
	names := [][]string{
		{"a"},
		{"a"},
		{"a", "b"},
		{"c", "d"},
		{"c"},
		{"a~1"},
		{"a.idx"},
		nil,
		{""},
		{".."},
		{"..", "..", "x"},
		{"."},
		{".parts"},
		{"nul\x00", "\xff"},
		{"A"},
		{strings.Repeat("n", 4000)},
		long, long,
		{"a", "b", "c"},
	}
	paths := map[string]bool{}
	for i, components := range names {
		key, data := uploadKey(int64(i)), blob(uint64(i), 100+i)
		send(t, k, key, data, 0, len(data))
		stored, err := k.FinishUpload(background, finish(key, data, components...))
		check(t, err)
		if paths[stored.Path] || !strings.HasPrefix(stored.Path, filestore.FlowUploadsDir(ids.RootOrg, client(7), flowX)+"/auto/") {
			t.Errorf("%.80q got %s", components, stored.Path)
		}
		paths[stored.Path] = true
		wantUpload(t, s, stored, data)
	}
	if !paths[path.Join(filestore.FlowUploadsDir(ids.RootOrg, client(7), flowX), "auto/a~1")] {
		t.Errorf("paths %v", paths)
	}
}

func TestEmptyAndSparseUploads(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	stored, err := k.FinishUpload(background, finish(uploadKey(0), nil, "empty"))
	check(t, err)
	wantUpload(t, s, stored, nil)

	data := blob(9, 1000)
	f := finish(uploadKey(1), data, "sparse")
	f.Size = 10_000
	f.Index = []filestore.Range{
		{OriginalOffset: 0, Length: 4000},
		{FileOffset: 0, OriginalOffset: 4000, FileLength: 600, Length: 600},
		{OriginalOffset: 4600, Length: 4000, FileOffset: 600},
		{FileOffset: 600, OriginalOffset: 9000, FileLength: 400, Length: 400},
	}
	send(t, k, f.Key, data, 0, 1000)
	stored, err = k.FinishUpload(background, f)
	check(t, err)
	wantUpload(t, s, stored, data)
	want := make([]byte, 10_000)
	copy(want[4000:], data[:600])
	copy(want[9000:], data[600:])
	u, err := s.OpenUpload(background, stored.Path)
	check(t, err)
	defer u.Close(background)
	got, err := io.ReadAll(u.Expanded(background))
	check(t, err)
	if !bytes.Equal(got, want) || u.Size() != 10_000 || u.StoredSize() != 1000 || !u.Sparse() {
		t.Errorf("%d bytes expanded, size %d of %d", len(got), u.StoredSize(), u.Size())
	}
	for from := int64(3990); from < 4010; from++ {
		piece := make([]byte, 700)
		_, err := u.Expanded(background).ReadAt(piece, from)
		check(t, err)
		if !bytes.Equal(piece, want[from:from+700]) {
			t.Errorf("bytes at %d differ", from)
		}
	}
}

func TestLyingIndexIsRefused(t *testing.T) {
	for name, ranges := range map[string][]filestore.Range{
		"petabytes":    {{Length: 1 << 60}},
		"overflow":     {{OriginalOffset: 1 << 62, Length: 1 << 62}},
		"negative":     {{OriginalOffset: -1, Length: 10}},
		"overlap":      {{Length: 60, FileLength: 60}, {OriginalOffset: 50, Length: 40, FileLength: 40, FileOffset: 60}},
		"unsorted":     {{OriginalOffset: 50, Length: 40, FileLength: 40}, {Length: 40, FileLength: 40, FileOffset: 40}},
		"other sum":    {{Length: 99, FileLength: 99}},
		"other length": {{Length: 50, FileLength: 100}},
		"elsewhere":    {{Length: 100, FileLength: 100, FileOffset: 7}},
		"beyond size":  {{Length: 100, FileLength: 100}, {OriginalOffset: 100, Length: 1000}},
	} {
		if err := filestore.CheckIndex(ranges, 200, 100); !errors.Is(err, filestore.ErrBadIndex) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check(t, filestore.CheckIndex([]filestore.Range{{Length: 100, FileLength: 100}, {OriginalOffset: 100, Length: 100}}, 200, 100))
}

func TestOpenUploadRefusesOtherFiles(t *testing.T) {
	s, _ := newFaulty(t)
	for _, name := range []string{
		"", "/etc/passwd", "lease/epoch-1", "clients/00/00/C.0000000000000007/collections/F.X1/flow.json",
		"clients/00/00/C.0000000000000007/uploads/F.X1/.parts/0-a-1", "clients/00/00/C.0000000000000007/uploads/F.X1/../../x/y",
		"clients/00/00/C.0000000000000007/uploads/F.X1/auto/x.idx",
	} {
		_, err := s.OpenUpload(background, name)
		wantErr(t, err, filestore.ErrBadName)
	}
	_, err := s.OpenUpload(background, "clients/00/00/C.0000000000000007/uploads/F.X1/auto/x")
	wantErr(t, err, fs.ErrNotExist)
}

func TestFinishSurvivesAFaultAtEveryCall(t *testing.T) {
	data := blob(5, 40_000)
	for skip := range 40 {
		s, faulty := newFaulty(t)
		a := launch(t, s, "a-1")
		send(t, a, uploadKey(0), data, 0, 20_000)
		send(t, a, uploadKey(0), data, 20_000, 40_000)
		injection := faulty.Inject(filestoretest.Fault{Skip: skip, Err: errBroken, After: skip%2 == 0})
		stored, err := a.FinishUpload(background, finish(uploadKey(0), data, "d", "x"))
		injection.Lift()
		first := err
		if err != nil {
			k := a
			if skip%3 == 0 { // as after a crash
				a.stop()
				k = launch(t, s, "a-2")
			}
			stored, err = k.FinishUpload(background, finish(uploadKey(0), data, "d", "x"))
		}
		if err != nil {
			t.Fatalf("fault at call %d (%v): then %v", skip, first, err)
		}
		wantUpload(t, s, stored, data)
		if !strings.HasSuffix(stored.Path, "/auto/d/x") {
			t.Errorf("fault at call %d (%v): got %s", skip, first, stored.Path)
		}
	}
}

func TestFailedUploadSyncGoesToANewPart(t *testing.T) {
	s, faulty := newFaulty(t)
	k := launch(t, s, "a-1")
	key, data := uploadKey(0), blob(5, 60_000)
	send(t, k, key, data, 0, 20_000)
	faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Match: within("0-a-1"), Err: errBroken, Drop: true})
	send(t, k, key, data, 20_000, 40_000)
	send(t, k, key, data, 40_000, 60_000)
	stored, err := k.FinishUpload(background, finish(key, data, "x"))
	check(t, err)
	wantUpload(t, s, stored, data)
}

func TestUploadWritesAreChecked(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	for _, w := range []filestore.UploadWrite{
		{Key: uploadKey(-1), Data: []byte("x")},
		{Key: uploadKey(0)},
		{Key: uploadKey(0), Offset: -1, Data: []byte("x")},
		{Key: uploadKey(0), Offset: filestore.MaxUploadBytes, Data: []byte("x")},
		{Data: []byte("x")},
	} {
		wantErr(t, k.Submit(background, &filestore.Commit{Uploads: []filestore.UploadWrite{w}}), filestore.ErrBadAppend)
	}
	ctx, cancel := context.WithCancel(background)
	cancel()
	if _, err := k.FinishUpload(ctx, finish(uploadKey(0), nil, "x")); err == nil {
		t.Error("finished although nobody waits")
	}
}

func FuzzSidecar(f *testing.F) {
	f.Add([]byte("RU\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, _ := filestore.ParseSidecar(b); n*64 > len(b) {
			t.Errorf("%d extents in %d bytes", n, len(b))
		}
	})
}

func TestUploadHashFollowsRewrittenBytes(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	key, old, data := uploadKey(0), blob(1, 30_000), blob(2, 30_000)
	copy(old[20_000:], data[20_000:])
	copy(old[:5000], data[:5000])
	send(t, k, key, old, 0, 10_000)
	send(t, k, key, old, 10_000, 20_000)
	send(t, k, key, data, 5000, 20_000)
	send(t, k, key, data, 20_000, 30_000)
	stored, err := k.FinishUpload(background, finish(key, data, "x"))
	check(t, err)
	wantUpload(t, s, stored, data)
}

func TestLateBytesNeverReachAFinishedUpload(t *testing.T) {
	s, faulty := newFaulty(t)
	k := launch(t, s, "a-1")
	key, data := uploadKey(0), blob(1, 3000)
	send(t, k, key, data, 0, 3000)
	faulty.Inject(filestoretest.Fault{Op: filestoretest.Remove, Err: errBroken, Times: filestoretest.Always}) // the part's name stays
	stored, err := k.FinishUpload(background, finish(key, data, "x"))
	check(t, err)
	send(t, k, key, blob(2, 3000), 0, 2000)
	wantUpload(t, s, stored, data)
	faulty.Clear()
}
