package watch_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"raptorpack/internal/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAReplacedFileAndAHangupAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.yaml")
	if err := os.WriteFile(path, []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangup := make(chan struct{}, 1)
	changed := make(chan struct{}, 16)
	ended := make(chan error, 1)
	ctx := t.Context()
	hangup <- struct{}{}
	go func() {
		ended <- watch.Files(ctx, []string{path}, hangup, slog.New(slog.DiscardHandler), func() { changed <- struct{}{} })
	}()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	<-changed // the hangup: the watch is up
	fresh := path + ".new"
	if err := os.WriteFile(fresh, []byte("b"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, path); err != nil {
		t.Fatal(err)
	}
	<-changed
}

func TestAFolderIsWatchedWithThoseBelowIt(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "linux"), 0o700); err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 1) // a full one says enough
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1) // one answer
	go func() {
		ended <- watch.Folder(ctx, dir, slog.New(slog.DiscardHandler), func() {
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
	if err := watch.Folder(t.Context(), filepath.Join(dir, "none"), slog.New(slog.DiscardHandler), func() {}); err == nil {
		t.Error("a folder that is not there is watched")
	}
}
