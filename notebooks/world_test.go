package notebooks_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"raptorpack/filestore"
	"raptorpack/flows/flowstest"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a pack of nodes on one store, with a ledger in memory.
type world struct {
	t      testing.TB
	dir    string
	ledger *flowstest.Ledger
	key    notebooks.Key
}

// node is one of them.
type node struct {
	w     *world
	room  *notebooks.Room
	files *notebooks.Files
	store *filestore.Store
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{t: t, dir: t.TempDir(), ledger: flowstest.NewLedger(), key: keyOf(t, "N.ONE")}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node opens the store as one node does.
func (w *world) node(incarnation string) *node {
	w.t.Helper()
	store, err := filestore.Open(w.dir, filestore.Options{})
	must(w.t, err)
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: incarnation, Valid: func() bool { return true },
		Outbox: outbox{}, BulkWindow: time.Millisecond,
	})
	must(w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value: how it ended
	go func() { ended <- committer.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		must(w.t, <-ended)
		must(w.t, store.Close(context.Background()))
	})
	n := &node{w: w, room: notebooks.New(notebooks.Options{}), store: store}
	n.files = notebooks.NewFiles(notebooks.FilesOptions{
		Store: store, Reader: filestore.NewReader(filestore.ReaderOptions{Store: store}), Committer: committer,
	})
	must(w.t, w.ledger.Join(n.room))
	return n
}

type outbox struct{}

func (outbox) AppendSync(context.Context, []*buspb.Mutation) error { return nil }

// minute is a time of the stories.
func minute(n int) time.Time {
	return time.Unix(1_700_000_000, 0).UTC().Add(time.Duration(n) * time.Minute)
}

// write makes rows durable that nobody names: one at each of some minutes.
func (n *node) write(timeline, name string, minutes ...int) (notebooks.Wish, *notebooks.Writer, notebooks.Stored) {
	n.w.t.Helper()
	one := wish(n.w.key, timeline, name)
	writer := n.files.Begin(one, n.room.Begun())
	sort.Ints(minutes)
	for i, at := range minutes {
		must(n.w.t, writer.Append(context.Background(), minute(at), fmt.Appendf(nil, `{"N":"%s%d"}`, name, i)))
	}
	stored, err := writer.Close(context.Background())
	must(n.w.t, err)
	return one, writer, stored
}

// add makes a child of rows.
func (n *node) add(timeline, name string, minutes ...int) {
	n.w.t.Helper()
	one, _, stored := n.write(timeline, name, minutes...)
	n.w.propose(n.room.PlanAdd(one, stored))
}

func (w *world) propose(m *buspb.Mutation, err error) {
	w.t.Helper()
	must(w.t, err)
	must(w.t, w.ledger.Propose(m))
}

// merged are the minutes and rows of a timeline, as a node reads them.
func (n *node) merged(timeline string, start time.Time) (string, []notebooks.Missing, error) {
	n.w.t.Helper()
	line, err := n.room.Timeline(n.w.key, timeline)
	must(n.w.t, err)
	var out []string
	missing, err := n.files.Merge(context.Background(), notebooks.Merge{
		Key: n.w.key, Timeline: timeline, Children: line.Children, Start: start,
	}, func(r notebooks.Row) error {
		out = append(out, fmt.Sprintf("%v %s %s", r.At.Sub(minute(0)).Minutes(), r.Child.Name, r.JSON))
		return nil
	})
	return strings.Join(out, "\n"), missing, err
}

func (n *node) want(timeline string, start time.Time, want ...string) {
	n.w.t.Helper()
	got, missing, err := n.merged(timeline, start)
	if got != strings.Join(want, "\n") || missing != nil || err != nil {
		n.w.t.Errorf("%v, missing %v:\n%s\nwant:\n%s", err, missing, got, strings.Join(want, "\n"))
	}
}

// tree lists what lies below the folder of notebooks.
func (w *world) tree() []string {
	w.t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join(w.dir, "notebooks"), func(name string, _ os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		out = append(out, name)
		return err
	})
	must(w.t, err)
	return out
}

// sweep removes what the room says as a leader does.
func (n *node) sweep() {
	n.w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	sweeper := notebooks.NewSweeper(notebooks.SweeperOptions{
		Room: n.room, Files: n.files, Settled: func(uint64) bool { return true },
		Propose: func(_ context.Context, m *buspb.Mutation) error {
			defer stop()
			return n.w.ledger.Propose(m)
		},
	})
	must(n.w.t, sweeper.Run(ctx))
}
