package notebooks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/notebooks"
)

// Every node reads what any node wrote, merged; of one time by child, then as it came.
func TestChildrenOfAllNodesAreMergedByTime(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a-1"), w.node("b-1")
	a.add("S", "y", 1, 3, 3, 9)
	b.add("S", "x", 0, 3, 4)
	b.add("S", "empty")
	b.add("Other", "z", 2)
	for _, n := range []*node{a, b} {
		n.want("S", time.Time{}, `0 x {"N":"x0"}`, `1 y {"N":"y0"}`, `3 x {"N":"x1"}`, `3 y {"N":"y1"}`, `3 y {"N":"y2"}`, `4 x {"N":"x2"}`, `9 y {"N":"y3"}`)
		n.want("S", minute(3), `3 x {"N":"x1"}`, `3 y {"N":"y1"}`, `3 y {"N":"y2"}`, `4 x {"N":"x2"}`, `9 y {"N":"y3"}`)
		n.want("S", minute(9), `9 y {"N":"y3"}`)
		n.want("S", minute(10))
		n.want("Other", time.Time{}, `2 z {"N":"z0"}`)
	}
	c := w.node("c-1") // another run, which never wrote
	c.want("Other", time.Time{}, `2 z {"N":"z0"}`)
}

func TestAppendRefusesWhatIsNoRow(t *testing.T) {
	n := newWorld(t).node("a-1")
	writer := n.files.Begin(wish(n.w.key, "S", "a"), 0)
	ctx := context.Background()
	for _, bad := range []string{"", "{", "[]", "{\n}", "null"} {
		if err := writer.Append(ctx, minute(0), []byte(bad)); !errors.Is(err, notebooks.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, at := range []time.Time{{}, time.Unix(1<<40, 0), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if err := writer.Append(ctx, at, []byte(`{}`)); !errors.Is(err, notebooks.ErrInvalid) {
			t.Errorf("%s: %v", at, err)
		}
	}
	long := `{"x":"` + strings.Repeat("x", notebooks.MaxRowBytes-8) + `"}`
	if err := writer.Append(ctx, minute(1), []byte(long[:7]+long[6:])); !errors.Is(err, notebooks.ErrLarge) {
		t.Errorf("too long: %v", err)
	}
	must(t, writer.Append(ctx, minute(1), []byte(long)))
	must(t, writer.Append(ctx, minute(1), []byte(long)))
	if err := writer.Append(ctx, minute(0), []byte(`{}`)); !errors.Is(err, notebooks.ErrOrder) {
		t.Errorf("out of order: %v", err)
	}
	stored, err := writer.Close(ctx)
	must(t, err)
	n.w.propose(n.room.PlanAdd(wish(n.w.key, "S", "a"), stored))
	if got, missing, err := n.merged("S", time.Time{}); len(got) != 2*len(long)+len("1 a \n1 a ") || missing != nil || err != nil {
		t.Errorf("%d bytes came back, missing %v, %v", len(got), missing, err)
	}
}

// A node dies when the rows are durable and no entry names them: nobody sees them, the
// child of before stays, and they go with the notebook.
func TestACrashBetweenFilesAndEntryLeavesNoHalfChild(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a-1"), w.node("b-1")
	a.add("S", "x", 1)
	a.write("S", "x", 5, 6) // and dies
	a.write("T", "x", 5)
	b.want("S", time.Time{}, `1 x {"N":"x0"}`)
	if all := b.room.Timelines(w.key); len(all) != 1 {
		t.Errorf("%d timelines", len(all))
	}
	files, err := b.files.List(context.Background(), w.key)
	if err != nil || len(files) != 3 {
		t.Errorf("%v, %v", files, err)
	}
	w.propose(b.room.PlanDelete(w.key))
	b.sweep()
	if left := w.tree(); len(left) > 1 { // the folder of all notebooks
		t.Errorf("left: %v", left)
	}
	if u := b.room.Unused(); len(u) != 0 {
		t.Errorf("unused: %v", u)
	}
}

func TestReplacedAndDeletedRowsAreRemoved(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a-1"), w.node("b-1")
	a.add("S", "x", 1)
	a.add("S", "y", 2)
	b.add("S", "x", 3)
	if files, _ := a.files.List(context.Background(), w.key); len(files) != 3 {
		t.Errorf("before: %v", files)
	}
	b.sweep()
	if files, _ := a.files.List(context.Background(), w.key); len(files) != 2 {
		t.Errorf("after: %v", files)
	}
	a.want("S", time.Time{}, `2 y {"N":"y0"}`, `3 x {"N":"x0"}`)
	w.propose(a.room.PlanRemove(w.key, "S", ""))
	b.sweep()
	if left := w.tree(); len(left) > 1 {
		t.Errorf("left: %v", left)
	}
	a.add("S", "x", 7) // the same names again, in folders that went
	b.want("S", time.Time{}, `7 x {"N":"x0"}`)
}

// Rows whose writer did not know of the deletion go with the notebook; those that were
// begun after it stay, however late the sweep comes.
func TestTheSweepOfANotebookKeepsWhatCameAfter(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a-1"), w.node("b-1")
	a.add("S", "x", 1)
	late, writer, rows := a.write("S", "late", 2)
	w.propose(b.room.PlanDelete(w.key))
	m, err := a.room.PlanAdd(late, rows)
	must(t, err)
	if err := w.ledger.Propose(m); !errors.Is(err, notebooks.ErrDeleted) {
		t.Errorf("rows from before the deletion: %v", err)
	}
	a.add("S", "new", 3)
	b.sweep()
	writer.Drop(context.Background()) // nothing is left of it
	b.want("S", time.Time{}, `3 new {"N":"new0"}`)
	if files, _ := a.files.List(context.Background(), w.key); len(files) != 1 {
		t.Errorf("files: %v", files)
	}
}

func TestDroppedRowsLeaveNothing(t *testing.T) {
	w := newWorld(t)
	n := w.node("a-1")
	_, writer, _ := n.write(strings.Repeat("ü/", 83), "x", 1, 2)
	if files, _ := n.files.List(context.Background(), w.key); len(files) != 1 {
		t.Errorf("files: %v", files)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	writer.Drop(ended)
	if left := w.tree(); len(left) > 1 {
		t.Errorf("left: %v", left)
	}
}

// Names of timelines stay in the notebook's folder, and apart from each other.
func TestHostileNamesStayInTheirFolder(t *testing.T) {
	w := newWorld(t)
	n := w.node("a-1")
	names := []string{"../../../etc", "..", ".", "/abs", `C:\x`, "a/b", "a%2Fb", "~0-" + strings.Repeat("0", 32), "N.ONE", "%", strings.Repeat("/", 250)}
	for i, name := range names {
		n.add(name, name, i)
	}
	for i, name := range names {
		n.want(name, time.Time{}, fmt.Sprintf(`%d %s {"N":"%[2]s0"}`, i, name))
	}
	above, err := os.ReadDir(w.dir)
	must(t, err)
	inside, err := os.ReadDir(filepath.Join(w.dir, "notebooks"))
	must(t, err)
	if len(above) != 1 || len(inside) != 1 || inside[0].Name() != "N.ONE" {
		t.Errorf("store has %v, notebooks %v", above, inside)
	}
	w.propose(n.room.PlanDelete(w.key))
	n.sweep()
	if left := w.tree(); len(left) > 1 {
		t.Errorf("left: %v", left)
	}
}

func (n *node) segment(timeline string) string {
	n.w.t.Helper()
	line, err := n.room.Timeline(n.w.key, timeline)
	must(n.w.t, err)
	all, err := filepath.Glob(filepath.Join(n.w.dir, "notebooks", "N.ONE", "timelines", timeline, line.Children[0].Folder, "*"))
	must(n.w.t, err)
	if len(all) != 1 {
		n.w.t.Fatalf("files: %v", all)
	}
	return all[0]
}

// What is damaged or gone is told, and the rest is read.
func TestMissingRowsAreTold(t *testing.T) {
	w := newWorld(t)
	n := w.node("a-1")
	big := func(i int) []byte { return fmt.Appendf(nil, `{"N":%d,"X":%q}`, i, strings.Repeat("x", 700_000)) }
	writer := n.files.Begin(wish(w.key, "S", "a"), 0)
	for i := range 4 { // members of their own
		must(t, writer.Append(context.Background(), minute(i), big(i)))
	}
	stored, err := writer.Close(context.Background())
	must(t, err)
	w.propose(n.room.PlanAdd(wish(w.key, "S", "a"), stored))
	text, err := os.ReadFile(n.segment("S"))
	must(t, err)
	must(t, os.WriteFile(n.segment("S"), text[:len(text)*3/5], 0o600))
	fresh := w.node("b-1")
	must(t, fresh.restore(n))
	got, missing, err := fresh.merged("S", time.Time{})
	if strings.Count(got, `"N":`) != 2 || fmt.Sprint(missing) != "[{a 2}]" || err != nil {
		t.Errorf("%d rows, missing %v, %v", strings.Count(got, `"N":`), missing, err)
	}
	must(t, os.RemoveAll(filepath.Dir(n.segment("S"))))
	got, missing, err = w.node("c-1").merged("S", time.Time{})
	if got != "" || fmt.Sprint(missing) != "[{a 4}]" || err != nil {
		t.Errorf("%q, missing %v, %v", got, missing, err)
	}
}

// restore takes over the state of another node, as one that was away does.
func (n *node) restore(from *node) error {
	var b bytes.Buffer
	if _, err := from.room.View().WriteTo(&b); err != nil {
		return err
	}
	return n.room.Restore(&b)
}

// Files that are removed while they are read end the merge with an error: its reader
// does not take a part for the whole.
func TestAMergeTellsThatItsRowsWentAway(t *testing.T) {
	w := newWorld(t)
	n := w.node("a-1")
	row := fmt.Appendf(nil, `{"X":%q}`, strings.Repeat("x", 700_000))
	writer := n.files.Begin(wish(w.key, "S", "a"), 0)
	for i := range 5 {
		must(t, writer.Append(context.Background(), minute(i), row))
	}
	stored, err := writer.Close(context.Background())
	must(t, err)
	w.propose(n.room.PlanAdd(wish(w.key, "S", "a"), stored))
	line, err := n.room.Timeline(w.key, "S")
	must(t, err)
	rows := 0
	_, err = n.files.Merge(context.Background(), notebooks.Merge{Key: w.key, Timeline: "S", Children: line.Children}, func(notebooks.Row) error {
		if rows++; rows == 1 {
			w.propose(n.room.PlanRemove(w.key, "S", "a"))
			n.sweep()
		}
		return nil
	})
	if !errors.Is(err, notebooks.ErrGone) || rows != 1 {
		t.Errorf("%d rows, %v", rows, err)
	}
}

var errEnough = errors.New("enough")

func TestAMergeStopsWhenToldSo(t *testing.T) {
	n := newWorld(t).node("a-1")
	n.add("S", "x", 1, 2, 3)
	line, err := n.room.Timeline(n.w.key, "S")
	must(t, err)
	m := notebooks.Merge{Key: n.w.key, Timeline: "S", Children: line.Children}
	if _, err := n.files.Merge(context.Background(), m, func(notebooks.Row) error { return errEnough }); !errors.Is(err, errEnough) {
		t.Error(err)
	}
	m.Charge = func(context.Context) error { return errEnough }
	if _, err := n.files.Merge(context.Background(), m, func(notebooks.Row) error { return nil }); !errors.Is(err, errEnough) {
		t.Error(err)
	}
}

// raceEnabled is set where tests run under the race detector, which is slow.
var raceEnabled bool

// A merge of many rows holds a piece of each child, and a start in them is found without
// reading what comes before.
func TestAMergeStaysInBoundedMemory(t *testing.T) {
	rows, children := 1_000_000, 10
	if raceEnabled || testing.Short() {
		rows = 60_000
	}
	w := newWorld(t)
	n := w.node("a-1")
	pad := strings.Repeat("0123456789abcdef", 10)
	for c := range children {
		one := wish(w.key, "S", fmt.Sprintf("c%02d", c))
		writer := n.files.Begin(one, n.room.Begun())
		for i := c; i < rows; i += children {
			must(t, writer.Append(context.Background(), minute(0).Add(time.Duration(i)*time.Millisecond), fmt.Appendf(nil, `{"N":%d,"P":"%d%s"}`, i, i*7919, pad)))
		}
		stored, err := writer.Close(context.Background())
		must(t, err)
		w.propose(n.room.PlanAdd(one, stored))
	}
	line, err := n.room.Timeline(w.key, "S")
	must(t, err)
	before := heap()
	seen, most := 0, uint64(0)
	missing, err := n.files.Merge(context.Background(), notebooks.Merge{Key: w.key, Timeline: "S", Children: line.Children}, func(r notebooks.Row) error {
		if want := minute(0).Add(time.Duration(seen) * time.Millisecond); !r.At.Equal(want) {
			return fmt.Errorf("row %d is of %s, not %s", seen, r.At, want)
		}
		if seen++; seen%(rows/20) == 0 {
			most = max(most, heap())
		}
		return nil
	})
	if seen != rows || missing != nil || err != nil {
		t.Fatalf("%d rows of %d, missing %v, %v", seen, rows, missing, err)
	}
	if used := int64(most) - int64(before); used > int64(children)<<20*4 {
		t.Errorf("the merge held %d KiB", used>>10)
	} else {
		t.Logf("%d rows: the merge held %d KiB", rows, used>>10)
	}
	n.wantSeek(line, rows)
}

// wantSeek reads the last hundred rows, and counts the pieces that were read for it.
func (n *node) wantSeek(line *notebooks.Timeline, rows int) {
	n.w.t.Helper()
	pieces, seen := 0, 0
	_, err := n.files.Merge(context.Background(), notebooks.Merge{
		Key: n.w.key, Timeline: "S", Children: line.Children, Start: minute(0).Add(time.Duration(rows-100) * time.Millisecond),
		Charge: func(context.Context) error { pieces++; return nil },
	}, func(notebooks.Row) error { seen++; return nil })
	if most := 3 * len(line.Children); err != nil || seen != 100 || pieces > most {
		n.w.t.Errorf("%d rows in %d pieces (at most %d), %v", seen, pieces, most, err)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// forgetful is a mount that remembers that a folder was not there, until the one above
// is read anew, as NFS does.
type forgetful struct {
	filestore.FS
	dir   string
	fresh atomic.Bool
}

func (f *forgetful) ReadDir(name string) ([]fs.DirEntry, error) {
	switch {
	case name == path.Dir(f.dir):
		f.fresh.Store(true)
	case name == f.dir && !f.fresh.Load():
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return f.FS.ReadDir(name)
}

func TestRowsThatAMountDoesNotShowYetAreLookedForAgain(t *testing.T) {
	w := newWorld(t)
	n := w.node("a-1")
	n.add("S", "x", 1)
	line, err := n.room.Timeline(w.key, "S")
	must(t, err)
	disk, err := filestore.OpenOS(w.dir)
	must(t, err)
	mount := &forgetful{FS: disk, dir: filestore.TimelineRows(w.key.Org, w.key.Notebook, "S", line.Children[0].Folder).String()}
	store, err := filestore.Open("", filestore.Options{FS: mount})
	must(t, err)
	b := &node{w: w, room: n.room, store: store, files: notebooks.NewFiles(notebooks.FilesOptions{
		Store: store, Reader: filestore.NewReader(filestore.ReaderOptions{Store: store}),
	})}
	b.want("S", time.Time{}, `1 x {"N":"x0"}`)
	must(t, errors.Join(store.Close(context.Background()), disk.Close()))
}
