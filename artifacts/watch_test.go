package artifacts_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

func TestAFolderIsWatchedWithThoseBelowIt(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "linux"), 0o700); err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 1) // a full one says enough
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1) // one answer
	go func() {
		ended <- artifacts.WatchFolder(ctx, dir, slog.New(slog.DiscardHandler), func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	told := func(what string, step func() error) {
		t.Helper()
		for end := time.After(time.Minute); ; { // the watch may not stand yet, or a folder was made just now
			if err := step(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-changed:
				return
			case <-time.After(2 * time.Second):
			case <-end:
				t.Fatalf("%s is not told", what)
			}
		}
	}
	write := func(name string) func() error {
		return func() error { return os.WriteFile(filepath.Join(dir, name), []byte("name: A"), 0o600) }
	}
	told("a new file", write("a.yaml"))
	told("a file below", write("linux/b.yaml"))
	if err := os.MkdirAll(filepath.Join(dir, "new/deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	told("a file in a new folder", write("new/deep/c.yaml"))
	told("a file that goes", func() error { return os.RemoveAll(filepath.Join(dir, "a.yaml")) })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := artifacts.WatchFolder(t.Context(), filepath.Join(dir, "none"), slog.New(slog.DiscardHandler), func() {}); err == nil {
		t.Error("a folder that is not there is watched")
	}
}

// What a folder has by now takes the place of what it had; stored definitions stay.
func TestARoomTakesOnWhatItsFolderHasByNow(t *testing.T) {
	room := artifacts.NewRoom(builtIn(t))
	m, _, err := room.PlanSet(ids.RootOrg, "name: Custom.Stored\nsources: [{query: SELECT 1 FROM scope()}]\n", "ada")
	if err == nil {
		err = room.Apply(&buspb.Entry{Index: 1, Mutation: m})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := room.Repository(ids.RootOrg).Lookup("Folder.New"); err == nil {
		t.Fatal("it is there before")
	}
	fresh := builtIn(t)
	if err := fresh.Add(parse(t, "name: Folder.New\nsources: [{query: SELECT 1 FROM scope()}]\n")); err != nil {
		t.Fatal(err)
	}
	room.Rebase(fresh)
	for _, name := range []string{"Folder.New", "Custom.Stored"} {
		if _, err := room.Repository(ids.RootOrg).Lookup(name); err != nil {
			t.Error(name, err)
		}
	}
}
