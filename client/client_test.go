package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/wire"
)

type numbersArgs struct {
	Count int64  `vql:"count" doc:"Rows."`
	Text  string `vql:"text" doc:"In each row."`
	Pause int64  `vql:"pause" doc:"Microseconds between rows."`
	Wait  bool   `vql:"wait" doc:"Never end."`
}

type takeArgs struct {
	File string `vql:"file" doc:"A file."`
}

// testEngine has the primitives that these tests need; none of them is fast or
// slow by itself.
func testEngine(t testing.TB) *vql.Engine {
	t.Helper()
	numbers := vql.NewPlugin(vql.Spec{Name: "numbers"}, func(ctx context.Context, _ *vql.Scope, a *numbersArgs, emit vql.Emit) error {
		for i := range a.Count {
			if a.Pause > 0 {
				sleep(ctx, time.Duration(a.Pause)*time.Microsecond, nil)
			}
			if err := emit(vql.NewDict().Set("N", i).Set("Text", a.Text)); err != nil {
				return err
			}
		}
		if a.Wait {
			<-ctx.Done()
		}
		return ctx.Err()
	})
	forever := vql.NewPlugin(vql.Spec{Name: "forever"}, func(ctx context.Context, _ *vql.Scope, _ *struct{}, _ vql.Emit) error {
		<-ctx.Done()
		return ctx.Err()
	})
	take := vql.NewFunction(vql.Spec{Name: "take"}, func(ctx context.Context, s *vql.Scope, a *takeArgs) (vql.Value, error) {
		f, err := os.Open(a.File)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		uploader, _ := vql.Service[vql.Uploader](s)
		return uploader.Upload(ctx, s, vql.UploadRequest{
			Path: vql.ParsePath(vql.PathLinux, a.File), Accessor: "file", Reader: f, Size: info.Size(), Mtime: info.ModTime(),
		})
	})
	shout := vql.NewFunction(vql.Spec{Name: "shout"}, func(_ context.Context, s *vql.Scope, a *struct {
		Level string `vql:"level"`
		Text  string `vql:"text"`
	},
	) (vql.Value, error) {
		s.LogAlways(a.Level, "%s", a.Text)
		return true, nil
	})
	e, err := vql.NewEngine([]*vql.Function{take, shout}, []*vql.Plugin{numbers, forever})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// testOptions make an agent that does everything at once.
func testOptions(t testing.TB, dir string, urls ...string) Options {
	t.Helper()
	transport, err := wire.NewTransport(wire.TransportOptions{TLS: wire.TLSOptions{CA: testDeployment().ca}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	o := Options{
		ServerURLs: urls, CA: testDeployment().ca, Nonce: testNonce, Transport: transport, Engine: testEngine(t),
		Identity: testDeployment().clients[0], Logger: logTo(t),
		MaxPoll: 40 * time.Millisecond, MaxPollStd: time.Millisecond, MinPoll: time.Millisecond, MinBackOff: 2 * time.Millisecond,
		EnrolPause: 50 * time.Millisecond, KillDelay: time.Millisecond, MaxWait: time.Second,
		Info: func() (Info, error) { return Info{Hostname: "lab", System: "linux"}, nil },
	}
	if dir != "" {
		o.Buffer = BufferOptions{Dir: filepath.Join(dir, "buffer"), DiskBytes: 64 << 20}
	}
	return o
}

// agent is a running client.
type agent struct {
	*Client
	t      testing.TB
	cancel context.CancelFunc
	ended  chan error // one value: what Run returned
}

func start(t testing.TB, o Options) *agent {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &agent{c, t, cancel, make(chan error, 1)}
	go func() { a.ended <- c.Run(ctx) }()
	t.Cleanup(func() { a.stop() })
	return a
}

// stop ends the agent in good order and returns what Run returned.
func (a *agent) stop() error {
	a.cancel()
	err, ok := <-a.ended
	if ok {
		close(a.ended)
	}
	return err
}

// kill ends the agent as kill -9 does: from one moment on it writes nothing, and when
// it returns it asks for nothing.
func (a *agent) kill(s *testServer) {
	a.t.Helper()
	defer s.waitDeserted()
	a.buffer.turn <- struct{}{}
	a.buffer.mu.Lock()
	a.buffer.broken = errors.Join(ErrClosed, errors.New("killed"))
	a.buffer.mu.Unlock()
	a.buffer.abandon()
	a.buffer.give()
	a.stop()
}

func (a *agent) waitFinal(s *testServer, flow string) *wirepb.FlowStats {
	a.t.Helper()
	waitFor(a.t, "the end of "+flow, func() bool { return s.final(flow) != nil }, func() string {
		return fmt.Sprintf("%d messages came, %d pending, running %v", len(s.received()), a.Pending(), a.Running())
	})
	return s.final(flow)
}

// waitDelivered waits until the agent, too, knows that a flow's end arrived.
func (a *agent) waitDelivered(s *testServer, flow string) {
	a.t.Helper()
	a.waitFinal(s, flow)
	waitFor(a.t, "the commit of "+flow, func() bool {
		f, ok := a.buffer.flow(flow)
		return ok && f.ended() && a.buffer.done(f.EndedAt)
	}, nil)
}

func wantRows(t testing.TB, rows []string, n int) {
	t.Helper()
	if len(rows) != n {
		t.Fatalf("%d rows, want %d", len(rows), n)
	}
	for i, row := range rows {
		if !strings.HasPrefix(row, fmt.Sprintf(`{"N":%d,`, i)) {
			t.Fatalf("row %d is %q", i, row)
		}
	}
}

func wantStatus(t testing.TB, final *wirepb.FlowStats, status wirepb.VeloStatus_ReturnedStatus, text string) {
	t.Helper()
	if len(final.GetQueryStatus()) == 0 {
		t.Fatal("no query status")
	}
	q := final.GetQueryStatus()[0]
	if q.GetStatus() != status || !strings.Contains(q.GetErrorMessage(), text) {
		t.Fatalf("status %v %q, want %v %q", q.GetStatus(), q.GetErrorMessage(), status, text)
	}
}

func TestAgentEnrolsCollectsAndReports(t *testing.T) {
	for _, carrier := range []string{"http", "ws"} {
		t.Run(carrier, func(t *testing.T) {
			s := newTestServer(t)
			a := start(t, testOptions(t, t.TempDir(), strings.Replace(s.URL, "http", carrier, 1)+"/"))
			s.send(flowRequest("F.1", func(r *wirepb.FlowRequest) {
				r.Compression = wirepb.FlowRequest_ZLIB
			}, "SELECT N, Text FROM numbers(count=1234, text='a')", "SELECT * FROM numbers(count=3)"))
			final := a.waitFinal(s, "F.1")
			wantStatus(t, final, wirepb.VeloStatus_OK, "")
			wantRows(t, s.results("F.1", "Q0"), 1234)
			wantRows(t, s.results("F.1", "Q1"), 3)
			if n := final.GetQueryStatus()[0].GetResultRows(); n != 1234 {
				t.Fatalf("status counts %d rows", n)
			}
			if (s.sockets > 0) != (carrier == "ws") {
				t.Fatalf("%d sockets over %s", s.sockets, carrier)
			}
			found := false
			for _, m := range s.received() {
				found = found || m.GetVqlResponse().GetQuery().GetName() == infoName
			}
			if !found {
				t.Fatal("no self-report came although the first was met by 406")
			}
			if err := a.stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// With an hour between two polls and two posts, each round trip that need not be one
// would show: the reader comes as soon as it is let in, and a collection's rows are
// in one post with its end.
func TestNewAgentIsDoneWithItsFirstCollectionWithoutAPause(t *testing.T) {
	for _, carrier := range []string{"http", "ws"} {
		t.Run(carrier, func(t *testing.T) {
			s := newTestServer(t)
			o := testOptions(t, "", strings.Replace(s.URL, "http", carrier, 1)+"/")
			o.MinPoll = time.Hour
			s.send(flowRequest("F.1", nil, "SELECT N, Text FROM numbers(count=3)", "SELECT N, Text FROM numbers(count=300, pause=100)"))
			a := start(t, o)
			final := a.waitFinal(s, "F.1")
			wantStatus(t, final, wirepb.VeloStatus_OK, "")
			wantRows(t, s.results("F.1", "Q1"), 300)
			if err := a.stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAgentFallsBackToPostWhereSocketsAreBlocked(t *testing.T) {
	s := newTestServer(t)
	handler := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			http.Error(w, "no sockets here", http.StatusForbidden)
			return
		}
		handler.ServeHTTP(w, r)
	})
	o := testOptions(t, "", s.URL+"/")
	o.UpgradeHTTP = true
	a := start(t, o)
	s.send(flowRequest("F.1", nil, "SELECT * FROM numbers(count=5)"))
	a.waitFinal(s, "F.1")
	wantRows(t, s.results("F.1", "Q0"), 5)
}

func TestBatchesSurviveEveryErrorOfTheServer(t *testing.T) {
	s := newTestServer(t)
	var n atomic.Int64
	codes := []int{503, 500, 429, 408, 403, 404, 200, 406, 502, 200, 400, 200}
	s.setControl(func() int { return codes[int(n.Add(1))%len(codes)] })
	s.garbage = 2
	o := testOptions(t, t.TempDir(), s.URL+"/")
	o.MaxUploadSize = 4 << 10
	a := start(t, o)
	s.send(flowRequest("F.1", nil, "SELECT * FROM numbers(count=2000, text='0123456789')"))
	a.waitFinal(s, "F.1")
	wantRows(t, s.results("F.1", "Q0"), 2000)
}

func TestServerThatLosesTheKeyGetsEverythingAfterEnrolment(t *testing.T) {
	s := newTestServer(t)
	a := start(t, testOptions(t, t.TempDir(), s.URL+"/"))
	s.send(flowRequest("F.1", nil, "SELECT * FROM numbers(count=1)"))
	a.waitFinal(s, "F.1")
	s.mu.Lock()
	clear(s.keys)
	s.mu.Unlock()
	s.opener.Forget(ids.RootOrg, a.ID())
	s.send(flowRequest("F.2", nil, "SELECT * FROM numbers(count=700)"))
	a.waitFinal(s, "F.2")
	wantRows(t, s.results("F.2", "Q0"), 700)
}

func TestAgentTurnsToTheNextServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + listener.Addr().String() + "/"
	listener.Close()
	s := newTestServer(t)
	a := start(t, testOptions(t, "", dead, s.URL+"/", dead+"x/"))
	s.send(flowRequest("F.1", nil, "SELECT * FROM numbers(count=1)"))
	a.waitFinal(s, "F.1")
}

func TestAgentFollowsARedirect(t *testing.T) {
	s := newTestServer(t)
	front := newTestServer(t)
	front.Config.Handler = redirecting(front.Config.Handler, s.URL+"/")
	a := start(t, testOptions(t, "", front.URL+"/"))
	s.send(flowRequest("F.1", nil, "SELECT * FROM numbers(count=1)"))
	a.waitFinal(s, "F.1")
}

func redirecting(h http.Handler, to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/server.pem" {
			h.ServeHTTP(w, r)
			return
		}
		io.Copy(io.Discard, r.Body)
		http.Redirect(w, r, to, http.StatusMovedPermanently)
	})
}

// bigFile makes a file of n random-looking bytes.
func bigFile(t testing.TB, n int) (path, hash string) {
	t.Helper()
	data := make([]byte, n)
	state := uint32(1)
	for i := range data {
		state = state*1664525 + 1013904223
		data[i] = byte(state >> 24)
	}
	path = filepath.Join(t.TempDir(), "big.bin")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return path, hex.EncodeToString(sum[:])
}

// long turns on the run that the acceptance of the agent asks for.
var long = flag.Bool("long", false, "also run what takes minutes")

func TestKilledAgentDeliversEveryRowOnceAndTheWholeUpload(t *testing.T) {
	killRun(t, killPlan{rows: 10_000, bytes: 12 << 20, kills: 20, post: 256 << 10, every: 2})
}

func TestLongKillRun(t *testing.T) {
	if !*long {
		t.Skip("needs -long")
	}
	killRun(t, killPlan{rows: 1_000_000, bytes: 500 << 20, kills: 50, post: 5 << 20, every: 10})
}

type killPlan struct {
	rows, bytes, kills int
	post               int64 // bytes of one post
	every              int   // messages between two kills
}

// killRun collects rows and a file while the agent is killed again and again.
func killRun(t *testing.T, plan killPlan) {
	s := newTestServer(t)
	path, hash := bigFile(t, plan.bytes)
	o := testOptions(t, t.TempDir(), s.URL+"/")
	o.MaxUploadSize = plan.post
	a := start(t, o)
	s.send(flowRequest("F.1", func(r *wirepb.FlowRequest) {
		r.Compression = wirepb.FlowRequest_ZLIB
		r.VqlClientActions[0].MaxRow = uint64(plan.rows / 100)
	}, fmt.Sprintf("SELECT N, Text FROM numbers(count=%d, text='row')", plan.rows),
		fmt.Sprintf("SELECT take(file='%s') AS Upload FROM numbers(count=1)", path)))
	kills := 0
	for ; s.final("F.1") == nil && kills < plan.kills; kills++ {
		have := s.count()
		waitFor(t, "some progress", func() bool { return s.count() >= have+plan.every || s.final("F.1") != nil }, nil)
		a.kill(s)
		a = start(t, o)
	}
	final := a.waitFinal(s, "F.1")
	t.Logf("%d kills", kills)
	if kills < 5 {
		t.Fatal("too few kills to show anything")
	}
	wantStatus(t, final, wirepb.VeloStatus_OK, "")
	wantRows(t, s.results("F.1", "Q0"), plan.rows)
	data, end := s.upload("F.1", 0)
	sum := sha256.Sum256(data)
	if end == nil || hex.EncodeToString(sum[:]) != hash {
		t.Fatalf("upload has %d bytes and another hash", len(data))
	}
	if rows := s.results("F.1", "Q1"); len(rows) != 1 || !strings.Contains(rows[0], hash) {
		t.Fatalf("result of the upload: %q", rows)
	}
	var total int64
	for _, q := range final.GetQueryStatus() {
		total += q.GetResultRows()
		if q.GetUploadedFiles() == 1 && q.GetUploadedBytes() != int64(plan.bytes) {
			t.Fatalf("%d bytes counted", q.GetUploadedBytes())
		}
	}
	if total != int64(plan.rows)+1 {
		t.Fatalf("%d rows counted", total)
	}
}

func TestFlowThatDoesNotRepeatEndsWithAClearErrorAndKeepsItsRows(t *testing.T) {
	s := newTestServer(t)
	dir := t.TempDir()
	o := testOptions(t, dir, s.URL+"/")
	marker := filepath.Join(dir, "marker")
	os.WriteFile(marker, []byte("first"), 0o600)
	read := vql.NewFunction(vql.Spec{Name: "marker"}, func(context.Context, *vql.Scope, *struct{}) (vql.Value, error) {
		data, err := os.ReadFile(marker)
		return string(data), err
	})
	numbers, _ := o.Engine.Plugin("numbers")
	forever, _ := o.Engine.Plugin("forever")
	engine, err := vql.NewEngine([]*vql.Function{read}, []*vql.Plugin{numbers, forever})
	if err != nil {
		t.Fatal(err)
	}
	o.Engine = engine
	a := start(t, o)
	s.send(flowRequest("F.1", nil, "SELECT N, marker() AS Marker FROM numbers(count=1000, wait=TRUE)"))
	waitFor(t, "rows", func() bool { return len(s.results("F.1", "Q0")) >= 900 }, nil)
	a.kill(s)
	os.WriteFile(marker, []byte("second"), 0o600)
	a = start(t, o)
	final := a.waitFinal(s, "F.1")
	wantStatus(t, final, wirepb.VeloStatus_GENERIC_ERROR, ErrNotRepeatable.Error())
	if n := len(s.results("F.1", "Q0")); int64(n) != final.GetQueryStatus()[0].GetResultRows() {
		t.Fatalf("%d rows came, status counts %d", n, final.GetQueryStatus()[0].GetResultRows())
	}
}

func TestFlowThatNeverGetsAnywhereIsGivenUp(t *testing.T) {
	s := newTestServer(t)
	o := testOptions(t, t.TempDir(), s.URL+"/")
	a := start(t, o)
	s.send(flowRequest("F.1", nil, "SELECT * FROM forever()"))
	for range 10 {
		waitFor(t, "a run", func() bool {
			f, ok := a.buffer.flow("F.1")
			return ok && (f.ended() || f.Runs > 0) && len(a.Running()) > 0 || s.final("F.1") != nil
		}, nil)
		if s.final("F.1") != nil {
			break
		}
		a.kill(s)
		a = start(t, o)
	}
	wantStatus(t, a.waitFinal(s, "F.1"), wirepb.VeloStatus_GENERIC_ERROR, "without progress")
}

func TestCancelledFlowEndsAndKeepsItsLog(t *testing.T) {
	s := newTestServer(t)
	a := start(t, testOptions(t, t.TempDir(), s.URL+"/"))
	s.send(flowRequest("F.1", nil, "SELECT * FROM forever()"))
	waitFor(t, "the flow", func() bool { return len(a.Running()) == 1 }, nil)
	s.send(&wirepb.VeloMessage{SessionId: "F.1", Urgent: true, Cancel: &wirepb.Cancel{}})
	wantStatus(t, a.waitFinal(s, "F.1"), wirepb.VeloStatus_GENERIC_ERROR, "Cancelled")
	if !strings.Contains(s.logText("F.1"), "Cancelled all in-flight queries for flow F.1") {
		t.Fatalf("log: %s", s.logText("F.1"))
	}
}

func TestCancelInTheSameAnswerAsItsFlowHits(t *testing.T) {
	s := newTestServer(t)
	a := start(t, testOptions(t, "", s.URL+"/"))
	s.send(&wirepb.VeloMessage{SessionId: "F.1", Cancel: &wirepb.Cancel{}}, flowRequest("F.1", nil, "SELECT * FROM forever()"))
	wantStatus(t, a.waitFinal(s, "F.1"), wirepb.VeloStatus_GENERIC_ERROR, "Cancelled")
}

func TestFlowRequestedTwiceRunsOnce(t *testing.T) {
	s := newTestServer(t)
	dir := t.TempDir()
	o := testOptions(t, dir, s.URL+"/")
	a := start(t, o)
	request := flowRequest("F.1", nil, "SELECT * FROM numbers(count=10)")
	s.send(request, request)
	a.waitDelivered(s, "F.1")
	a.kill(s) // the end is known after a restart, too
	start(t, o)
	before := len(s.received())
	s.send(request)
	waitFor(t, "the repeated end", func() bool {
		for _, m := range s.received()[before:] {
			if m.GetFlowStats().GetFlowComplete() && m.GetUrgent() {
				return true
			}
		}
		return false
	}, nil)
	parts := 0
	for _, m := range s.received() {
		if m.GetSessionId() == "F.1" && m.GetVqlResponse() != nil {
			parts++
		}
	}
	if parts != 1 {
		t.Fatalf("%d parts of rows", parts)
	}
}

func TestInFlightQuestionsAreAnswered(t *testing.T) {
	s := newTestServer(t)
	a := start(t, testOptions(t, "", s.URL+"/"))
	s.send(flowRequest("F.1", nil, "SELECT * FROM forever()"), flowRequest("F.2", nil, "SELECT * FROM numbers(count=1)"))
	a.waitDelivered(s, "F.2")
	before := len(s.received())
	s.send(&wirepb.VeloMessage{SessionId: "F.Status", FlowStatsRequest: &wirepb.FlowStatsRequest{FlowId: []string{"F.1", "F.2", "F.unknown"}}})
	answers := map[string]*wirepb.FlowStats{}
	waitFor(t, "three answers", func() bool {
		for _, m := range s.received()[before:] {
			if m.GetUrgent() {
				answers[m.GetSessionId()] = m.GetFlowStats()
			}
		}
		return len(answers) == 3
	}, nil)
	if answers["F.1"].GetFlowComplete() || answers["F.1"].GetQueryStatus()[0].GetStatus() != wirepb.VeloStatus_PROGRESS {
		t.Fatalf("running: %v", answers["F.1"])
	}
	if !answers["F.2"].GetFlowComplete() {
		t.Fatalf("ended: %v", answers["F.2"])
	}
	wantStatus(t, answers["F.unknown"], wirepb.VeloStatus_UNKNOWN_FLOW, "")
}

func TestUrgentFlowPassesThoseThatWait(t *testing.T) {
	s := newTestServer(t)
	o := testOptions(t, "", s.URL+"/")
	o.Concurrency = 1
	a := start(t, o)
	urgent := flowRequest("F.3", nil, "SELECT * FROM numbers(count=1)")
	urgent.Urgent = true
	s.send(flowRequest("F.1", nil, "SELECT * FROM forever()"), flowRequest("F.2", nil, "SELECT * FROM forever()"), urgent)
	a.waitFinal(s, "F.3")
	waitFor(t, "a waiting flow's report", func() bool {
		for _, m := range s.received() {
			if m.GetFlowStats() != nil && len(m.GetFlowStats().GetQueryStatus()) == 0 && !m.GetFlowStats().GetFlowComplete() {
				return true
			}
		}
		return false
	}, nil)
}

func TestKillOrderEndsTheAgent(t *testing.T) {
	s := newTestServer(t)
	a := start(t, testOptions(t, "", s.URL+"/"))
	s.send(&wirepb.VeloMessage{SessionId: "F.X", KillKillKill: &wirepb.Cancel{}})
	if err := <-a.ended; !errors.Is(err, ErrKilled) {
		t.Fatal(err)
	}
	close(a.ended)
}
