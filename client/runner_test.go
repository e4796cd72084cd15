package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

func collect(t *testing.T, change func(*wirepb.FlowRequest), queries ...string) (*testServer, *wirepb.FlowStats) {
	t.Helper()
	s := newTestServer(t)
	a := start(t, testOptions(t, "", s.URL+"/"))
	s.send(flowRequest("F.1", change, queries...))
	return s, a.waitFinal(s, "F.1")
}

func TestRowLimitDeliversTheAllowedRowsAndFails(t *testing.T) {
	s, final := collect(t, func(r *wirepb.FlowRequest) { r.MaxRows = 250 }, "SELECT * FROM numbers(count=1000)")
	wantStatus(t, final, wirepb.VeloStatus_GENERIC_ERROR, "exceeded limit 250")
	wantRows(t, s.results("F.1", "Q0"), 250)
}

func TestUploadLimitEndsTheFlow(t *testing.T) {
	path, _ := bigFile(t, 3<<20)
	s, final := collect(t, func(r *wirepb.FlowRequest) { r.MaxUploadBytes = 2 << 20 },
		fmt.Sprintf("SELECT take(file='%s') FROM numbers(count=1, wait=TRUE)", path))
	wantStatus(t, final, wirepb.VeloStatus_GENERIC_ERROR, "Upload bytes")
	if data, end := s.upload("F.1", 0); len(data) != 2<<20 || end != nil {
		t.Fatalf("%d bytes, end %v", len(data), end)
	}
}

func TestQueryTimeoutKeepsItsRows(t *testing.T) {
	s, final := collect(t, func(r *wirepb.FlowRequest) { r.VqlClientActions[0].Timeout = 1 },
		"SELECT * FROM numbers(count=30, wait=TRUE)")
	wantStatus(t, final, wirepb.VeloStatus_GENERIC_ERROR, "time")
	wantRows(t, s.results("F.1", "Q0"), 30)
}

func TestExpiredQueryDoesNotRun(t *testing.T) {
	s, final := collect(t, func(r *wirepb.FlowRequest) { r.VqlClientActions[0].Expiry = 1000 }, "SELECT * FROM numbers(count=1)")
	wantStatus(t, final, wirepb.VeloStatus_GENERIC_ERROR, "Query expired.")
	wantRows(t, s.results("F.1", "Q0"), 0)
}

func TestErrorsOfOneQueryLeaveTheOthersAlone(t *testing.T) {
	s, final := collect(t, func(r *wirepb.FlowRequest) {
		r.VqlClientActions = append(r.VqlClientActions, &wirepb.VQLCollectorArgs{})
	}, "SELECT FROM", "SELECT * FROM numbers(count=2)")
	states := map[wirepb.VeloStatus_ReturnedStatus]int{}
	for _, q := range final.GetQueryStatus() {
		states[q.GetStatus()]++
	}
	if states[wirepb.VeloStatus_OK] != 1 || states[wirepb.VeloStatus_GENERIC_ERROR] != 2 {
		t.Fatalf("states %v", states)
	}
	wantRows(t, s.results("F.1", "Q1"), 2)
	if !strings.Contains(s.logText("F.1"), errNoQuery.Error()) {
		t.Fatalf("log %s", s.logText("F.1"))
	}
}

func TestPreconditionWithoutRowsSkipsTheQuery(t *testing.T) {
	s, final := collect(t, func(r *wirepb.FlowRequest) {
		r.VqlClientActions[0].Precondition = "SELECT * FROM numbers(count=0)"
		r.VqlClientActions[1].Precondition = "SELECT * FROM numbers(count=5)"
	}, "SELECT * FROM numbers(count=1)", "SELECT * FROM numbers(count=1)")
	wantStatus(t, final, wirepb.VeloStatus_OK, "")
	wantRows(t, s.results("F.1", "Q0"), 0)
	wantRows(t, s.results("F.1", "Q1"), 1)
}

