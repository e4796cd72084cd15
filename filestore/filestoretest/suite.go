package filestoretest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"raptorpack/filestore"
)

// Run holds an FS to its contract. open returns an empty one for each part.
func Run(t *testing.T, open func(t *testing.T) filestore.FS) {
	parts := []struct {
		name string
		part func(*testing.T, filestore.FS)
	}{
		{"CreateTakesOnlyNewNames", createNew},
		{"OpenNeedsTheFile", openExisting},
		{"WritesLandAtTheirOffset", writeAt},
		{"FreshOpenShowsWhatWasSynced", freshOpen},
		{"TruncateSetsTheSize", truncate},
		{"LinkNeverReplaces", link},
		{"LinkHasOneWinner", linkRace},
		{"LosersOfALinkReadTheWinner", linkLosers},
		{"RenameReplaces", rename},
		{"RemoveTakesOneName", remove},
		{"OpenFileOutlivesItsName", removedOpen},
		{"ListingIsSortedAndFresh", listing},
		{"DirectoriesAreMadeOneByOne", directories},
		{"NoPathLeavesTheRoot", escape},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) { p.part(t, open(t)) })
	}
}

func createNew(t *testing.T, fsys filestore.FS) {
	put(t, fsys, "a", "one")
	if _, err := fsys.Create("a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: got %v, want fs.ErrExist", err)
	}
	if _, err := fsys.Create("no/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("create in missing directory: got %v, want fs.ErrNotExist", err)
	}
	want(t, fsys, "a", "one")
}

func openExisting(t *testing.T, fsys filestore.FS) {
	for name, open := range map[string]func(string) (filestore.File, error){"Open": fsys.Open, "OpenWrite": fsys.OpenWrite} {
		if f, err := open("missing"); !errors.Is(err, fs.ErrNotExist) || f != nil {
			t.Errorf("%s of a missing file: got %v, %v, want nil, fs.ErrNotExist", name, f, err)
		}
	}
	if _, err := fsys.Stat("missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of a missing file: got %v, want fs.ErrNotExist", err)
	}
}

func writeAt(t *testing.T, fsys filestore.FS) {
	put(t, fsys, "a", "0123456789")
	f := must(fsys.OpenWrite("a"))(t)
	must(f.WriteAt([]byte("xy"), 4))(t)
	must(f.WriteAt([]byte("end"), 12))(t)
	check(t, f.Sync())
	info := must(f.Stat())(t)
	check(t, f.Close())
	if info.Size() != 15 {
		t.Errorf("size: got %d, want 15", info.Size())
	}
	want(t, fsys, "a", "0123xy6789\x00\x00end")
	short := must(fsys.Open("a"))(t)
	defer short.Close()
	buffer := make([]byte, 10)
	if n, err := short.ReadAt(buffer, 12); n != 3 || err != io.EOF {
		t.Errorf("read across the end: got %d, %v, want 3, EOF", n, err)
	}
	if _, err := short.WriteAt([]byte("no"), 0); err == nil {
		t.Error("a file opened for reading took a write")
	}
}

func freshOpen(t *testing.T, fsys filestore.FS) {
	f := must(fsys.Create("a"))(t)
	defer f.Close()
	for i := range 3 {
		text := fmt.Sprintf("round %d", i)
		must(f.WriteAt([]byte(text), 0))(t)
		check(t, f.Sync())
		want(t, fsys, "a", text)
	}
}

func truncate(t *testing.T, fsys filestore.FS) {
	put(t, fsys, "a", "0123456789")
	f := must(fsys.OpenWrite("a"))(t)
	check(t, f.Truncate(4))
	check(t, f.Truncate(6))
	check(t, f.Sync())
	check(t, f.Close())
	want(t, fsys, "a", "0123\x00\x00")
}

func link(t *testing.T, fsys filestore.FS) {
	put(t, fsys, "a", "one")
	put(t, fsys, "b", "two")
	if err := fsys.Link("a", "b"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("link to a taken name: got %v, want fs.ErrExist", err)
	}
	want(t, fsys, "b", "two")
	check(t, fsys.Link("a", "c"))
	if !os.SameFile(must(fsys.Stat("a"))(t), must(fsys.Stat("c"))(t)) {
		t.Error("linked names do not show the same file")
	}
	check(t, fsys.SyncDir("."))
	check(t, fsys.Remove("a"))
	want(t, fsys, "c", "one")
}

