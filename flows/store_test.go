//go:build unix

package flows_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// real is a room on a real store in a temporary directory.
func real(tb testing.TB, ledger *flowstest.Ledger) (*flows.Room, *filestore.Store) {
	tb.Helper()
	store, err := filestore.Open(tb.TempDir(), filestore.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: "n1-1", Valid: func() bool { return true }, Outbox: outbox(ledger.Outbox),
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- committer.Run(ctx) }()
	reader := filestore.NewReader(filestore.ReaderOptions{Store: store})
	tb.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
		if err := store.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	room := flows.New(flows.Options{Committer: committer, Reader: reader, Store: store, Incarnation: "n1-1"})
	if err := ledger.Join(room.Table, room.Events); err != nil {
		tb.Fatal(err)
	}
	return room, store
}

func TestFlowOnARealStore(t *testing.T) {
	ledger := flowstest.NewLedger()
	room, store := real(t, ledger)
	ctx := t.Context()
	views, stopViews := contextOf(t)
	ended := make(chan error, 1)
	go func() { ended <- room.WriteViews(views) }()
	defer func() { stopViews(); <-ended }()

	s := request()
	s.Clients = []ids.Client{clientID(t, "C.00000000000000a1")}
	m, id, err := flows.PlanStart(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Propose(m); err != nil {
		t.Fatal(err)
	}
	key := flows.Key{Client: s.Clients[0], Flow: id}
	end := done(key, 1500)
	end.FlowStats.QueryStatus[0].UploadedFiles = 1
	err = room.Ingest(ctx, flows.Peer{Client: key.Client, Received: time.Now()}, []*wirepb.VeloMessage{
		packed(rows(key, procs, 0, 1000)), rows(key, procs, 1000, 500), logLines(key, 0, "a", "b"),
		transaction(key, 0), buffer(key, 0, 0, "hello"), eof(key, 0, 5), end,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Deliver(); err != nil {
		t.Fatal(err)
	}
	f, err := room.Flow(key)
	if err != nil || f.State != flows.Completed {
		t.Fatalf("flow %+v, %v", f, err)
	}
	page, err := room.Results(ctx, key, "Linux.Sys.Pslist", flows.Page{From: 1400, Limit: 10})
	if err != nil || len(page.Rows) != 10 || string(page.Rows[0].Line) != `{"n":1400}` || page.Total != 1500 {
		t.Fatalf("page %+v, %v", page, err)
	}
	file, about, err := room.OpenUpload(ctx, key, 0)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(file.Stored(ctx))
	if err != nil || string(data) != "hello" || about.Size != 5 {
		t.Errorf("upload %q, %+v, %v", data, about, err)
	}
	if err := file.Close(ctx); err != nil {
		t.Error(err)
	}
	coverage, err := room.CoverageOf(ctx, f, func(string) bool { return true })
	if err != nil || len(coverage.Names) != 1 || fmt.Sprint(coverage.Names[0].Bounds, coverage.Uploads) != "[0 1500] [0 1]" {
		t.Errorf("coverage %v, %v", coverage, err)
	}
	dir := filepath.Join(store.Root(), filestore.FlowDir(key.Org, key.Client, key.Flow))
	if got := lines(t, filepath.Join(dir, "results", "Linux.Sys.Pslist", "n1-1.jsonl.gz")); got != 1500 {
		t.Errorf("zcat shows %d rows", got)
	}
	waitFor(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "flow.json"))
		return err == nil && strings.Contains(string(text), `"state": "completed"`)
	})
}

func lines(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("condition did not come about")
		}
	}
}

// BenchmarkIngest measures, on a real store, a whole flow of 1,000 rows per
// packet and a small flow. cpu-us is processor time of the process.
func BenchmarkIngest(b *testing.B) {
	for _, c := range []struct {
		name          string
		packets, rows int
	}{{"small flow", 1, 10}, {"100,000 rows", 100, 1000}} {
		b.Run(c.name, func(b *testing.B) {
			ledger := flowstest.NewLedger()
			room, _ := real(b, ledger)
			client, err := ids.ParseClient("C.00000000000000a1")
			if err != nil {
				b.Fatal(err)
			}
			before := cpu(b)
			flowsDone := 0
			for b.Loop() {
				oneFlow(b, ledger, room, client, c.packets, c.rows)
				flowsDone++
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(flowsDone), "cpu-us/flow")
		})
	}
}

// BenchmarkIngestAlone is the same small flow with a store that takes no time:
// what this package itself costs, from plan to completion.
func BenchmarkIngestAlone(b *testing.B) {
	ledger := flowstest.NewLedger()
	room := flows.New(flows.Options{Committer: &noStore{outbox: ledger.Outbox}, Incarnation: "n1-1"})
	if err := ledger.Join(room.Table); err != nil {
		b.Fatal(err)
	}
	client, err := ids.ParseClient("C.00000000000000a1")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		oneFlow(b, ledger, room, client, 1, 10)
	}
}

type noStore struct {
	flowstest.Committer
	outbox func([]*buspb.Mutation) error
}

func (n *noStore) Submit(_ context.Context, c *filestore.Commit) error { return n.outbox(c.Facts) }

var wide = func() string {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, `{"Pid":%d,"Name":"process-%d","CommandLine":"/usr/bin/process --number=%d","Exe":"/usr/bin/process","Uid":0,"CreateTime":"2026-01-02T03:04:05Z"}`+"\n", i, i%37, i*7919)
	}
	return b.String()
}()

var (
	narrow                   = strings.Join(strings.SplitAfter(wide, "\n")[:10], "")
	wideZipped, narrowZipped = deflate([]byte(wide)), deflate([]byte(narrow))
)

func oneFlow(b *testing.B, ledger *flowstest.Ledger, room *flows.Room, client ids.Client, packets, count int) {
	b.Helper()
	s := request()
	s.Clients = []ids.Client{client}
	m, id, err := flows.PlanStart(s)
	if err != nil {
		b.Fatal(err)
	}
	if err := ledger.Propose(m); err != nil {
		b.Fatal(err)
	}
	key := flows.Key{Client: client, Flow: id}
	text := wide
	zipped := wideZipped
	if count < 1000 {
		text, zipped = narrow, narrowZipped
	}
	for i := range packets {
		batch := &wirepb.VeloMessage{SessionId: id.String(), VqlResponse: &wirepb.VQLResponse{
			Query: &wirepb.VQLRequest{Name: procs}, QueryStartRow: uint64(i * count), TotalRows: uint64(count),
			CompressedJsonResponse: zipped, UncompressedSize: uint64(len(text)),
		}}
		all := []*wirepb.VeloMessage{batch}
		if i == packets-1 {
			all = append(all, logLines(key, 0, "done"), done(key, packets*count))
		}
		if err := room.Ingest(context.Background(), flows.Peer{Client: client, Received: time.Now()}, all); err != nil {
			b.Fatal(err)
		}
	}
	if err := ledger.Deliver(); err != nil {
		b.Fatal(err)
	}
	if f, err := room.Flow(key); err != nil || f.State != flows.Completed {
		b.Fatalf("%+v, %v", f, err)
	}
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
