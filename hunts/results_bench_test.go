package hunts_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Benchmarks of the results of a hunt: 10,000,000 rows over 100,000 clients in three
// segments. The hunt is built once, in some 20 s, into a temporary folder, or into
// the one that RAPTORPACK_RESULTS_BENCH names, where it stays.
//
//	go test -run '^$' -bench Results ./hunts
const (
	benchNodes = 3
	benchEach  = 100 // rows of a client
	benchName  = "Windows.System.Pslist"
	benchPlain = 1_743_923_020 // bytes of all rows
)

var benchHunt = hunts.Key{Hunt: must(ids.ParseHunt("H.BENCH"))}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// takesFacts is an outbox that keeps nothing.
type takesFacts struct{}

func (takesFacts) AppendSync(context.Context, []*buspb.Mutation) error { return nil }

// benchRoot is the folder of the big hunt; removed by TestMain.
var benchRoot = sync.OnceValues(func() (string, error) {
	if kept := os.Getenv("RAPTORPACK_RESULTS_BENCH"); kept != "" {
		if _, err := os.Stat(kept); err == nil {
			return kept, nil
		}
		if err := os.Mkdir(kept, 0o700); err != nil {
			return "", err
		}
		return kept, fillBench(kept)
	}
	root, err := os.MkdirTemp("", "raptorpack-results-")
	if err != nil {
		return "", err
	}
	benchMade = root
	return root, fillBench(root)
})

var benchMade string

func fillBench(root string) error {
	store, err := filestore.Open(root, filestore.Options{})
	if err != nil {
		return err
	}
	var nodes sync.WaitGroup
	errs := make([]error, benchNodes)
	for n := range benchNodes {
		nodes.Go(func() { errs[n] = fillNode(store, n) })
	}
	nodes.Wait()
	for _, err := range append(errs, store.Close(context.Background())) {
		if err != nil {
			return err
		}
	}
	return nil
}

// fillNode writes the segment of one node.
func fillNode(store *filestore.Store, n int) error {
	c, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: fmt.Sprintf("n%d-1", n), Valid: func() bool { return true }, Outbox: takesFacts{}, SegmentBytes: 8 << 30,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one answer
	go func() { ended <- c.Run(ctx) }()
	defer func() { stop(); <-ended }()
	commit := &filestore.Commit{}
	for i := n; i < fleetSize; i += benchNodes {
		commit.Appends = append(commit.Appends, filestore.Append{
			Set:    filestore.HuntResults(benchHunt.Org, benchHunt.Hunt, benchName),
			Extent: filestore.Extent{Client: fleet.ids[i], Flow: benchHunt.Hunt.Flow(0), Name: benchName, Rows: benchEach},
			Lines:  benchRows(i),
		})
		if len(commit.Appends) == 300 || i+benchNodes >= fleetSize {
			if err := c.Submit(ctx, commit); err != nil {
				return err
			}
			commit = &filestore.Commit{}
		}
	}
	return nil
}

var benchPrograms = []string{"svchost.exe", "chrome.exe", "lsass.exe", "explorer.exe", "conhost.exe", "RuntimeBroker.exe", "MsMpEng.exe", "winlogon.exe", "sqlservr.exe", "python3.exe"}

// benchRows are the processes of one client, of some 175 bytes each.
func benchRows(client int) []byte {
	var b bytes.Buffer
	x := uint64(client)*0x9e3779b97f4a7c15 + 1
	for row := range benchEach {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		program := benchPrograms[x%uint64(len(benchPrograms))]
		b.WriteString(`{"ClientId":"` + fleet.ids[client].String() + `","FlowId":"` + benchHunt.Hunt.Flow(0).String() + `","Pid":`)
		b.WriteString(strconv.FormatUint(x>>20%40000, 10))
		b.WriteString(`,"Ppid":` + strconv.Itoa(row*4) + `,"Name":"` + program + `","Exe":"C:\\Windows\\System32\\` + program)
		b.WriteString(`","Rss":` + strconv.FormatUint(x>>30%100_000_000, 10) + `,"Elevated":` + strconv.FormatBool(x%7 == 0) + "}\n")
	}
	return b.Bytes()
}

// benchFlows knows a flow for each client of the fleet.
type benchFlows struct{}

var oneFlow = &flows.Flow{}

func (benchFlows) Flow(key flows.Key) (*flows.Flow, error) {
	if _, ok := fleet.ordinals[key.Client]; !ok {
		return nil, flows.ErrNotFound
	}
	return oneFlow, nil
}

func (benchFlows) HuntFlows(ids.Org, ids.Hunt) iter.Seq[*flows.Flow] {
	return func(func(*flows.Flow) bool) {}
}

// benchRecords has the one hunt.
type benchRecords struct{}

