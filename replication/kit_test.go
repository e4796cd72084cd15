package replication_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/internal/testkit"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// book is a state that counts how often each body was applied, and in which
// order bodies came first. A body that begins with "refuse" is refused.
type book struct {
	during func() // called while an entry is applied; nil: nothing

	mu     sync.Mutex
	counts map[string]int
	times  []int64
}

var errNo = errors.New("the body says no")

func newBook() *book { return &book{counts: map[string]int{}} }

func (b *book) Kind() string { return "book" }

func (b *book) Apply(e *buspb.Entry) error {
	if bytes.HasPrefix(e.Mutation.Body, []byte("refuse")) {
		return fmt.Errorf("entry %.20s: %w", e.Mutation.Body, errNo)
	}
	if len(e.Mutation.Blob) != 0 {
		return errors.New("a blob came through to a state")
	}
	if b.during != nil {
		b.during()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[string(e.Mutation.Body)]++
	b.times = append(b.times, e.Time)
	return nil
}

func (b *book) count(body string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts[body]
}

func (b *book) total() (sum int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.counts {
		sum += n
	}
	return sum
}

func (b *book) View() io.WriterTo {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bookView(maps.Clone(b.counts))
}

type bookView map[string]int

func (v bookView) WriteTo(w io.Writer) (int64, error) {
	var out bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(v)) {
		line, err := json.Marshal([]any{k, v[k]})
		if err != nil {
			return 0, err
		}
		out.Write(append(line, '\n'))
	}
	return out.WriteTo(w)
}

func (b *book) Restore(r io.Reader) error {
	counts := map[string]int{}
	lines := json.NewDecoder(r)
	for {
		var line [2]any
		if err := lines.Decode(&line); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("restore book: %w", err)
		}
		counts[line[0].(string)] = int(line[1].(float64))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts = counts
	return nil
}

// term is a mastership that a test gives and takes.
type term struct {
	store *filestore.Store
	epoch uint64
	lost  atomic.Bool
}

func (t *term) Epoch() uint64 { return t.epoch }
func (t *term) Valid() bool   { return !t.lost.Load() }

// SealLedger publishes a seal as filestore's terms do.
func (t *term) SealLedger(ctx context.Context, epoch uint64, length int64, last uint64, chain [32]byte) (*filestore.LedgerSeal, error) {
	data, err := json.Marshal(filestore.LedgerSeal{Epoch: epoch, By: t.epoch, Length: length, LastIndex: last, Chain: chain})
	if err != nil {
		return nil, err
	}
	err = t.store.PublishFile(ctx, fmt.Sprintf("lease/seal-%d", epoch), data)
	if err != nil && !errors.Is(err, filestore.ErrExists) {
		return nil, err
	}
	return t.store.LedgerSeal(ctx, epoch)
}

// rig is one node process on a filesystem that a test controls.
type rig struct {
	t     testing.TB
	fs    filestore.FS
	fault *filestoretest.Faulty
	store *filestore.Store
	node  *replication.Node
	book  *book
	o     replication.Options

	stopRun  func()
	stopLead func() error
	term     *term
}

// newRig opens a process on fs and loads it. tune, unless nil, changes options.
func newRig(t testing.TB, on filestore.FS, incarnation string, tune func(*replication.Options)) *rig {
	t.Helper()
	r := &rig{t: t, fs: on, fault: filestoretest.NewFaulty(on), book: newBook()}
	var err error
	if r.store, err = filestore.Open("", filestore.Options{FS: r.fault}); err != nil {
		t.Fatal(err)
	}
	r.o = replication.Options{
		Store: r.store, Incarnation: incarnation, States: []replication.State{r.book},
		TailEvery: time.Hour, SuccessorWait: 300 * time.Millisecond,
		SnapshotEntries: -1, SnapshotBytes: -1,
	}
	if tune != nil {
		tune(&r.o)
	}
	if r.node, err = replication.New(r.o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

func (r *rig) load() *rig {
	r.t.Helper()
	if err := r.node.Load(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return r
}

// run lets the node send its facts.
func (r *rig) run() *rig {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.node.Run(ctx) }()
	r.stopRun = func() { cancel(); <-done }
	return r
}

// lead lets the node lead an epoch until stop, and waits until it does.
func (r *rig) lead(epoch uint64) *rig {
	r.t.Helper()
	failed := r.leadUnwaited(epoch)
	testkit.Eventually(r.t, fmt.Sprintf("epoch %d begins", epoch), func() (any, bool) {
		select {
		case err := <-failed:
			r.t.Fatalf("lead: %v", err)
		default:
		}
		at, _, _ := r.node.Position()
		return at, at == epoch
	})
	return r
}

// leadUnwaited returns a channel that gets an error of Lead once it ends.
func (r *rig) leadUnwaited(epoch uint64) <-chan error {
	r.term = &term{store: r.store, epoch: epoch}
	ctx, cancel := context.WithCancel(context.Background())
	done, failed := make(chan error, 1), make(chan error, 1)
	go func() {
		err := r.node.Lead(ctx, r.term)
		if err != nil {
			failed <- err
		}
		done <- err
	}()
	r.stopLead = sync.OnceValue(func() error { cancel(); return <-done })
	return failed
}

// stop ends leading and sending; it returns what Lead did.
func (r *rig) stop() (err error) {
	if r.stopLead != nil {
		err = r.stopLead()
		r.stopLead = nil
	}
	if r.stopRun != nil {
		r.stopRun()
		r.stopRun = nil
	}
	return err
}

func (r *rig) close() {
	r.fault.Clear()
	_ = r.stop() // tests that care have stopped it
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = r.store.Close(ctx) // a cut filesystem answers with errors
}

func mutation(body string) *buspb.Mutation {
	return &buspb.Mutation{Kind: "book", Body: []byte(body)}
}

func (r *rig) propose(body string) {
	r.t.Helper()
	if err := r.node.Propose(r.t.Context(), mutation(body)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) wantCount(body string, want int) {
	r.t.Helper()
	if got := r.book.count(body); got != want {
		r.t.Fatalf("%.40q was applied %d times, want %d", body, got, want)
	}
}

func (r *rig) eventually(what string, look func() (any, bool)) {
	r.t.Helper()
	testkit.Eventually(r.t, what, look)
}

// bytes is the state as a snapshot would have it.
func (r *rig) bytes() string {
	var b bytes.Buffer
	if _, err := r.book.View().WriteTo(&b); err != nil {
		r.t.Fatal(err)
	}
	return b.String()
}

func (r *rig) verify() replication.Report {
	r.t.Helper()
	report, err := replication.Verify(r.t.Context(), r.store)
	if err != nil {
		r.t.Fatalf("verify: %v (so far %+v)", err, report)
	}
	return report
}

func mustFind(t testing.TB, f filestore.FS, dir string) []fs.DirEntry {
	t.Helper()
	entries, err := f.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func wantErr(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Fatalf("got error %v, want one that is %v", err, target)
		}
	}
}
