package filestoretest_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, fsys filestore.FS, path, text string, sync bool) filestore.File {
	t.Helper()
	f, err := fsys.Create(path)
	check(t, err)
	_, err = f.WriteAt([]byte(text), 0)
	check(t, err)
	if sync {
		check(t, f.Sync())
	}
	return f
}

// content returns a file's bytes, or "-" if it is not there.
func content(t *testing.T, fsys filestore.FS, path string) string {
	t.Helper()
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	check(t, err)
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	check(t, err)
	return string(data)
}

// outcomes cuts the power under many seeds and counts what was found.
func outcomes(t *testing.T, prepare func(*filestoretest.PowerCut), look func(*filestoretest.PowerCut) string) map[string]int {
	t.Helper()
	found := map[string]int{}
	for seed := range uint64(80) {
		p := filestoretest.NewPowerCut(t, seed)
		prepare(p)
		found[look(p.MustCut(t))]++
	}
	return found
}

func wantOutcomes(t *testing.T, found map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if found[w] == 0 {
			t.Errorf("never found %q in %v", w, found)
		}
	}
	if len(found) != len(want) {
		t.Errorf("found %v, want only %q", found, want)
	}
}

func TestSyncedFileInSyncedDirectorySurvives(t *testing.T) {
	found := outcomes(t, func(p *filestoretest.PowerCut) {
		check(t, create(t, p, "a", "text", true).Close())
		check(t, p.SyncDir("."))
	}, func(p *filestoretest.PowerCut) string { return content(t, p, "a") })
	wantOutcomes(t, found, "text")
}

func TestUnsyncedNameMayBeLost(t *testing.T) {
	found := outcomes(t, func(p *filestoretest.PowerCut) {
		check(t, create(t, p, "a", "text", true).Close())
	}, func(p *filestoretest.PowerCut) string { return content(t, p, "a") })
	wantOutcomes(t, found, "text", "-")
}

func TestUnsyncedContentMayBeLost(t *testing.T) {
	found := outcomes(t, func(p *filestoretest.PowerCut) {
		f := create(t, p, "a", "old", true)
		check(t, p.SyncDir("."))
		_, err := f.WriteAt([]byte("new"), 0)
		check(t, err)
		check(t, f.Close())
	}, func(p *filestoretest.PowerCut) string { return content(t, p, "a") })
	wantOutcomes(t, found, "old", "new")
}

func TestUnsyncedWriteMayTear(t *testing.T) {
	found := outcomes(t, func(p *filestoretest.PowerCut) {
		f := create(t, p, "a", "", true)
		check(t, p.SyncDir("."))
		_, err := f.WriteAt(bytes.Repeat([]byte("x"), 1024), 0)
		check(t, err)
	}, func(p *filestoretest.PowerCut) string { return content(t, p, "a") })
	x := func(n int) string { return string(bytes.Repeat([]byte("x"), n)) }
	wantOutcomes(t, found, "", x(512), x(1024))
}

func TestRenameIsOneStep(t *testing.T) {
	found := outcomes(t, func(p *filestoretest.PowerCut) {
		create(t, p, "view", "old", true)
		create(t, p, "temp", "new", true)
		check(t, p.SyncDir("."))
		check(t, p.Rename("temp", "view"))
	}, func(p *filestoretest.PowerCut) string { return content(t, p, "view") + content(t, p, "temp") })
	wantOutcomes(t, found, "oldnew", "new-")
}

func TestRemovedNameMayComeBack(t *testing.T) {
	found := outcomes(t, func(p *filestoretest.PowerCut) {
		create(t, p, "a", "text", true)
		check(t, p.SyncDir("."))
		check(t, p.Remove("a"))
	}, func(p *filestoretest.PowerCut) string { return content(t, p, "a") })
	wantOutcomes(t, found, "text", "-")
}

func TestDirectoryIsLostWithAllBelow(t *testing.T) {
	found := outcomes(t, func(p *filestoretest.PowerCut) {
		check(t, p.Mkdir("d"))
		create(t, p, "d/a", "text", true)
		check(t, p.SyncDir("d")) // but not its parent
	}, func(p *filestoretest.PowerCut) string { return content(t, p, "d/a") })
	wantOutcomes(t, found, "text", "-")
}

func TestRenameAcrossDirectoriesIsSettledByEither(t *testing.T) {
	for _, sync := range []string{"d", "e"} {
		found := outcomes(t, func(p *filestoretest.PowerCut) {
			check(t, p.Mkdir("d"))
			check(t, p.Mkdir("e"))
			check(t, p.SyncDir("."))
			create(t, p, "d/a", "text", true)
			check(t, p.Rename("d/a", "e/b"))
			check(t, p.SyncDir(sync))
		}, func(p *filestoretest.PowerCut) string { return content(t, p, "d/a") + content(t, p, "e/b") })
		wantOutcomes(t, found, "-text")
	}
}

func TestLinksStayOneFile(t *testing.T) {
	p := filestoretest.NewPowerCut(t, 3)
	f := create(t, p, "a", "text", true)
	check(t, p.Link("a", "b"))
	check(t, p.SyncDir("."))
	p = p.MustCut(t)
	a, err := p.Stat("a")
	check(t, err)
	b, err := p.Stat("b")
	check(t, err)
	if !os.SameFile(a, b) {
		t.Error("two names of one file became two files")
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, filestoretest.ErrCut) || !errors.Is(err, syscall.EIO) {
		t.Errorf("write after the cut: %v", err)
	}
	if err := f.Close(); !errors.Is(err, filestoretest.ErrCut) {
		t.Errorf("close after the cut: %v", err)
	}
}

func TestSecondCutKeepsWhatTheFirstLeft(t *testing.T) {
	p := filestoretest.NewPowerCut(t, 4)
	create(t, p, "a", "one", true)
	check(t, p.SyncDir("."))
	p = p.MustCut(t)
	f, err := p.OpenWrite("a")
	check(t, err)
	_, err = f.WriteAt([]byte(" two"), 3)
	check(t, err)
	check(t, f.Sync())
	check(t, f.Truncate(5))
	check(t, f.Sync())
	p = p.MustCut(t).MustCut(t)
	if got := content(t, p, "a"); got != "one t" {
		t.Errorf("got %q", got)
	}
}

func TestSameSeedSameLosses(t *testing.T) {
	look := func(seed uint64) string {
		p := filestoretest.NewPowerCut(t, seed)
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			create(t, p, name, name, false)
		}
		p = p.MustCut(t)
		all := ""
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			all += content(t, p, name) + "|"
		}
		return all
	}
	different := false
	for seed := range uint64(10) {
		once, again := look(seed), look(seed)
		if once != again {
			t.Errorf("seed %d gave two outcomes", seed)
		}
		different = different || look(seed) != look(seed+1)
	}
	if !different {
		t.Error("all seeds gave one outcome")
	}
}
