package flows_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

const (
	procs  = "$aa01" // token of Linux.Sys.Pslist
	mounts = "$bb02" // token of Linux.Mounts/All
)

// world is a pack without its network: rooms that share a disk and a ledger.
type world struct {
	t      *testing.T
	ledger *flowstest.Ledger
	disk   *flowstest.Disk
	client ids.Client
	nodes  int
}

// node is one room and its way to the disk.
type node struct {
	*flows.Room
	world     *world
	committer *flowstest.Committer
	logs      *bytes.Buffer

	mu    sync.Mutex
	woken []ids.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, ledger: flowstest.NewLedger(), disk: flowstest.NewDisk(), client: clientID(t, "C.00000000000000a1")}
}

func clientID(t *testing.T, text string) ids.Client {
	t.Helper()
	c, err := ids.ParseClient(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) node(change ...func(*flows.Options)) *node {
	w.t.Helper()
	w.nodes++
	n := &node{world: w, committer: &flowstest.Committer{Disk: w.disk, Facts: w.ledger.Outbox}, logs: &bytes.Buffer{}}
	o := flows.Options{
		Committer: n.committer, Incarnation: fmt.Sprintf("n%d-1", w.nodes), Reader: w.disk,
		Logger: slog.New(slog.NewTextHandler(n.logs, nil)),
		Wake:   func(_ ids.Org, c ids.Client) { n.wake(c) },
	}
	for _, c := range change {
		c(&o)
	}
	n.Room = flows.New(o)
	w.join(n)
	return n
}

func (n *node) wake(c ids.Client) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.woken = append(n.woken, c)
}

func (w *world) join(n *node) {
	w.t.Helper()
	if err := w.ledger.Join(n.Table, n.Events); err != nil {
		w.t.Fatal(err)
	}
}

// request is a collection of two artifacts in one scope.
func request() flows.Start {
	return flows.Start{
		Creator: "ada", Artifacts: []flows.Artifact{{Name: "Linux.Sys.Pslist"}, {Name: "Linux.Mounts"}},
		Names: map[string]string{procs: "Linux.Sys.Pslist", mounts: "Linux.Mounts/All"},
		Request: &wirepb.FlowRequest{VqlClientActions: []*wirepb.VQLCollectorArgs{{Query: []*wirepb.VQLRequest{
			{Vql: "LET x = 1"}, {Vql: "SELECT * FROM pslist()", Name: procs}, {Vql: "SELECT * FROM mounts()", Name: mounts},
		}}}},
	}
}

func (w *world) start(change ...func(*flows.Start)) flows.Key {
	w.t.Helper()
	s := request()
	s.Clients = []ids.Client{w.client}
	for _, c := range change {
		c(&s)
	}
	m, id, err := flows.PlanStart(s)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.ledger.Propose(m); err != nil {
		w.t.Fatal(err)
	}
	return flows.Key{Org: s.Org, Client: s.Clients[0], Flow: id}
}

func (w *world) deliver() {
	w.t.Helper()
	if err := w.ledger.Deliver(); err != nil {
		w.t.Fatal(err)
	}
}

func (n *node) try(messages ...*wirepb.VeloMessage) error {
	return n.Ingest(context.Background(), n.peer(), messages)
}

func (n *node) peer() flows.Peer {
	return flows.Peer{Client: n.world.client, Received: time.Now()}
}

// send takes messages in and lets the ledger hear of them.
func (n *node) send(messages ...*wirepb.VeloMessage) {
	n.world.t.Helper()
	if err := n.try(messages...); err != nil {
		n.world.t.Fatal(err)
	}
	n.world.deliver()
}

func (n *node) flow(key flows.Key) *flows.Flow {
	n.world.t.Helper()
	f, err := n.Flow(key)
	if err != nil {
		n.world.t.Fatal(err)
	}
	return f
}

func (n *node) want(key flows.Key, state flows.State) *flows.Flow {
	n.world.t.Helper()
	f := n.flow(key)
	if f.State != state {
		n.world.t.Fatalf("flow is %s (%s), want %s", f.State, f.Error, state)
	}
	return f
}

// rowText is rows first … first+count-1 as a client numbers them.
func rowText(first, count int) string {
	var b strings.Builder
	for i := first; i < first+count; i++ {
		fmt.Fprintf(&b, "{\"n\":%d}\n", i)
	}
	return b.String()
}

