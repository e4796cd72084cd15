package runner_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"raptorpack/artifacts"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/internal/testkit"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/runner"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// world is the flows of one node on a real store, with a ledger in memory.
type world struct {
	t       *testing.T
	ledger  *flowstest.Ledger
	flows   *flows.Room
	library *artifacts.Repository
	engine  *vql.Engine
	leads   atomic.Bool
	settled atomic.Bool
	fails   atomic.Int64 // messages that are refused before one is taken
	marks   atomic.Int64 // calls of mark()

	mu       sync.Mutex
	sessions []string // in whose name, with a star for impersonated
	denied   string   // a permission that nobody has
}

// outbox makes facts entries at once.
type outbox struct{ ledger *flowstest.Ledger }

func (o outbox) AppendSync(_ context.Context, facts []*buspb.Mutation) error {
	if err := o.ledger.Outbox(facts); err != nil {
		return err
	}
	return o.ledger.Deliver()
}

func newWorld(t *testing.T, texts ...string) *world {
	t.Helper()
	w := &world{t: t, ledger: flowstest.NewLedger(), library: artifacts.NewRepository(nil)}
	w.leads.Store(true)
	w.settled.Store(true)
	for _, text := range texts {
		d, err := artifacts.Parse("a.yaml", []byte(text))
		w.check(err)
		w.check(w.library.Add(d))
	}
	store, err := filestore.Open(t.TempDir(), filestore.Options{})
	w.check(err)
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: "n1-1", Valid: func() bool { return true }, Outbox: outbox{w.ledger},
	})
	w.check(err)
	w.flows = flows.New(flows.Options{
		Committer: committer, Reader: filestore.NewReader(filestore.ReaderOptions{Store: store}), Store: store, Incarnation: "n1-1",
	})
	w.check(w.ledger.Join(w.flows.Table))
	stopFlows := w.running(w.flows.Run)
	stopCommitter := w.running(committer.Run)
	t.Cleanup(func() {
		stopFlows()
		stopCommitter()
		w.check(store.Close(context.Background()))
	})
	mark := vql.NewFunction(vql.Spec{Name: "mark", Permission: "EXECVE"}, func(context.Context, *vql.Scope, *struct{}) (vql.Value, error) {
		return w.marks.Add(1), nil
	})
	w.engine, err = vql.NewEngine(append(endpoint.Functions(), mark), endpoint.Plugins())
	w.check(err)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// running runs something until stop is called.
func (w *world) running(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value
	go func() { ended <- run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
	})
}

// Ingest refuses what it is told to refuse.
func (w *world) Ingest(ctx context.Context, peer flows.Peer, messages []*wirepb.VeloMessage) error {
	if w.fails.Add(-1) >= 0 {
		return flows.ErrTryAgain
	}
	return w.flows.Ingest(ctx, peer, messages)
}

func (w *world) Attach(org ids.Org, client ids.Client) *flows.Attachment {
	return w.flows.Attach(org, client)
}

func (w *world) Flow(key flows.Key) (*flows.Flow, error) { return w.flows.Flow(key) }

func (w *world) List(org ids.Org, client ids.Client, before ids.Flow, limit int) []*flows.Flow {
	return w.flows.List(org, client, before, limit)
}

// Allowed implements vql.Permissions.
func (w *world) Allowed(permission string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return permission != w.denied
}

func (w *world) session(principal string, impersonated bool) (vql.SessionOptions, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if impersonated {
		principal += "*"
	}
	w.sessions = append(w.sessions, principal)
	if principal == "nobody" {
		return vql.SessionOptions{}, errors.New("no such account")
	}
	return vql.SessionOptions{Permissions: w, Accessors: endpoint.Accessors()}, nil
}

// lead runs collections on the server until stop is called.
func (w *world) lead() (stop func()) {
	w.t.Helper()
	r := runner.New(runner.Options{
		Flows: w, Engine: w.engine, Session: w.session, TempDir: w.t.TempDir(),
		Settled: func(context.Context) (bool, error) { return w.settled.Load(), nil },
	})
	stop = w.running(func(ctx context.Context) error { return r.Run(ctx, w.leads.Load) })
	w.t.Cleanup(stop)
	return stop
}

// start begins a collection in the name of somebody.
func (w *world) start(creator, artifact string, edit ...func(*flows.Start)) flows.Key {
	w.t.Helper()
	request, err := w.library.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: artifact}}})
	w.check(err)
	s := flows.Start{
		Clients: []ids.Client{ids.Server}, Creator: creator, Artifacts: []flows.Artifact{{Name: artifact}}, Names: request.Names,
		Request: &wirepb.FlowRequest{VqlClientActions: request.Queries, MaxUploadBytes: request.MaxUploadBytes},
	}
	for _, e := range edit {
		e(&s)
	}
	m, flow, err := flows.PlanStart(s)
	w.check(err)
	w.check(w.ledger.Propose(m))
	return flows.Key{Client: ids.Server, Flow: flow}
}

// await returns a flow when it is in one of some states.
func (w *world) await(key flows.Key, states ...flows.State) *flows.Flow {
	w.t.Helper()
	var f *flows.Flow
	testkit.Eventually(w.t, "flow "+key.Flow.String(), func() (any, bool) {
		var err error
		f, err = w.flows.Flow(key)
		if err != nil {
			return err, false
		}
		return []any{f.State, f.Error}, slices.Contains(states, f.State)
	})
	return f
}

// rows returns the stored rows of a result.
func (w *world) rows(key flows.Key, name string) []string {
	w.t.Helper()
	page, err := w.flows.Results(w.t.Context(), key, name, flows.Page{Limit: 1000})
	w.check(err)
	var out []string
	for _, row := range page.Rows {
		out = append(out, strings.TrimSpace(string(row.Line)))
	}
	return out
}

func (w *world) logs(key flows.Key) string {
	w.t.Helper()
	page, err := w.flows.Logs(w.t.Context(), key, flows.Page{Limit: 1000})
	w.check(err)
	var out []string
	for _, row := range page.Rows {
		out = append(out, string(row.Line))
	}
	return strings.Join(out, "")
}

func (w *world) ran() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sessions)
}