func TestEnvironmentAndStatementsShareOneScope(t *testing.T) {
	s, _ := collect(t, func(r *wirepb.FlowRequest) {
		r.VqlClientActions[0].Env = []*wirepb.VQLEnv{{Key: "X", Value: "from env"}}
		r.VqlClientActions[0].Query = []*wirepb.VQLRequest{
			{Vql: "LET Y = X"},
			{Vql: "SELECT * FROM numbers(count=3)"}, // unnamed: its rows are discarded
			{Name: "A", Vql: "SELECT N, Y FROM numbers(count=1)"},
			{Name: "A", Vql: "SELECT N + 1 AS N, Y FROM numbers(count=1)"},
			{Name: "B", Vql: "SELECT len(list=config.server_urls) AS U, config.ca_certificate =~ 'BEGIN' AS CA, config.nonce AS S FROM scope()"},
		}
	}, "unused")
	rows := s.results("F.1", "A")
	if len(rows) != 2 || rows[1] != `{"N":1,"Y":"from env"}`+"\n" {
		t.Fatalf("rows %q", rows)
	}
	if got := s.results("F.1", "B"); len(got) != 1 || got[0] != `{"U":1,"CA":true,"S":null}`+"\n" {
		t.Errorf("config is seen as %q", got)
	}
	for _, m := range s.received() {
		if m.GetVqlResponse() != nil && m.GetVqlResponse().GetQuery().GetName() == "" {
			t.Fatal("rows without a name came")
		}
	}
}

func TestLogLinesThatMatchTheErrorPatternFailTheFlow(t *testing.T) {
	s, final := collect(t, func(r *wirepb.FlowRequest) { r.LogErrorRegex = "disk on fire"; r.MaxLogs = 3 },
		"SELECT shout(level='INFO', text='Disk on FIRE') AS A, shout(level='ALERT', text='{}') AS B, "+
			"shout(level='INFO', text='fine ' + str(str=N)) AS C FROM numbers(count=9)")
	log := s.logText("F.1")
	if !strings.Contains(log, `"level":"ERROR","message":"Disk on FIRE"`) {
		t.Fatalf("log %s", log)
	}
	wantStatus(t, final, wirepb.VeloStatus_GENERIC_ERROR, "Disk on FIRE")
	if !strings.Contains(log, "Log Limit Exceeded") || !strings.Contains(log, `"level":"ALERT"`) {
		t.Fatalf("log %s", log)
	}
}

func TestTraceQueryEndsWellWithTheCollection(t *testing.T) {
	s, final := collect(t, func(r *wirepb.FlowRequest) {
		r.Trace = []*wirepb.VQLCollectorArgs{
			{Query: []*wirepb.VQLRequest{{Name: "T", Vql: "SELECT * FROM numbers(count=2, wait=TRUE)"}}},
			{Query: []*wirepb.VQLRequest{{Name: "U", Vql: "SELECT * FROM forever()"}}},
		}
	}, "SELECT * FROM numbers(count=1)")
	if len(final.GetQueryStatus()) != 3 {
		t.Fatalf("%d states", len(final.GetQueryStatus()))
	}
	for _, q := range final.GetQueryStatus() {
		if q.GetStatus() != wirepb.VeloStatus_OK {
			t.Fatalf("status %v", q)
		}
	}
	if log := s.logText("F.1"); strings.Contains(log, "ERROR") {
		t.Fatalf("log %s", log)
	}
}

// events are the rows that came under F.Monitoring for a name. A batch whose
// acknowledgement a kill cut off comes again, byte for byte; as a server does,
// it is known by its time and rows.
func events(s *testServer, name string) int {
	n, seen := 0, map[string]bool{}
	for _, m := range s.received() {
		r := m.GetVqlResponse()
		identity := fmt.Sprint(r.GetTimestamp(), r.GetJsonlResponse())
		if m.GetSessionId() == "F.Monitoring" && r.GetQuery().GetName() == name && !seen[identity] {
			seen[identity] = true
			n += int(r.GetTotalRows())
		}
	}
	return n
}

func eventTable(version uint64, names ...string) *wirepb.VeloMessage {
	t := &wirepb.VQLEventTable{Version: version}
	for _, name := range names {
		t.Event = append(t.Event, &wirepb.VQLCollectorArgs{
			MaxRow: 1, Query: []*wirepb.VQLRequest{{Name: name, Vql: "SELECT * FROM numbers(count=3, wait=TRUE)"}},
		})
	}
	return &wirepb.VeloMessage{SessionId: "F.Monitoring", UpdateEventTable: t}
}

