package monitoring_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"raptorpack/artifacts"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/monitoring"
	"raptorpack/proto/buspb"
	"raptorpack/vql"
	"raptorpack/vql/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const watched = "Test.Watched"

// world is one node's rooms on a real store, in a bubble of time.
type world struct {
	t         *testing.T
	ledger    *flowstest.Ledger
	store     *filestore.Store
	committer *gate
	flows     *flows.Room
	artifacts *artifacts.Room
	engine    *vql.Engine
	reader    *filestore.Reader
	registry  *prometheus.Registry
	sent      int

	mu     sync.Mutex
	facts  []*buspb.Mutation // durable, not applied
	begun  map[string]int    // calls of begun(name)
	broken int               // calls of stumble() that fail
}

// gate is a committer that may refuse.
type gate struct {
	*filestore.Committer

	mu   sync.Mutex
	shut bool
}

var errShut = errors.New("shut")

func (g *gate) Submit(ctx context.Context, c *filestore.Commit) error {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut {
		return errShut
	}
	return g.Committer.Submit(ctx, c)
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

type outbox func([]*buspb.Mutation) error

func (o outbox) AppendSync(_ context.Context, facts []*buspb.Mutation) error { return o(facts) }

// inWorld runs a test in a bubble, whose time begins at 2000-01-01 00:00 UTC.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, ledger: flowstest.NewLedger(), begun: map[string]int{}, registry: prometheus.NewRegistry()}
		w.open()
		test(w)
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() {
	disk, err := filestore.OpenOS(w.t.TempDir())
	w.must(err)
	w.store, err = filestore.Open("", filestore.Options{FS: disk})
	w.must(err)
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: w.store, Incarnation: "n1-1", Valid: func() bool { return true }, Outbox: outbox(w.keep),
	})
	w.must(err)
	w.committer = &gate{Committer: committer}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value
	go func() { ended <- committer.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		w.must(errors.Join(<-ended, w.store.Close(context.Background()), disk.Close()))
	})
	w.reader = filestore.NewReader(filestore.ReaderOptions{Store: w.store})
	w.flows = flows.New(flows.Options{Committer: w.committer, Reader: w.reader, Tails: w.reader, Store: w.store, Incarnation: "n1-1"})
	w.artifacts = artifacts.NewRoom(artifacts.NewRepository(nil))
	w.must(w.ledger.Join(w.flows.Server, w.artifacts))
	begun := vql.NewFunction(vql.Spec{Name: "begun"}, func(_ context.Context, _ *vql.Scope, args *struct {
		Name string `vql:"name"`
	},
	) (vql.Value, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.begun[args.Name]++
		return true, nil
	})
	stumble := vql.NewFunction(vql.Spec{Name: "stumble"}, func(context.Context, *vql.Scope, *struct{}) (vql.Value, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.broken > 0 {
			w.broken--
			return nil, vql.ErrMemory
		}
		return true, nil
	})
	w.engine, err = vql.NewEngine([]*vql.Function{begun, stumble}, server.Plugins())
	w.must(err)
}

// keep is the outbox.
func (w *world) keep(facts []*buspb.Mutation) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts = append(w.facts, facts...)
	return nil
}

// deliver brings what lies in the outbox into the ledger.
func (w *world) deliver() {
	w.t.Helper()
	w.mu.Lock()
	facts := w.facts
	w.facts = nil
	w.mu.Unlock()
	for _, m := range facts {
		w.must(w.ledger.Propose(m))
	}
}

// untold is what lies there.
func (w *world) untold(context.Context) ([]*buspb.Mutation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.facts), nil
}

// set has the master run artifacts, and defines them.
func (w *world) set(texts ...string) {
	w.t.Helper()
	var all []flows.Artifact
	for _, text := range texts {
		d, err := artifacts.Parse("a.yaml", []byte(text))
		w.must(err)
		w.define(text)
		all = append(all, flows.Artifact{Name: d.Name})
	}
	m, err := flows.PlanServerEvents(ids.RootOrg, "ada", all, nil)
	w.must(err)
	w.must(w.ledger.Propose(m))
}

func (w *world) define(text string) {
	w.t.Helper()
	m, _, err := w.artifacts.PlanSet(ids.RootOrg, text, "ada")
	w.must(err)
	w.must(w.ledger.Propose(m))
}

// artifact is a server event artifact with one source.
func artifact(name, query string) string {
	return fmt.Sprintf("name: %s\ntype: SERVER_EVENT\nsources:\n- query: |\n    %s\n", name, strings.ReplaceAll(query, "\n", "\n    "))
}

const follow = "SELECT n FROM watch_monitoring(artifact='" + watched + "')"

// run leads until the returned function is called.
func (w *world) run() (stop func()) {
	w.t.Helper()
	runner := monitoring.New(monitoring.Options{
		Flows: w.flows, Artifacts: w.artifacts, Committer: w.committer, Engine: w.engine, Untold: w.untold,
		Session: func(org ids.Org, principal string, watch any) vql.SessionOptions {
			return vql.SessionOptions{
				Artifacts: w.artifacts.Repository(org), Limits: vql.Limits{TempDir: os.TempDir()},
				Services: []any{&server.Host{Principal: principal, Flows: w.flows, Artifacts: w.artifacts}, watch},
			}
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1) // one value
	go func() { done <- runner.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		w.must(<-done)
	})
	w.t.Cleanup(stop)
	return stop
}

// send stores events as ingest does: n of them, numbered.
func (w *world) send(n int) {
	w.t.Helper()
	for range n {
		w.sent++
		line := fmt.Sprintf(`{"ClientId":"C.00000000000000a1","_ts":%d,"n":%d}`, time.Now().Unix(), w.sent)
		extent := filestore.Extent{Client: ids.Server, Name: watched, Rows: 1, Digest: filestore.Digest{1, byte(w.sent), byte(w.sent >> 8)}}
		w.must(w.committer.Committer.Submit(context.Background(), &filestore.Commit{Appends: []filestore.Append{{
			Set: filestore.Events(ids.RootOrg, watched, time.Now()), Extent: extent, Lines: []byte(line + "\n"),
		}}}))
	}
	w.flows.StoredEvents(ids.RootOrg, watched)
}

// rows counts the rows that an artifact made, by the event's number.
func (w *world) rows(name string) map[int64]int {
	w.t.Helper()
	out := map[int64]int{}
	for _, line := range w.lines(name, false) {
		out[gjson.Get(line, "n").Int()]++
	}
	return out
}

func (w *world) lines(name string, log bool) []string {
	w.t.Helper()
	page, err := w.flows.EventRows(context.Background(), flows.EventRowsQuery{Name: name, Log: log, Limit: 5000})
	w.must(err)
	var out []string
	for _, row := range page.Rows {
		out = append(out, string(row.Line))
	}
	return out
}

// once checks that each event from one to another was worked off once.
func (w *world) once(name string, first, last int64) {
	w.t.Helper()
	want := map[int64]int{}
	for n := first; n <= last; n++ {
		want[n] = 1
	}
	if got := w.rows(name); !maps.Equal(got, want) {
		w.t.Errorf("%s made %v, want each of %d to %d once", name, got, first, last)
	}
}