func linkRace(t *testing.T, fsys filestore.FS) {
	const runners = 8
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range runners {
		put(t, fsys, fmt.Sprint("runner-", i), "x")
		all.Go(func() {
			switch err := fsys.Link(fmt.Sprint("runner-", i), "prize"); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("link: got %v, want fs.ErrExist", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d winners, want 1", won.Load())
	}
}

// linkLosers is how a question is decided once for all: everybody proposes an
// answer, and whoever comes too late finds the one that stands.
func linkLosers(t *testing.T, fsys filestore.FS) {
	const runners = 8
	var stands [runners]string
	var all sync.WaitGroup
	for i := range runners {
		own := fmt.Sprint("answer ", i)
		put(t, fsys, own, own)
		all.Go(func() {
			err := fsys.Link(own, "decided")
			if stands[i] = own; errors.Is(err, fs.ErrExist) {
				stands[i], err = content(fsys, "decided")
			}
			if err != nil {
				t.Errorf("runner %d: %v", i, err)
			}
		})
	}
	all.Wait()
	for i, answer := range stands {
		if answer != stands[0] {
			t.Errorf("runner %d finds %q, another %q", i, answer, stands[0])
		}
	}
}

func rename(t *testing.T, fsys filestore.FS) {
	check(t, fsys.Mkdir("d"))
	put(t, fsys, "a", "new")
	put(t, fsys, "d/b", "old")
	check(t, fsys.Rename("a", "d/b"))
	check(t, fsys.SyncDir("d"))
	want(t, fsys, "d/b", "new")
	if _, err := fsys.Open("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old name: got %v, want fs.ErrNotExist", err)
	}
	if err := fsys.Rename("missing", "d/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rename of a missing file: got %v, want fs.ErrNotExist", err)
	}
}

func remove(t *testing.T, fsys filestore.FS) {
	check(t, fsys.Mkdir("d"))
	put(t, fsys, "d/a", "x")
	if err := fsys.Remove("d"); err == nil {
		t.Error("a directory with content was removed")
	}
	check(t, fsys.Remove("d/a"))
	check(t, fsys.Remove("d"))
	if err := fsys.Remove("d"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove twice: got %v, want fs.ErrNotExist", err)
	}
}

func removedOpen(t *testing.T, fsys filestore.FS) {
	put(t, fsys, "a", "kept")
	f := must(fsys.Open("a"))(t)
	defer f.Close()
	check(t, fsys.Remove("a"))
	if got := read(t, f); got != "kept" {
		t.Errorf("read after remove: got %q", got)
	}
}

func listing(t *testing.T, fsys filestore.FS) {
	check(t, fsys.Mkdir("d"))
	for _, name := range []string{"b", "a", "c"} {
		put(t, fsys, "d/"+name, name)
		entries := must(fsys.ReadDir("d"))(t)
		for i := 1; i < len(entries); i++ {
			if entries[i-1].Name() >= entries[i].Name() {
				t.Errorf("not sorted: %v", entries)
			}
		}
	}
	if entries := must(fsys.ReadDir("d"))(t); len(entries) != 3 || entries[0].IsDir() {
		t.Errorf("listing: got %v, want 3 files", entries)
	}
	if _, err := fsys.ReadDir("missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("listing of a missing directory: got %v, want fs.ErrNotExist", err)
	}
}

func directories(t *testing.T, fsys filestore.FS) {
	if err := fsys.Mkdir("a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mkdir below a missing directory: got %v, want fs.ErrNotExist", err)
	}
	check(t, fsys.Mkdir("a"))
	check(t, fsys.Mkdir("a/b"))
	if err := fsys.Mkdir("a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("mkdir twice: got %v, want fs.ErrExist", err)
	}
	check(t, fsys.SyncDir("a"))
	if info := must(fsys.Stat("a/b"))(t); !info.IsDir() {
		t.Error("a directory does not show as one")
	}
}

func escape(t *testing.T, fsys filestore.FS) {
	for _, path := range []string{"../x", "a/../../x", "/etc/passwd", "", "a//b", "./a", "a/", "..", "a\x00b"} {
		if f, err := fsys.Create(path); err == nil {
			f.Close()
			t.Errorf("create %q went through", path)
		}
		if f, err := fsys.Open(path); err == nil {
			f.Close()
			t.Errorf("open %q went through", path)
		}
		if err := fsys.Mkdir(path); err == nil {
			t.Errorf("mkdir %q went through", path)
		}
	}
}

// put makes a file, durably.
func put(t *testing.T, fsys filestore.FS, path, text string) {
	t.Helper()
	f := must(fsys.Create(path))(t)
	must(f.WriteAt([]byte(text), 0))(t)
	check(t, f.Sync())
	check(t, f.Close())
}

// want compares a file's content, by a fresh open.
func want(t *testing.T, fsys filestore.FS, path, text string) {
	t.Helper()
	f := must(fsys.Open(path))(t)
	defer f.Close()
	if got := read(t, f); got != text {
		t.Errorf("%s: got %q, want %q", path, got, text)
	}
}

func read(t *testing.T, f filestore.File) string {
	t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	check(t, err)
	return string(data)
}

// content reads a file where a test may not be failed: in another goroutine.
func content(fsys filestore.FS, path string) (string, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	return string(data), errors.Join(err, f.Close())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return value
	}
}