func TestEventTableRunsSurvivesRestartsAndIsReplacedOnlyByNewerOnes(t *testing.T) {
	s := newTestServer(t)
	dir := t.TempDir()
	o := testOptions(t, dir, s.URL+"/")
	o.Identity, o.WritebackPath = nil, filepath.Join(dir, "writeback.yaml")
	a := start(t, o)
	s.send(eventTable(10, "A"))
	waitFor(t, "events", func() bool { return events(s, "A") == 3 }, nil)
	waitFor(t, "the version in a check-in", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.checkIns[len(s.checkIns)-1] == 10
	}, nil)
	a.kill(s)
	s.setControl(func() int { return 503 }) // no contact yet
	a = start(t, o)
	waitFor(t, "events before any contact", func() bool { return a.Pending() >= 3 }, nil)
	s.setControl(nil)
	waitFor(t, "events after the restart", func() bool { return events(s, "A") == 6 }, nil)
	s.send(eventTable(10, "B"), eventTable(9, "C"))
	s.send(eventTable(11, "A")) // the same queries: they go on
	waitFor(t, "version 11", func() bool { return a.monitor.current() == 11 }, nil)
	s.send(eventTable(12, "D"))
	waitFor(t, "events of the new table", func() bool { return events(s, "D") == 3 }, nil)
	if events(s, "A") != 6 || events(s, "B")+events(s, "C") != 0 {
		t.Fatalf("A %d, B %d, C %d", events(s, "A"), events(s, "B"), events(s, "C"))
	}
	s.send(eventTable(13))
	waitFor(t, "the empty table", func() bool { return a.monitor.current() == 13 }, nil)
}

// sink is a putter that remembers.
type sink struct{ messages []*wirepb.VeloMessage }

func (s *sink) put(_ context.Context, _ mark, v *wirepb.VeloMessage) error {
	s.messages = append(s.messages, v)
	return nil
}

func testUploader(t *testing.T, s *sink, known ...*upload) *uploader {
	book := map[int64]*upload{}
	for _, u := range known {
		book[u.ID] = u
	}
	o := &output{buffer: s, session: "F.1", status: newQueryStatus(time.Now()), metric: NewMetrics(nil)}
	return newUploader(o, newUploadBook(book), func(int64) error { return nil })
}

func sparseRequest(data []byte) vql.UploadRequest {
	return vql.UploadRequest{
		Path: vql.ParsePath(vql.PathLinux, "/dev/sparse"), Accessor: "sparse", Reader: bytes.NewReader(data), Size: int64(len(data)),
		Ranges: []vql.Range{{Offset: 0, Length: 10}, {Offset: 10, Length: 80, Sparse: true}, {Offset: 90, Length: 10}},
	}
}

func TestSparseFileGoesWithoutItsHoles(t *testing.T) {
	data := []byte(strings.Repeat("0123456789", 10))
	s := &sink{}
	scope := testEngine(t).NewScope(vql.SessionOptions{})
	defer scope.Close()
	result, err := testUploader(t, s).Upload(t.Context(), scope, sparseRequest(data))
	if err != nil {
		t.Fatal(err)
	}
	if result.Size != 100 || result.StoredSize != 20 {
		t.Fatalf("result %+v", result)
	}
	last := s.messages[len(s.messages)-1].GetFileBuffer()
	if !last.GetEof() || len(last.GetIndex().GetRanges()) != 3 || last.GetIndex().GetRanges()[2].GetFileOffset() != 10 ||
		last.GetIndex().GetRanges()[1].GetFileLength() != 0 || last.GetSize() != 100 || last.GetStoredSize() != 20 {
		t.Fatalf("end %v", last)
	}
}

func TestEmptyFileIsOneBuffer(t *testing.T) {
	s := &sink{}
	scope := testEngine(t).NewScope(vql.SessionOptions{})
	defer scope.Close()
	r := vql.UploadRequest{Path: vql.ParsePath(vql.PathLinux, "/empty"), Reader: bytes.NewReader(nil)}
	if _, err := testUploader(t, s).Upload(t.Context(), scope, r); err != nil {
		t.Fatal(err)
	}
	if len(s.messages) != 2 || s.messages[0].GetUploadTransaction() == nil || !s.messages[1].GetFileBuffer().GetEof() {
		t.Fatalf("%v", s.messages)
	}
}