func rows(key flows.Key, token string, first, count int) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: key.Flow.String(), VqlResponse: &wirepb.VQLResponse{
		Query: &wirepb.VQLRequest{Name: token, Vql: "SELECT secret FROM x"}, JsonlResponse: rowText(first, count),
		TotalRows: uint64(count), QueryStartRow: uint64(first),
	}}
}

func packed(m *wirepb.VeloMessage) *wirepb.VeloMessage {
	r := m.VqlResponse
	r.CompressedJsonResponse, r.UncompressedSize = deflate([]byte(r.JsonlResponse)), uint64(len(r.JsonlResponse))
	r.JsonlResponse = ""
	return m
}

func deflate(text []byte) []byte {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write(text) // a buffer does not fail
	_ = z.Close()
	return b.Bytes()
}

func logLines(key flows.Key, first int, texts ...string) *wirepb.VeloMessage {
	var b strings.Builder
	for _, text := range texts {
		fmt.Fprintf(&b, "{\"client_time\":1,\"level\":\"INFO\",\"message\":%q}\n", text)
	}
	return &wirepb.VeloMessage{SessionId: key.Flow.String(), LogMessage: &wirepb.LogMessage{
		Id: int64(first), NumberOfRows: uint64(len(texts)), Jsonl: b.String(),
	}}
}

func status(s wirepb.VeloStatus_ReturnedStatus, rows int64, text string) *wirepb.VeloStatus {
	return &wirepb.VeloStatus{
		Status: s, ResultRows: rows, ErrorMessage: text, Backtrace: "goroutine 1 [running]", FirstActive: 1_000_000, Duration: 5,
	}
}

func progress(key flows.Key, s ...*wirepb.VeloStatus) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: key.Flow.String(), FlowStats: &wirepb.FlowStats{QueryStatus: s}}
}

func complete(key flows.Key, s ...*wirepb.VeloStatus) *wirepb.VeloMessage {
	m := progress(key, s...)
	m.FlowStats.FlowComplete = true
	return m
}

func done(key flows.Key, n int) *wirepb.VeloMessage {
	return complete(key, status(wirepb.VeloStatus_OK, int64(n), ""))
}

func unknown(key flows.Key) *wirepb.VeloMessage {
	return complete(key, status(wirepb.VeloStatus_UNKNOWN_FLOW, 0, "Flow not known"))
}

// forgot are the answers of a client that knows none of the flows it is asked
// about.
func forgot(told []*wirepb.VeloMessage) []*wirepb.VeloMessage {
	var out []*wirepb.VeloMessage
	for _, m := range told {
		for _, id := range m.GetFlowStatsRequest().GetFlowId() {
			out = append(out, &wirepb.VeloMessage{SessionId: id, FlowStats: unknown(flows.Key{}).FlowStats})
		}
	}
	return out
}

// offer does what Run does about tasks that clients do not know.
func (n *node) offer() {
	n.world.t.Helper()
	if err := n.MakeOffers(context.Background()); err != nil {
		n.world.t.Fatal(err)
	}
	n.world.deliver()
}

func results(key flows.Key, name string) filestore.Set {
	return filestore.FlowResults(key.Org, key.Client, key.Flow, name)
}

// stored checks that a result is rows 0 … n-1, each once.
func (w *world) stored(key flows.Key, name string, n int) {
	w.t.Helper()
	got, err := w.disk.Rows(results(key, name))
	if err != nil {
		w.t.Fatal(err)
	}
	if want := rowText(0, n); strings.Join(got, "") != want {
		w.t.Fatalf("%s has %d rows, want %d:\n%.300q", name, len(got), n, got)
	}
}

func (w *world) letters() string { return w.disk.Text(filestore.DeadLetters(ids.RootOrg)) }

// failing makes a committer fail as often as told.
func failing(times int) func(context.Context, *filestore.Commit) error {
	return func(context.Context, *filestore.Commit) error {
		if times--; times >= 0 {
			return flowstest.ErrInjected
		}
		return nil
	}
}

func mustErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func kinds(messages []*wirepb.VeloMessage) string {
	var out []string
	for _, m := range messages {
		switch {
		case m.FlowRequest != nil:
			out = append(out, "start")
		case m.Cancel != nil:
			out = append(out, "cancel")
		case m.FlowStatsRequest != nil:
			out = append(out, fmt.Sprintf("ask%d", len(m.FlowStatsRequest.FlowId)-2)) // one id on either side says which question it is
		case m.KillKillKill != nil:
			out = append(out, "kill")
		case m.UpdateEventTable != nil:
			out = append(out, "table")
		}
	}
	return strings.Join(out, " ")
}

var _ = buspb.FlowEnd_OUTCOME_OK
