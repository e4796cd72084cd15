package inventory_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/artifacts"
	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
)

// ledger applies what is proposed to a room, at once.
type ledger struct {
	mu    sync.Mutex
	room  *inventory.Room
	index uint64
	now   int64 // microseconds
	fail  error // the answer to everything
}

func (l *ledger) Propose(_ context.Context, m *buspb.Mutation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.index++
	l.now++
	return l.room.Apply(&buspb.Entry{Index: l.index, Epoch: 1, Time: l.now, Mutation: m})
}

// world is a room with a ledger, and files on a disk.
type world struct {
	t        *testing.T
	declared []artifacts.DeclaredTool
	room     *inventory.Room
	files    *inventory.Files
	store    *filestore.Store
	ledger   *ledger
}

func newWorld(t *testing.T, declared ...artifacts.DeclaredTool) *world {
	t.Helper()
	w := &world{t: t, declared: declared}
	w.room = inventory.New(inventory.Options{Declared: func(ids.Org) []artifacts.DeclaredTool { return w.declared }})
	store, err := filestore.Open(t.TempDir(), filestore.Options{})
	w.check(err)
	t.Cleanup(func() { w.check(store.Close(context.Background())) })
	w.store = store
	w.files = inventory.NewFiles(store, 1<<20, nil)
	w.ledger = &ledger{room: w.room, now: time.Now().UnixMicro()}
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// do proposes what was planned.
func (w *world) do(m *buspb.Mutation, err error) {
	w.t.Helper()
	w.check(err)
	w.check(w.ledger.Propose(w.t.Context(), m))
}

// receive stores a file that no tool names yet.
func (w *world) receive(text string) inventory.Received {
	w.t.Helper()
	got, err := w.files.Receive(w.t.Context(), ids.RootOrg, strings.NewReader(text))
	w.check(err)
	return got
}

// upload makes a text a tool's file.
func (w *world) upload(name, text string) {
	w.t.Helper()
	got := w.receive(text)
	m, named, err := w.room.PlanUpload(ids.RootOrg, inventory.Upload{Name: name, Filename: name + ".bin", File: got, Setter: "ann"})
	w.do(m, err)
	if !named {
		w.files.Drop(w.t.Context(), got)
	}
}

func (w *world) lookup(name string) *inventory.Tool {
	w.t.Helper()
	tool, err := w.room.Lookup(ids.RootOrg, name, "")
	w.check(err)
	return tool
}

// read returns what the public folder has under a name.
func (w *world) read(path string) string {
	w.t.Helper()
	data, err := w.store.ReadFile(w.t.Context(), filestore.PublicFile(ids.RootOrg, path), 1<<20)
	w.check(err)
	return string(data)
}

// listed counts the files in the public folder.
func (w *world) listed() int {
	w.t.Helper()
	names, err := w.store.ReadDir(w.t.Context(), "public")
	w.check(err)
	return len(names)
}

func (w *world) variables(tool *inventory.Tool) map[string]string {
	w.t.Helper()
	values, err := tool.Variables([]string{"wss://pack.example:8000/", "http://second.example/sub/"})
	w.check(err)
	out := map[string]string{}
	for _, v := range values {
		out[v.Name] = v.Value
	}
	return out
}

func declare(artifact string, t artifacts.Tool) artifacts.DeclaredTool {
	return artifacts.DeclaredTool{Tool: t, Artifact: artifact}
}

func wantErr(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want %v with %q", err, want, text)
	}
}
