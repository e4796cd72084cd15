package queues_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/internal/testkit"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/queues"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a pack of nodes on one store, with a ledger in memory.
type world struct {
	t      *testing.T
	dir    string
	ledger *flowstest.Ledger
	key    *rsa.PrivateKey
	client ids.Client
}

// node is one of them.
type node struct {
	w         *world
	clients   *clients.Room
	flows     *flows.Room
	hunts     *hunts.Room
	artifacts *artifacts.Room
	notebooks *notebooks.Room
	queues    *queues.Room
	writer    *queues.Writer
	outbox    *outbox

	uploaded map[flows.Key][]flows.Upload
	broken   atomic.Int32 // calls of uploads that fail
}

func (n *node) uploads(_ context.Context, key flows.Key) ([]flows.Upload, error) {
	if n.broken.Add(-1) >= 0 {
		return nil, errCut
	}
	all, known := n.uploaded[key]
	if !known {
		return nil, flows.ErrNotFound
	}
	return all, nil
}

// outbox keeps facts until they are delivered; or it is cut off.
type outbox struct {
	mu    sync.Mutex
	cut   bool
	facts []*buspb.Mutation
}

var errCut = errors.New("cut off")

func (o *outbox) AppendSync(_ context.Context, facts []*buspb.Mutation) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cut {
		return errCut
	}
	o.facts = append(o.facts, facts...)
	return nil
}

func (o *outbox) set(cut bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cut = cut
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), ledger: flowstest.NewLedger()}
	var err error
	w.key, err = rsa.GenerateKey(rand.Reader, 2048)
	w.must(err)
	w.client = ids.ClientOfKey(&w.key.PublicKey)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) propose(m *buspb.Mutation, err error) {
	w.t.Helper()
	w.must(err)
	m.Principal = "ada"
	w.must(w.ledger.Propose(m))
}

// node opens the store as one node does.
func (w *world) node(incarnation string) *node {
	w.t.Helper()
	n := &node{w: w, clients: clients.New(nil), queues: queues.New(), outbox: &outbox{}, artifacts: artifacts.NewRoom(artifacts.NewRepository(nil))}
	n.clients.Follow(n.queues.ClientChanged)
	n.artifacts.Follow(n.queues.ArtifactModified)
	n.hunts = hunts.New(hunts.Options{Clients: n.clients, Created: n.queues.HuntCreated})
	n.clients.Follow(n.hunts.ClientChanged)
	n.notebooks = notebooks.New(notebooks.Options{Added: n.queues.TimelineAdded})
	store, err := filestore.Open(w.dir, filestore.Options{})
	w.must(err)
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: incarnation, Valid: func() bool { return true }, Outbox: n.outbox,
	})
	w.must(err)
	stop := w.background(committer.Run)
	w.t.Cleanup(func() {
		stop()
		w.must(store.Close(context.Background()))
	})
	reader := filestore.NewReader(filestore.ReaderOptions{Store: store})
	n.flows = flows.New(flows.Options{
		Committer: committer, Reader: reader, Tails: reader, Store: store, Incarnation: incarnation, Hunts: n.hunts, Finished: n.queues.FlowsFinished,
	})
	w.must(w.ledger.Join(n.clients, n.artifacts, n.hunts, n.flows.Table, n.notebooks, n.queues))
	n.writer = queues.NewWriter(queues.WriterOptions{
		Room: n.queues, Committer: committer, Flows: n.flows, AppendRecord: func(dst []byte, key flows.Key) []byte {
			f, err := n.flows.Flow(key)
			if err != nil {
				return dst
			}
			return fmt.Appendf(dst, `{"session_id":%q,"state":%q}`, f.Flow, f.State)
		},
		Uploads: n.uploads,
	})
	return n
}

// background runs something until what it returns is called.
func (w *world) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value
	go func() { ended <- run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		w.must(<-ended)
	})
}

// leads runs the node's writer until all that waits is written, and told.
func (n *node) leads() {
	n.w.t.Helper()
	stop := n.w.background(n.writer.Run)
	defer stop()
	testkit.Eventually(n.w.t, "all is written", func() (any, bool) {
		n.deliver()
		waiting, _ := n.queues.Waiting()
		return waiting, waiting == 0
	})
}

func (n *node) deliver() {
	n.w.t.Helper()
	n.outbox.mu.Lock()
	facts := n.outbox.facts
	n.outbox.facts = nil
	n.outbox.mu.Unlock()
	for _, m := range facts {
		n.w.must(n.w.ledger.Propose(m))
	}
}

// rows are those of a queue, as this node reads them.
func (n *node) rows(queue string) []string {
	n.w.t.Helper()
	page, err := n.flows.EventRows(n.w.t.Context(), flows.EventRowsQuery{Name: queue})
	n.w.must(err)
	if len(page.Damage) > 0 || len(page.Holes) > 0 {
		n.w.t.Errorf("damage %v, holes %v", page.Damage, page.Holes)
	}
	var out []string
	for _, row := range page.Rows {
		out = append(out, string(row.Line))
	}
	return out
}

func (w *world) enrol(n *node) {
	w.t.Helper()
	w.propose(n.clients.PlanEnrol(ids.RootOrg, clients.Enrolment{Client: w.client, Key: &w.key.PublicKey}))
}

// ended starts a flow and cancels it.
func (w *world) ended(n *node) flows.Key {
	w.t.Helper()
	m, flow, err := flows.PlanStart(flows.Start{
		Clients: []ids.Client{w.client}, Creator: "ada", Artifacts: []flows.Artifact{{Name: "Test.A"}}, Names: map[string]string{"t": "Test.A"},
		Request: &wirepb.FlowRequest{VqlClientActions: []*wirepb.VQLCollectorArgs{{Query: []*wirepb.VQLRequest{{Name: "t", Vql: "SELECT 1"}}}}},
	})
	w.propose(m, err)
	key := flows.Key{Client: w.client, Flow: flow}
	w.propose(n.flows.PlanCancel(key, "ada"))
	f, err := n.flows.Flow(key)
	w.must(err)
	if !f.State.Final() {
		w.t.Fatalf("the flow is %s", f.State)
	}
	return key
}

// now is the time of the newest entry.
func (w *world) now() time.Time {
	all := w.ledger.Entries()
	return time.UnixMicro(all[len(all)-1].Time).UTC()
}
