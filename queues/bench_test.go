package queues_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/queues"
)

// record is as long as that of a flow of a hunt with one result.
const record = `{"client_id":"C.0123456789abcdef","session_id":"F.D4K8M2O9P1Q3R.1.H","request":{"creator":"ada","client_id":"C.0123456789abcdef",` +
	`"artifacts":["Linux.Sys.Users"],"specs":[{"artifact":"Linux.Sys.Users","parameters":{"env":[]}}],"urgent":false},"create_time":1790000000000000,` +
	`"start_time":1790000000000000,"active_time":1790000001000000,"state":"FINISHED","detailed_state":"completed","status":"","total_uploaded_files":0,` +
	`"total_uploaded_bytes":0,"total_expected_uploaded_bytes":0,"total_collected_rows":12,"total_logs":3,"artifacts_with_results":["Linux.Sys.Users"],` +
	`"query_stats":[{"name":"Linux.Sys.Users","rows":12}],"execution_duration":12345678}`

// BenchmarkFlowsEnd is what the ends of a hunt's flows cost the leader, 3,000 a second.
func BenchmarkFlowsEnd(b *testing.B) {
	dir := b.TempDir()
	store, err := filestore.Open(dir, filestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: "a-1", Valid: func() bool { return true }, Outbox: &outbox{},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2) // one value of each
	go func() { ended <- committer.Run(ctx) }()
	room := queues.New()
	stored := &storing{committer: committer, left: b.N, all: make(chan struct{})}
	writer := queues.NewWriter(queues.WriterOptions{
		Room: room, Committer: stored, Flows: flows.New(flows.Options{}), AppendRecord: func(dst []byte, _ flows.Key) []byte { return append(dst, record...) },
	})
	before := total(store)
	pace := rate.NewLimiter(3000, 750)
	tell := func(i int) {
		if err := pace.Wait(ctx); err != nil {
			b.Fatal(err)
		}
		room.FlowsFinished(uint64(i+1), time.Unix(1_790_000_000, 0), []*flows.Flow{{Key: flows.Key{Client: ids.ClientOfNumber(uint64(i)), Flow: ids.NewFlow(time.Unix(0, 0))}}})
	}
	b.ResetTimer()
	go func() { ended <- writer.Run(ctx) }()
	for i := range b.N {
		tell(i)
	}
	<-stored.all
	b.StopTimer()
	b.ReportMetric(float64(total(store)-before)/float64(b.N), "file-ops/row")
	var bytes int64
	err = filepath.WalkDir(filepath.Join(dir, "events"), func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			info, err := e.Info()
			if err != nil {
				return err
			}
			bytes += info.Size()
		}
		return err
	})
	b.ReportMetric(float64(bytes)/float64(b.N), "disk-bytes/row")
	cancel()
	for range 2 {
		if e := <-ended; e != nil {
			b.Error(e)
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := store.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// storing tells when all rows are stored.
type storing struct {
	committer *filestore.Committer
	left      int           // rows; of the writer's goroutine alone
	all       chan struct{} // closed when none is left
}

func (s *storing) Submit(ctx context.Context, c *filestore.Commit) error {
	if err := s.committer.Submit(ctx, c); err != nil {
		return err
	}
	if s.left -= len(c.Appends); s.left == 0 {
		close(s.all)
	}
	return nil
}

func total(s *filestore.Store) (n int64) {
	for _, one := range s.Stats() {
		n += one
	}
	return n
}
