package flows_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// pack is several nodes on one real store, without their network: the test says
// when facts reach the master and when entries reach each node.
type pack struct {
	deaf   bool // nodes do not hear what others stored
	t      testing.TB
	dir    string
	ledger *flowstest.Ledger
	master *flows.Room // applies entries as they are made, and holds nothing
	store  *filestore.Store
	reader *filestore.Reader
	nodes  []*member // the living
	runs   map[string]int
	logs   *lockedText
	client ids.Client
}

// member is one run of one node.
type member struct {
	*flows.Room
	pack      *pack
	name      string // of the node
	run       string // the incarnation
	follower  *flowstest.Follower
	outbox    *flowstest.Outbox
	store     *filestore.Store
	committer *gated
	labels    *labelBook
	valid     atomic.Bool // its lease
	torn      atomic.Bool // data becomes durable, facts do not
	end       func()      // stops its goroutines, as a dead process has none
}

// outbox is one that a test looks into.
type outbox func([]*buspb.Mutation) error

func (o outbox) AppendSync(_ context.Context, facts []*buspb.Mutation) error { return o(facts) }

// gated is a committer that can lose answers: what it did is done, and nobody hears.
type gated struct {
	*filestore.Committer
	before func(*filestore.Commit) error // nil: nothing
}

func (g *gated) Submit(ctx context.Context, c *filestore.Commit) error {
	if g.before != nil {
		if err := g.before(c); err != nil {
			return err
		}
	}
	return g.Committer.Submit(ctx, c)
}

// unsynced is a filesystem on which power is never cut.
type unsynced struct{ filestore.FS }

type unsyncedFile struct{ filestore.File }

func (unsyncedFile) Sync() error { return nil }

func (u unsynced) SyncDir(string) error { return nil }

func (u unsynced) Open(path string) (filestore.File, error) { return u.wrap(u.FS.Open(path)) }

func (u unsynced) Create(path string) (filestore.File, error) { return u.wrap(u.FS.Create(path)) }

func (u unsynced) OpenWrite(path string) (filestore.File, error) { return u.wrap(u.FS.OpenWrite(path)) }

func (u unsynced) wrap(f filestore.File, err error) (filestore.File, error) {
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newPack makes a pack of running nodes. It belongs into a synctest bubble.
func newPack(t testing.TB, names ...string) *pack {
	t.Helper()
	p := &pack{t: t, dir: t.TempDir(), ledger: flowstest.NewLedger(), runs: map[string]int{}, logs: &lockedText{}}
	p.client = mustClient("C.00000000000000a1")
	p.store = p.open()
	p.reader = filestore.NewReader(filestore.ReaderOptions{Store: p.store, Logger: p.log("reader")})
	p.master = flows.New(flows.Options{Reader: p.reader, Store: p.store, Incarnation: "master-1", Logger: p.log("master")})
	p.must(p.ledger.Join(p.master.Table, p.master.Events))
	for _, name := range names {
		p.launch(name)
	}
	t.Cleanup(func() {
		for _, m := range p.nodes {
			m.end()
		}
		p.must(p.store.Close(context.Background()))
	})
	return p
}

// grown is the bus: what one node stored the others hear of, unless they are deaf.
func (p *pack) grown(from *member, org ids.Org, name string) {
	for _, m := range p.nodes {
		if m != from && !p.deaf {
			m.HeardOfEvents(org, name)
		}
	}
}

func mustClient(text string) ids.Client {
	c, err := ids.ParseClient(text)
	if err != nil {
		panic(err)
	}
	return c
}

func (p *pack) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pack) log(who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(p.logs, nil)).With("who", who)
}

func (p *pack) open() *filestore.Store {
	p.t.Helper()
	disk, err := filestore.OpenOS(p.dir)
	p.must(err)
	s, err := filestore.Open("", filestore.Options{FS: unsynced{disk}, Logger: p.log("store")})
	p.must(err)
	return s
}

// launch starts the next run of a node.
func (p *pack) launch(name string, change ...func(*flows.Options)) *member {
	p.t.Helper()
	p.runs[name]++
	m := &member{pack: p, name: name, run: fmt.Sprintf("%s-%d", name, p.runs[name]), store: p.open(), outbox: p.ledger.NewOutbox(), labels: &labelBook{}}
	m.valid.Store(true)
	c, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: m.store, Incarnation: m.run, Valid: m.valid.Load, Outbox: outbox(m.facts), Logger: p.log(m.run),
	})
	p.must(err)
	m.committer = &gated{Committer: c}
	o := flows.Options{
		Committer: m.committer, Store: m.store, Incarnation: m.run, Logger: p.log(m.run),
		Reader: filestore.NewReader(filestore.ReaderOptions{Store: m.store, Logger: p.log(m.run)}),
		Fresh:  func(context.Context) error { return m.follower.CatchUp() },
		Untold: func(context.Context) ([]*buspb.Mutation, error) { return m.follower.Untold(), nil },
		Labels: m.labels.of, Tails: filestore.NewReader(filestore.ReaderOptions{Store: m.store, Logger: p.log(m.run)}),
		Grown: func(org ids.Org, name string) { p.grown(m, org, name) },
	}
	for _, c := range change {
		c(&o)
	}
	m.Room = flows.New(o)
	m.follower = p.ledger.Follow(m.Table, m.Events)
	p.must(m.follower.CatchUp())
	p.start(m)
	p.nodes = append(p.nodes, m)
	return m
}

