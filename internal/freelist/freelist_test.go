package freelist_test

import (
	"runtime"
	"testing"

	"raptorpack/internal/freelist"
)

func TestValuesOutliveCollections(t *testing.T) {
	made := 0
	l := freelist.New(func() *int { made++; return new(int) })
	first := l.Get()
	l.Put(first)
	for range 3 {
		runtime.GC()
	}
	if again := l.Get(); again != first || made != 1 {
		t.Errorf("got %p instead of %p, %d made", again, first, made)
	}
	if other := l.Get(); other == first || made != 2 {
		t.Errorf("one value was lent twice; %d made", made)
	}
}

func TestTheCollectorTakesWhatIsBeyond(t *testing.T) {
	l := freelist.New(func() *int { return nil })
	for range 1000 {
		l.Put(new(int))
	}
	for range 3 {
		runtime.GC()
	}
	kept := 0
	for l.Get() != nil {
		kept++
	}
	if want := 4 * runtime.GOMAXPROCS(0); kept != want {
		t.Errorf("%d values kept, want %d", kept, want)
	}
}