func TestSameNameIsSentOnce(t *testing.T) {
	s := &sink{}
	scope := testEngine(t).NewScope(vql.SessionOptions{})
	defer scope.Close()
	u := testUploader(t, s)
	for range 3 {
		r := vql.UploadRequest{Path: vql.ParsePath(vql.PathLinux, "/a"), Reader: strings.NewReader("text")}
		if result, err := u.Upload(t.Context(), scope, r); err != nil || result.Size != 4 {
			t.Fatal(result, err)
		}
	}
	if len(s.messages) != 3 {
		t.Fatalf("%d messages", len(s.messages))
	}
}

// failAfter gives n bytes and then an error.
type failAfter struct {
	io.Reader
}

func (f failAfter) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err == io.EOF {
		err = os.ErrPermission
	}
	return n, err
}

func TestUnreadableFileIsAResultWithItsError(t *testing.T) {
	s := &sink{}
	scope := testEngine(t).NewScope(vql.SessionOptions{})
	defer scope.Close()
	r := vql.UploadRequest{Path: vql.ParsePath(vql.PathLinux, "/a"), Reader: failAfter{strings.NewReader("text")}}
	result, err := testUploader(t, s).Upload(t.Context(), scope, r)
	if err != nil || !strings.Contains(result.Error, "permission") {
		t.Fatal(result, err)
	}
	for _, m := range s.messages {
		if m.GetFileBuffer().GetEof() {
			t.Fatal("an end was sent")
		}
	}
}

// interrupted uploads data up to what one message holds and gives the state.
func interrupted(t *testing.T, scope *vql.Scope, r vql.UploadRequest, blocks int) *upload {
	t.Helper()
	state := &upload{}
	s := &marks{state: state, left: blocks}
	o := &output{buffer: s, session: "F.1", metric: NewMetrics(nil)}
	u := newUploader(o, newUploadBook(nil), func(int64) error { return nil })
	if _, err := u.Upload(t.Context(), scope, r); err == nil {
		t.Fatal("upload was not interrupted")
	}
	return state
}

// marks folds uploads like the journal does, for a number of blocks.
type marks struct {
	state *upload
	left  int
}

func (s *marks) put(_ context.Context, m mark, _ *wirepb.VeloMessage) error {
	if m.Upload.Data {
		if s.left--; s.left < 0 {
			return ErrClosed
		}
	}
	s.state.fold(m.Upload)
	return nil
}

func TestInterruptedUploadGoesOnOnlyIfTheFileIsTheSame(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	changed := bytes.Clone(data)
	changed[100] ^= 1
	scope := testEngine(t).NewScope(vql.SessionOptions{})
	defer scope.Close()
	request := func(data []byte) vql.UploadRequest {
		return vql.UploadRequest{
			Path: vql.ParsePath(vql.PathLinux, "/f"), Accessor: "file", Reader: bytes.NewReader(data), Size: int64(len(data)),
			Mtime: time.Unix(1, 0),
		}
	}
	for name, c := range map[string]struct {
		data []byte
		from uint64
	}{"same": {data, 2 << 20}, "changed": {changed, 0}} {
		t.Run(name, func(t *testing.T) {
			state := interrupted(t, scope, request(data), 2)
			s := &sink{}
			result, err := testUploader(t, s, state).Upload(t.Context(), scope, request(c.data))
			if err != nil {
				t.Fatal(err)
			}
			if from := s.messages[0].GetFileBuffer().GetOffset(); from != c.from {
				t.Fatalf("went on at %d", from)
			}
			if sum := sha256.Sum256(c.data); result.SHA256 != hex.EncodeToString(sum[:]) {
				t.Fatal("hash is not that of the file")
			}
		})
	}
}

func TestUploadThatStartsOverIsChargedOnce(t *testing.T) {
	scope := testEngine(t).NewScope(vql.SessionOptions{})
	defer scope.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	state := interrupted(t, scope, rawUpload("f", data), 2)
	u := testUploader(t, &sink{}, state)
	charged := state.Offset // as a flow counts it from the journal
	u.allow = func(n int64) error { charged += n; return nil }
	data[0] ^= 1
	if _, err := u.Upload(t.Context(), scope, rawUpload("f", data)); err != nil {
		t.Fatal(err)
	}
	if charged != int64(len(data)) {
		t.Fatalf("%d bytes charged for a file of %d", charged, len(data))
	}
}

