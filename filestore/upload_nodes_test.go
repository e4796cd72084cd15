package filestore_test

import (
	"path"
	"strings"
	"testing"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

// unsynced is a filesystem on which power is never cut.
type unsynced struct{ filestore.FS }

type unsyncedFile struct{ filestore.File }

func (unsyncedFile) Sync() error { return nil }

func (unsynced) SyncDir(string) error { return nil }

func (u unsynced) Create(path string) (filestore.File, error) {
	f, err := u.FS.Create(path)
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

// Two nodes that hold an upload end it at once: wherever in the one's work the
// other does all of its own, both say the same, and it has one name.
func TestUploadFinishedOnTwoNodesAtOnce(t *testing.T) {
	data := blob(5, 40_000)
	for name, hold := range map[string]struct{ a, b [2]int }{
		"both have all":     {[2]int{0, 40_000}, [2]int{0, 40_000}},
		"each has a half":   {[2]int{0, 20_000}, [2]int{20_000, 40_000}},
		"one has all":       {[2]int{0, 40_000}, [2]int{10_000, 30_000}},
		"one has nothing":   {[2]int{0, 40_000}, [2]int{0, 0}},
		"the other has all": {[2]int{0, 10_000}, [2]int{0, 40_000}},
	} {
		t.Run(name, func(t *testing.T) {
			for skip, struck := 0, true; struck; skip++ {
				struck = finishTwice(t, data, hold.a, hold.b, skip)
			}
		})
	}
}

// finishTwice lets b end the upload, and a end it before one of b's calls. It
// reports whether b made so many calls.
func finishTwice(t *testing.T, data []byte, a, b [2]int, skip int) bool {
	t.Helper()
	faulty := filestoretest.NewFaulty(unsynced{newDisk(t)})
	s := openOn(t, faulty)
	other, err := filestore.Open("", filestore.Options{FS: faulty, Logger: quiet})
	check(t, err)
	key := uploadKey(0)
	one, two := launch(t, s, "a-1"), launch(t, other, "b-1")
	for k, hold := range map[*kit][2]int{one: a, two: b} {
		for from := hold[0]; from < hold[1]; from += 10_000 {
			send(t, k, key, data, from, from+10_000)
		}
	}
	var first *filestore.StoredUpload
	var firstErr error
	injection := faulty.Inject(filestoretest.Fault{Skip: skip, Do: func() {
		first, firstErr = one.FinishUpload(background, finish(key, data, "d", "x"))
	}})
	second, err := two.FinishUpload(background, finish(key, data, "d", "x"))
	struck := injection.Struck() > 0
	faulty.Clear()
	if !struck {
		first, firstErr = one.FinishUpload(background, finish(key, data, "d", "x"))
	}
	if err != nil || firstErr != nil {
		t.Fatalf("a ends before call %d of b: %v, %v", skip, firstErr, err)
	}
	if *first != *second || !strings.HasSuffix(first.Path, "/auto/d/x") {
		t.Fatalf("a ends before call %d of b: %+v and %+v", skip, first, second)
	}
	wantUpload(t, s, first, data)
	names, err := s.ReadDir(background, path.Dir(first.Path))
	check(t, err)
	if strings.Join(names, " ") != "x" {
		t.Fatalf("a ends before call %d of b: names %v", skip, names)
	}
	for _, k := range []*kit{one, two} { // and again, as for a lost answer
		send(t, k, key, data, 0, 10_000)
		again, err := k.FinishUpload(background, finish(key, data, "d", "x"))
		check(t, err)
		if *again != *first {
			t.Fatalf("again %+v, want %+v", again, first)
		}
	}
	one.stop()
	two.stop()
	check(t, other.Close(background))
	return struck
}

// The client was restarted, found another file, and began the upload anew: no file
// is put together from bytes of both.
func TestUploadBegunAnewOnAnotherNodeIsNotMixed(t *testing.T) {
	old, data := blob(1, 40_000), blob(2, 40_000)
	pieces := func(k *kit, t *testing.T, from []byte, at ...int) {
		for _, offset := range at {
			send(t, k, uploadKey(0), from, offset, offset+10_000)
		}
	}
	for name, sent := range map[string]func(t *testing.T, a, b *kit){
		"the first has all of the old": func(t *testing.T, a, b *kit) {
			pieces(a, t, old, 0, 10_000, 20_000, 30_000)
			pieces(b, t, data, 0, 10_000, 20_000, 30_000)
		},
		"the end of the new goes to it": func(t *testing.T, a, b *kit) {
			pieces(a, t, old, 0, 10_000)
			pieces(b, t, data, 0)
			pieces(a, t, data, 10_000, 20_000, 30_000)
		},
		"the old lies elsewhere": func(t *testing.T, a, b *kit) {
			pieces(b, t, old, 0, 10_000, 20_000)
			pieces(a, t, data, 0, 10_000, 20_000, 30_000)
		},
		"other pieces, which overlap": func(t *testing.T, a, b *kit) {
			pieces(a, t, old, 0, 10_000, 20_000, 30_000)
			send(t, b, uploadKey(0), data, 0, 25_000)
			send(t, b, uploadKey(0), data, 25_000, 40_000)
		},
		"beside a piece that did not differ": func(t *testing.T, a, b *kit) {
			copy(old[30_000:], data[30_000:])
			pieces(a, t, old, 0, 10_000, 20_000, 30_000)
			pieces(b, t, data, 0, 10_000)
			pieces(a, t, data, 20_000, 30_000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newFaulty(t)
			a, b := launch(t, s, "a-1"), launch(t, s, "b-1")
			sent(t, a, b)
			stored, err := a.FinishUpload(background, finish(uploadKey(0), data, "x"))
			check(t, err)
			wantUpload(t, s, stored, data)
			if !stored.Conflict {
				t.Error("that other bytes came before is not told")
			}
			again, err := b.FinishUpload(background, finish(uploadKey(0), data, "x"))
			check(t, err)
			if *again != *stored {
				t.Errorf("again %+v, want %+v", again, stored)
			}
		})
	}
}

// A number stands for one file of the flow; a second end under another name is
// refused, and the first stays.
func TestUploadNumberUsedTwiceKeepsTheFirst(t *testing.T) {
	s, _ := newFaulty(t)
	a, b := launch(t, s, "a-1"), launch(t, s, "b-1")
	data, other := blob(1, 10_000), blob(2, 10_000)
	send(t, a, uploadKey(0), data, 0, 10_000)
	stored, err := a.FinishUpload(background, finish(uploadKey(0), data, "x"))
	check(t, err)
	send(t, b, uploadKey(0), other, 0, 10_000)
	_, err = b.FinishUpload(background, finish(uploadKey(0), other, "y"))
	wantErr(t, err, filestore.ErrBadName)
	wantUpload(t, s, stored, data)
}
