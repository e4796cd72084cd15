package filestore

import (
	"slices"
	"testing"
	"time"
)

type toyFile struct{ open *bool }

func (f toyFile) isOpen() bool { return *f.open }

func newToyCache(t *testing.T, maxOpen int) (use func(key int, open bool), c *fileCache[int, toyFile]) {
	c = newFileCache(maxOpen, func(int) toyFile { return toyFile{new(bool)} })
	return func(key int, open bool) {
		t.Helper()
		e, err := c.acquire(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		*e.value.open = open
		c.release(e)
	}, c
}

func closeToy(f toyFile) { *f.open = false }

func (c *fileCache[K, V]) openKeys() (keys []K) {
	for at := c.opened.Front(); at != nil; at = at.Next() {
		keys = append(keys, at.Value.(*fileEntry[K, V]).key)
	}
	return keys
}

func TestFileCacheClosesTheLeastRecentlyUsed(t *testing.T) {
	use, c := newToyCache(t, 2)
	for key := range 4 {
		use(key, true)
	}
	use(9, false)
	use(0, true)
	c.trim(closeToy)
	if got := c.openKeys(); !slices.Equal(got, []int{0, 3}) {
		t.Fatalf("open: %v", got)
	}
	held, err := c.acquire(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	c.closeIdle(time.Now().Add(time.Hour), closeToy)
	if got := c.openKeys(); !slices.Equal(got, []int{3}) {
		t.Errorf("open beside the one in use: %v", got)
	}
	c.release(held)
	if f, known := c.peek(1); !known || f.isOpen() {
		t.Errorf("a closed file is known and closed: %v, %v", known, f)
	}
}

func TestFileCacheForgetsTheOldestClosed(t *testing.T) {
	use, c := newToyCache(t, 2)
	use(-1, true)
	for key := range maxKnownFiles + 10 {
		use(key, false)
	}
	c.trim(closeToy)
	if n := len(c.entries); n != maxKnownFiles {
		t.Errorf("%d files known", n)
	}
	for key, want := range map[int]bool{-1: true, 10: false, 11: true, maxKnownFiles + 9: true} {
		if _, known := c.peek(key); known != want {
			t.Errorf("file %d known: %v", key, known)
		}
	}
	e, err := c.acquire(t.Context(), 11)
	if err != nil {
		t.Fatal(err)
	}
	c.drop(func(key int) bool { return key == -1 }, closeToy)
	c.release(e)
	if got := c.openKeys(); len(got) != 0 {
		t.Errorf("dropped and still open: %v", got)
	}
}
