package hunts_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"raptorpack/filestore"
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

func BenchmarkResultsPin(b *testing.B) {
	root := must(benchRoot())
	store := must(filestore.Open(root, filestore.Options{}))
	set := filestore.HuntResults(benchHunt.Org, benchHunt.Hunt, benchName)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			r := filestore.NewReader(filestore.ReaderOptions{Store: store})
			p, _, err := r.Pin(b.Context(), set, filestore.RowsFilter{}, "")
			if err != nil || p.Total() != fleetSize*benchEach {
				b.Fatal(p.Total(), err)
			}
		}
	})
	b.Run("walk", func(b *testing.B) {
		r := filestore.NewReader(filestore.ReaderOptions{Store: store})
		p, _, err := r.Pin(b.Context(), set, filestore.RowsFilter{}, "")
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			rows, size := int64(0), int64(0)
			_, err := p.Walk(b.Context(), 0, nil, func(x filestore.Batch) error { rows += x.Rows; size += int64(len(x.Lines)); return nil })
			if err != nil || rows != fleetSize*benchEach {
				b.Fatal(rows, err)
			}
			b.SetBytes(size)
		}
	})
}
