package filestore_test

import (
	"context"
	"slices"
	"syscall"
	"testing"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

// sealed makes incarnations of a node that are over, and seals the given ones.
func sealed(t testing.TB, s *filestore.Store, name string, count int, which ...string) {
	t.Helper()
	for range count {
		check(t, start(t, s, name).Release(t.Context()))
	}
	for _, incarnation := range which {
		check(t, s.SealIncarnation(t.Context(), incarnation, map[string]int64{"rows/" + incarnation: int64(len(incarnation))}))
	}
}

func TestSealsAreThoseThatAreNotKnownYet(t *testing.T) {
	s, faulty := newFaulty(t)
	known := map[string]bool{}
	learn := func() (fresh []string) {
		t.Helper()
		seals, err := s.Seals(t.Context(), func(name string) bool { return known[name] })
		check(t, err)
		for _, seal := range seals {
			if seal.Lengths["rows/"+seal.Incarnation] != int64(len(seal.Incarnation)) {
				t.Errorf("seal %+v", seal)
			}
			fresh = append(fresh, seal.Incarnation)
			known[seal.Incarnation] = true
		}
		return fresh
	}
	if got := learn(); got != nil {
		t.Errorf("an empty store has seals of %v", got)
	}
	sealed(t, s, "b", 11, "b-10", "b-2")
	sealed(t, s, "a", 1, "a-1")
	if got, want := learn(), []string{"a-1", "b-2", "b-10"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	check(t, openOn(t, faulty).SealIncarnation(t.Context(), "b-7", map[string]int64{"rows/b-7": 3}))
	if got := learn(); !slices.Equal(got, []string{"b-7"}) {
		t.Errorf("got %v, want what is new", got)
	}
	before := s.Stats()
	if got := learn(); got != nil {
		t.Errorf("got %v again", got)
	}
	after := s.Stats()
	if lists, reads := after["readdir"]-before["readdir"], after["read"]-before["read"]; lists != 3 || reads != 0 {
		t.Errorf("a look at 2 nodes with nothing new cost %d listings and %d reads, want 3 and 0", lists, reads)
	}
}

func TestSealsThatCannotBeReadHideNoOther(t *testing.T) {
	s, faulty := newFaulty(t)
	sealed(t, s, "a", 2, "a-1", "a-2")
	sealed(t, s, "b", 1, "b-1")
	sealed(t, s, "c", 1, "c-1")
	check(t, s.ReplaceFile(t.Context(), "nodes/a/1.seal", []byte("{")))
	check(t, s.ReplaceFile(t.Context(), "nodes/a/9.seal", []byte(`{"incarnation":"a-1"}`)))
	gone := faulty.Inject(filestoretest.Fault{Op: filestoretest.ReadDir, Path: "nodes/b", Times: filestoretest.Always, Err: syscall.EACCES})
	none := func(string) bool { return false }
	seals, err := s.Seals(t.Context(), none)
	wantErr(t, err, filestore.ErrBadRecord, syscall.EACCES)
	if len(seals) != 2 || seals[0].Incarnation != "a-2" || seals[1].Incarnation != "c-1" {
		t.Errorf("got %+v", seals)
	}
	gone.Lift()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Seals(ctx, none)
	wantErr(t, err, context.Canceled)
}

func TestOnlyWhatIsOverIsSealed(t *testing.T) {
	s, _ := newFaulty(t)
	alive := start(t, s, "a")
	wantErr(t, s.SealIncarnation(t.Context(), "a-1", nil), filestore.ErrAlive)
	if err := s.SealIncarnation(t.Context(), "a-2", nil); err == nil {
		t.Error("sealed one that never was")
	}
	check(t, alive.Release(t.Context()))
	check(t, s.SealIncarnation(t.Context(), "a-1", nil))
}