func (benchRecords) Imported(hunts.Key) bool { return false }

func (benchRecords) Hunt(hunts.Key) (*hunts.Hunt, error) {
	return &hunts.Hunt{Key: benchHunt, Definition: &hunts.Definition{Results: []string{benchName}}}, nil
}

func (benchRecords) Clients(hunts.Key, hunts.Set, uint32, int) ([]hunts.Member, uint32, error) {
	return nil, 0, nil
}

// benchResults opens the big hunt with nothing known of it.
func benchResults(b *testing.B, store *filestore.Store) *hunts.Results {
	return hunts.NewResults(hunts.ResultsOptions{
		Hunts: benchRecords{}, Flows: benchFlows{}, Clients: fleet, Store: store, Scratch: b.TempDir(),
		Reader: filestore.NewReader(filestore.ReaderOptions{Store: store}),
	})
}

func benchStore(b *testing.B) *filestore.Store {
	root, err := benchRoot()
	if err != nil {
		b.Fatal(err)
	}
	store, err := filestore.Open(root, filestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return store
}

// cpu reports the processor time of each op besides the wall's, as the machine may be
// busy with other things.
func cpu(b *testing.B) func() {
	begin := cpuUsed()
	return func() { b.ReportMetric((cpuUsed()-begin).Seconds()*1000/float64(b.N), "cpu-ms/op") }
}

func BenchmarkResultsPage(b *testing.B) {
	store := benchStore(b)
	page := func(b *testing.B, r *hunts.Results, q hunts.Query, want int) {
		q.Name, q.Limit = benchName, 200
		t, err := r.Page(b.Context(), benchHunt, q)
		if err != nil || len(t.Rows) != want || t.Missing != 0 {
			b.Fatal(err, t)
		}
	}
	b.Run("first/cold", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			page(b, benchResults(b, store), hunts.Query{}, 200)
		}
	})
	r := benchResults(b, store)
	for _, c := range []struct {
		name string
		q    hunts.Query
		rows int
	}{
		{"first/warm", hunts.Query{}, 200},
		{"last/warm", hunts.Query{From: fleetSize*benchEach - 200}, 200},
		{"client", hunts.Query{Clients: fleet.ids[77_777:77_778]}, 100},
		{"clients=100", hunts.Query{Clients: fleet.ids[:100]}, 200},
		{"filter/common", hunts.Query{Filter: "name=lsass.exe"}, 200},
		{"filter/nothing", hunts.Query{Filter: "mimikatz"}, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			page(b, r, c.q, c.rows)
			defer cpu(b)()
			for b.Loop() {
				page(b, r, c.q, c.rows)
			}
		})
	}
}

func BenchmarkResultsExport(b *testing.B) {
	store := benchStore(b)
	r := benchResults(b, store)
	for _, format := range []hunts.Format{hunts.JSONL, hunts.CSV} {
		b.Run(string(format), func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				report, err := r.Export(b.Context(), benchHunt, benchName, io.Discard, hunts.ExportOptions{Format: format})
				if err != nil || report.Rows != fleetSize*benchEach || report.Unlisted != 0 {
					b.Fatal(err, report)
				}
			}
			b.SetBytes(benchPlain)
		})
	}
}

// BenchmarkResultsSort sorts all rows, and then reads pages of them.
func BenchmarkResultsSort(b *testing.B) {
	store := benchStore(b)
	for _, column := range []string{"Pid", "Name"} {
		b.Run(column, func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				r := benchResults(b, store)
				ctx, stop := context.WithCancel(b.Context())
				ended := make(chan error, 1) // one answer
				go func() { ended <- r.Run(ctx) }()
				t, err := r.Page(ctx, benchHunt, hunts.Query{Name: benchName, Sort: column, Wait: time.Hour, Limit: 200})
				if err != nil || len(t.Rows) != 200 {
					b.Fatal(err, t)
				}
				begin := time.Now()
				t, err = r.Page(ctx, benchHunt, hunts.Query{Name: benchName, Sort: column, Limit: 200, From: 4_000_000})
				if err != nil || len(t.Rows) != 200 {
					b.Fatal(err, t)
				}
				b.ReportMetric(time.Since(begin).Seconds(), "s/page")
				b.ReportMetric(float64(r.ScratchBytes())/1e6, "scratch-MB")
				stop()
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkResultsZip writes all rows as JSON lines and as CSV.
func BenchmarkResultsZip(b *testing.B) {
	r := benchResults(b, benchStore(b))
	defer cpu(b)()
	for b.Loop() {
		m, err := r.Zip(b.Context(), benchHunt, io.Discard, hunts.ZipOptions{RowsOnly: true})
		if err != nil || !m.Whole {
			b.Fatal(err, m)
		}
	}
	b.SetBytes(benchPlain)
}