func (m *member) facts(facts []*buspb.Mutation) error {
	if m.torn.Load() {
		return flowstest.ErrInjected
	}
	return m.outbox.Add(facts)
}

// start runs what a node runs.
func (p *pack) start(m *member) {
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	errs := make(chan error, 2) // one of each part
	parts.Go(func() { errs <- m.committer.Run(ctx) })
	parts.Go(func() { errs <- m.Run(ctx) })
	m.end = sync.OnceFunc(func() {
		stop()
		parts.Wait()
		for range 2 {
			p.must(<-errs)
		}
		p.must(m.store.Close(context.Background()))
	})
}

// kill ends a node without a word: from now on it makes nothing durable. Its files
// and its outbox stay.
func (p *pack) kill(m *member) {
	p.t.Helper()
	m.valid.Store(false)
	synctest.Wait()
	m.end()
	for i, n := range p.nodes {
		if n == m {
			p.nodes = append(p.nodes[:i:i], p.nodes[i+1:]...)
			break
		}
	}
}

// bury does what the master does about a dead incarnation: it takes over the rest
// of its outbox, then reads what it held.
func (p *pack) bury(m *member) {
	p.t.Helper()
	p.must(m.outbox.Deliver(1 << 30))
	mutations, err := p.master.RecoverCoverage(context.Background(), m.run)
	p.must(err)
	for _, mutation := range mutations {
		p.must(p.ledger.Propose(mutation))
	}
}

// deliver lets the facts of all living nodes reach the ledger, and all entries the
// nodes, until nothing moves any more.
func (p *pack) deliver() {
	p.t.Helper()
	for moved := true; moved; {
		synctest.Wait()
		moved = false
		for _, m := range p.nodes {
			moved = moved || m.outbox.Len() > 0 || m.follower.Lag() > 0
			p.must(m.outbox.Deliver(1 << 30))
			p.must(m.follower.CatchUp())
		}
	}
}

func (p *pack) collect(change ...func(*flows.Start)) flows.Key {
	p.t.Helper()
	s := request()
	s.Clients = []ids.Client{p.client}
	for _, c := range change {
		c(&s)
	}
	m, id, err := flows.PlanStart(s)
	p.must(err)
	p.must(p.ledger.Propose(m))
	return flows.Key{Org: s.Org, Client: s.Clients[0], Flow: id}
}

// started is a collection that all nodes know.
func (p *pack) started(change ...func(*flows.Start)) flows.Key {
	p.t.Helper()
	key := p.collect(change...)
	p.deliver()
	return key
}

// want checks the state at the master.
func (p *pack) want(key flows.Key, state flows.State) *flows.Flow {
	p.t.Helper()
	f, err := p.master.Flow(key)
	p.must(err)
	if f.State != state {
		p.t.Fatalf("flow is %s (%s), want %s\n%s", f.State, f.Error, state, p.logs)
	}
	return f
}

// rows checks that readers see rows 0 … n-1 of a result once each, in order.
func (p *pack) rows(key flows.Key, name string, n int) *filestore.RowsPage {
	p.t.Helper()
	page, err := p.reader.ReadRows(context.Background(), results(key, name), filestore.RowsQuery{Limit: 1 << 20})
	p.must(err)
	var text strings.Builder
	for _, row := range page.Rows {
		text.Write(row.Line)
		text.WriteByte('\n')
	}
	if got, want := text.String(), rowText(0, n); got != want || len(page.Holes) > 0 || page.Total != int64(n) {
		p.t.Fatalf("%s: %d rows (total %d), holes %v, want %d:\n%.300q", name, len(page.Rows), page.Total, page.Holes, n, got)
	}
	return page
}

func (m *member) try(messages ...*wirepb.VeloMessage) error {
	return m.Ingest(context.Background(), flows.Peer{Client: m.pack.client, Received: time.Now()}, messages)
}

// take takes messages in; what follows from them waits.
func (m *member) take(messages ...*wirepb.VeloMessage) {
	m.pack.t.Helper()
	m.pack.must(m.try(messages...))
}

// give takes messages in and lets all nodes hear of them.
func (m *member) give(messages ...*wirepb.VeloMessage) {
	m.pack.t.Helper()
	m.take(messages...)
	m.pack.deliver()
}

func (m *member) attach() *flows.Attachment {
	a := m.Attach(ids.RootOrg, m.pack.client)
	synctest.Wait() // for its fence
	return a
}

// labelBook is what a node knows of its client's labels.
type labelBook struct {
	mu     sync.Mutex
	labels []string
}

func (l *labelBook) set(labels ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.labels = labels
}

func (l *labelBook) of(ids.Org, ids.Client) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.labels
}

// inPack runs a story of nodes in a bubble.
func inPack(t *testing.T, story func(t *testing.T, p *pack), names ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { story(t, newPack(t, names...)) })
}