func TestReaderPacesAnswersThatGiveNoWork(t *testing.T) {
	for _, c := range []struct {
		out  outcome
		want bool
	}{
		{outcome{verdict: taken}, true},
		{outcome{verdict: taken, jobs: []*wirepb.VeloMessage{{}}}, false},
		{outcome{verdict: refused}, true},
		{outcome{verdict: stranger}, true},
		{outcome{verdict: moved}, false}, // these two
		{outcome{verdict: other}, false}, // pause by themselves
	} {
		if got := c.out.fruitless(); got != c.want {
			t.Errorf("%v with %d jobs: %v", c.out.verdict, len(c.out.jobs), got)
		}
	}
}

func TestNannyEndsAStuckAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNanny(time.Minute, 0)
		n.beat("reader")
		n.park("reader")
		n.beat("control")
		before := time.Now()
		err := n.run(t.Context())
		if err == nil || time.Since(before) < time.Minute {
			t.Fatalf("%v after %s", err, time.Since(before))
		}
	})
}

func TestBackOffGrowsWithinItsBounds(t *testing.T) {
	stock := Options{MaxPoll: 60 * time.Second, MaxPollStd: 30 * time.Second}
	stock.setDefaults()
	quick := Options{MaxPoll: 60 * time.Second, MaxPollStd: 30 * time.Second, MinBackOff: time.Second}
	quick.setDefaults()
	for n := 1; n < 20; n++ {
		if d := stock.backOff(n); d < 60*time.Second || d >= 90*time.Second {
			t.Fatalf("pause %d is %s", n, d)
		}
		low := min(60*time.Second, time.Second<<(n-1))
		if d := quick.backOff(n); d < low || d > low*3/2 {
			t.Fatalf("pause %d is %s, want %s and half of it more", n, d, low)
		}
	}
}

func TestUrgentQueueStaysWithinItsBound(t *testing.T) {
	q := newUrgentQueue(1000, NewMetrics(nil))
	for range 100 {
		q.put(&wirepb.VeloMessage{SessionId: strings.Repeat("x", 98)})
	}
	l := q.lease(1 << 20)
	if len(l.Messages) != 10 {
		t.Fatalf("%d messages kept", len(l.Messages))
	}
	q.put(&wirepb.VeloMessage{SessionId: strings.Repeat("y", 98)})
	q.commit(l)
	if rest := q.lease(1 << 20); rest == nil || len(rest.Messages) != 1 {
		t.Fatalf("rest %v", rest)
	}
}

func TestRangeOfTheRealEngineArrivesWhole(t *testing.T) {
	s, final := collect(t, nil, "SELECT _value AS N, 'x' AS X FROM range(start=0, end=2500, step=1)")
	wantStatus(t, final, wirepb.VeloStatus_OK, "")
	wantRows(t, s.results("F.1", "Q0"), 2500)
}

func TestQueriesCallTheArtifactsThatCameWithThem(t *testing.T) {
	s, final := collect(t, func(r *wirepb.FlowRequest) {
		r.VqlClientActions[0].Artifacts = []*wirepb.Artifact{{
			Name: "Custom.Lab", Parameters: []*wirepb.ArtifactParameter{{Name: "Count", Default: "7", Type: "int"}},
			Sources: []*wirepb.ArtifactSource{{Queries: []string{"SELECT N, 'a' AS A FROM numbers(count=Count)"}}},
		}}
	}, "SELECT N, A FROM Artifact.Custom.Lab(Count=4)")
	wantStatus(t, final, wirepb.VeloStatus_OK, "")
	wantRows(t, s.results("F.1", "Q0"), 4)
}

func TestBrokenBundledArtifactIsAClearError(t *testing.T) {
	_, final := collect(t, func(r *wirepb.FlowRequest) {
		r.VqlClientActions[0].Artifacts = []*wirepb.Artifact{{
			Name: "Custom.Lab", Sources: []*wirepb.ArtifactSource{{Queries: []string{"SELECT FROM"}}},
		}}
	}, "SELECT * FROM Artifact.Custom.Lab()")
	wantStatus(t, final, wirepb.VeloStatus_GENERIC_ERROR, "Custom.Lab")
}
