package collections_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"raptorpack/clients"
	"raptorpack/collections"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/internal/archive"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

var key *rsa.PrivateKey

func TestMain(m *testing.M) {
	var err error
	if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// world is one node's rooms on a real store, with a ledger in memory.
type world struct {
	t         testing.TB
	ledger    *flowstest.Ledger
	store     *filestore.Store
	committer *filestore.Committer
	clients   *clients.Room
	flows     *flows.Room
	exporter  *collections.Exporter
	downloads *collections.Downloads
	one       ids.Client
}

type outbox func([]*buspb.Mutation) error

func (o outbox) AppendSync(_ context.Context, facts []*buspb.Mutation) error { return o(facts) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, ledger: flowstest.NewLedger(), clients: clients.New(nil), one: ids.ClientOfKey(&key.PublicKey)}
	var err error
	w.store, err = filestore.Open(t.TempDir(), filestore.Options{})
	must(t, err)
	w.committer, err = filestore.NewCommitter(filestore.CommitterOptions{
		Store: w.store, Incarnation: "n1-1", Valid: func() bool { return true }, Outbox: outbox(w.ledger.Outbox),
	})
	must(t, err)
	reader := filestore.NewReader(filestore.ReaderOptions{Store: w.store})
	w.flows = flows.New(flows.Options{Committer: w.committer, Reader: reader, Tails: reader, Store: w.store, Incarnation: "n1-1"})
	must(t, w.ledger.Join(w.clients, w.flows.Table))
	w.exporter = collections.NewExporter(w.flows, w.clients)
	w.downloads = collections.NewDownloads(collections.DownloadsOptions{
		Store: w.store, Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	w.run(w.committer.Run)
	w.apply(w.clients.PlanEnrol(ids.RootOrg, clients.Enrolment{Client: w.one, Key: &key.PublicKey}))
	w.apply(w.clients.PlanInfo(ids.RootOrg, w.one, []byte(`{"Hostname":"web-1","OS":"linux","Fqdn":"web-1.example"}`), ids.Flow{}, nil))
	return w
}

// run runs a part until the test ends.
func (w *world) run(part func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value: how it ended
	go func() { ended <- part(ctx) }()
	w.t.Cleanup(func() {
		stop()
		must(w.t, <-ended)
	})
}

func (w *world) apply(m *buspb.Mutation, err error) {
	w.t.Helper()
	must(w.t, err)
	must(w.t, w.ledger.Propose(m))
}

// start makes a task with two results.
func (w *world) start() flows.Key {
	w.t.Helper()
	m, flow, err := flows.PlanStart(flows.Start{
		Clients: []ids.Client{w.one}, Creator: "ada", Artifacts: []flows.Artifact{{Name: "Linux.Test", Parameters: []flows.Parameter{{Name: "Path", Value: "/etc"}}}},
		Names: map[string]string{"result-1": "Linux.Test/Files", "result-2": "Linux.Test/Empty"},
		Request: &wirepb.FlowRequest{VqlClientActions: []*wirepb.VQLCollectorArgs{{Query: []*wirepb.VQLRequest{
			{Vql: "SELECT 1", Name: "result-1"}, {Vql: "SELECT 2", Name: "result-2"},
		}}}},
	})
	w.apply(m, err)
	return flows.Key{Client: w.one, Flow: flow}
}

func (w *world) ingest(key flows.Key, messages ...*wirepb.VeloMessage) {
	w.t.Helper()
	for _, m := range messages {
		m.SessionId = key.Flow.String()
	}
	must(w.t, w.flows.Ingest(context.Background(), flows.Peer{Client: key.Client, Received: time.Now()}, messages))
	must(w.t, w.ledger.Deliver())
}

// flow is one with rows, a log, a plain and a sparse upload, which has ended.
func (w *world) flow() flows.Key {
	w.t.Helper()
	key := w.start()
	w.ingest(key,
		rows("result-1", 0, `{"n":0,"name":"=evil"}`, `{"n":1,"name":"b","more":[1,2]}`, `{"n":2}`),
		&wirepb.VeloMessage{LogMessage: &wirepb.LogMessage{NumberOfRows: 1, Jsonl: `{"client_time":1,"level":"DEFAULT","message":"hello"}` + "\n", Level: "DEFAULT"}},
		buffer(0, "hello", 5, nil, "etc", "passwd"),
		buffer(1, "datatail", 1<<20, []*wirepb.Range{
			{FileOffset: 0, OriginalOffset: 0, FileLength: 4, Length: 4},
			{FileOffset: 4, OriginalOffset: 4, Length: 1<<20 - 8},
			{FileOffset: 4, OriginalOffset: 1<<20 - 4, FileLength: 4, Length: 4},
		}, "C:", "$MFT"),
		&wirepb.VeloMessage{FlowStats: &wirepb.FlowStats{FlowComplete: true, QueryStatus: []*wirepb.VeloStatus{{
			Status: wirepb.VeloStatus_OK, ResultRows: 3, UploadedFiles: 2, LogRows: 1, FirstActive: 1_000_000, Duration: 5, CpuNs: proto.Int64(7),
		}}}},
	)
	f, err := w.flows.Flow(key)
	must(w.t, err)
	if f.State != flows.Completed {
		w.t.Fatalf("flow is %s: %s", f.State, f.Error)
	}
	return key
}

func rows(name string, first int, lines ...string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{VqlResponse: &wirepb.VQLResponse{
		Query: &wirepb.VQLRequest{Name: name}, JsonlResponse: strings.Join(lines, "\n") + "\n", TotalRows: uint64(len(lines)), QueryStartRow: uint64(first),
	}}
}

func buffer(number int64, data string, size uint64, ranges []*wirepb.Range, components ...string) *wirepb.VeloMessage {
	b := &wirepb.FileBuffer{
		Pathspec: &wirepb.PathSpec{Path: "/" + strings.Join(components, "/"), Components: components, Accessor: "file"}, Data: []byte(data),
		UploadNumber: number, StoredSize: uint64(len(data)), Size: size, Eof: true,
	}
	if ranges != nil {
		b.Index = &wirepb.Index{Ranges: ranges}
	}
	return &wirepb.VeloMessage{FileBuffer: b}
}

// zip is a flow as a zip.
func (w *world) zip(key flows.Key, password string, o collections.ExportOptions) []byte {
	w.t.Helper()
	var out bytes.Buffer
	must(w.t, archive.Seal(&out, password, func(to io.Writer) error {
		manifest, err := w.exporter.Zip(w.t.Context(), key, to, o)
		if err == nil && !manifest.Whole {
			w.t.Errorf("problems: %v", manifest.Problems)
		}
		return err
	}))
	return out.Bytes()
}

// members are all files of a zip.
func members(t testing.TB, data []byte, password string) map[string]string {
	t.Helper()
	r, err := archive.Open(t.Context(), bytes.NewReader(data), int64(len(data)), password, archive.Limits{})
	must(t, err)
	out := map[string]string{}
	for _, name := range r.Names() {
		in, err := r.Open(name)
		must(t, err)
		text, err := io.ReadAll(in)
		must(t, err)
		out[name] = string(text)
	}
	return out
}
