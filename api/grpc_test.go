package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// caller is a program of somebody else: it knows the generated stubs, its own
// certificate and the address.
func (w *world) caller(as config.Pair) *grpc.ClientConn {
	w.t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+w.grpc, grpc.WithTransportCredentials(credentials.NewTLS(w.tlsOf(as))))
	w.check(err)
	w.t.Cleanup(func() { w.check(connection.Close()) })
	return connection
}

// answer is what a whole Query call brought.
type answer struct {
	rows     []map[string]any
	raw      []string
	messages []*wirepb.VQLResponse // those with rows
	logs     []string
	err      error
}

func (w *world) query(ctx context.Context, as config.Pair, in *wirepb.VQLCollectorArgs) (a answer) {
	w.t.Helper()
	stream, err := wirepb.NewAPIClient(w.caller(as)).Query(ctx, in)
	w.check(err)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return a
		}
		if err != nil {
			a.err = err
			return a
		}
		if m.GetLog() != "" {
			a.logs = append(a.logs, m.GetLog())
		}
		if m.GetResponse() == "" {
			continue
		}
		var rows []map[string]any
		w.check(json.Unmarshal([]byte(m.GetResponse()), &rows))
		if len(rows) != int(m.GetTotalRows()) {
			w.t.Errorf("total_rows %d with %d rows", m.GetTotalRows(), len(rows))
		}
		a.rows, a.raw, a.messages = append(a.rows, rows...), append(a.raw, m.GetResponse()), append(a.messages, m)
	}
}

func vqlOf(texts ...string) *wirepb.VQLCollectorArgs {
	in := &wirepb.VQLCollectorArgs{}
	for _, text := range texts {
		in.Query = append(in.Query, &wirepb.VQLRequest{Vql: text, Name: "mine"})
	}
	return in
}

// withBlocking adds a plugin that gives one row and then waits to be told to
// stop, and says when it was.
func withBlocking(started, stopped chan struct{}) func(*api.Options) {
	return func(o *api.Options) {
		engine, err := vql.NewEngine(nil, []*vql.Plugin{
			vql.NewPlugin(vql.Spec{Name: "endless"}, func(ctx context.Context, _ *vql.Scope, _ *struct{}, emit vql.Emit) error {
				row := vql.NewDict()
				row.Set("n", int64(1))
				if err := emit(row); err != nil {
					return err
				}
				close(started)
				<-ctx.Done()
				close(stopped)
				return ctx.Err()
			}),
			vql.NewPlugin(vql.Spec{Name: "forbidden", Permission: "EXECVE"}, func(_ context.Context, _ *vql.Scope, _ *struct{}, emit vql.Emit) error {
				return emit(vql.NewDict())
			}),
		})
		if err != nil {
			panic(err)
		}
		o.Engine = engine
	}
}

func TestQueryStreamsRowsInMessages(t *testing.T) {
	w := newWorld(t)
	in := vqlOf("LET base = 40", "SELECT _value + base AS N, Who, 9223372036854775807 AS Big FROM range(start=0, end=5, step=1)")
	in.Env = []*wirepb.VQLEnv{{Key: "Who", Value: "ann"}}
	in.MaxRow = 2
	a := w.query(t.Context(), pki().robot, in)
	w.check(a.err)
	if len(a.rows) != 5 || a.rows[0]["N"] != 40.0 || a.rows[4]["Who"] != "ann" {
		t.Errorf("rows %v", a.rows)
	}
	if !strings.Contains(a.raw[0], "9223372036854775807") {
		t.Errorf("number is not exact: %s", a.raw[0])
	}
	if len(a.messages) != 3 {
		t.Fatalf("%d messages for 5 rows of 2", len(a.messages))
	}
	for i, m := range a.messages {
		if m.GetPart() != uint64(i) || strings.Join(m.GetColumns(), " ") != "N Who Big" || m.GetTimestamp() == 0 || m.GetQuery().GetName() != "mine" {
			t.Errorf("message %d: part %d, columns %v, time %d, query %v", i, m.GetPart(), m.GetColumns(), m.GetTimestamp(), m.GetQuery())
		}
	}
	if got := w.trail.operations(); !strings.Contains(got, "robot:query") {
		t.Errorf("audit %s", got)
	}
}

func TestTheAuditLineHasTheWholeQuery(t *testing.T) {
	w := newWorld(t)
	in := vqlOf("SELECT 1 AS First FROM scope()", "SELECT 2 AS Second FROM scope() -- "+strings.Repeat("x", 10_000))
	in.Env = []*wirepb.VQLEnv{{Key: "Password", Value: "hunter2"}, {Key: "Who", Value: "ann"}}
	w.check(w.query(t.Context(), pki().robot, in).err)
	line := w.trail.last("query")
	if vql := line.Details["vql"]; !strings.Contains(vql, "First") || !strings.Contains(vql, "Second") || len(vql) > 5000 {
		t.Errorf("%d bytes of text: %.200s", len(vql), vql)
	}
	whole := sha256.Sum256([]byte(in.Query[0].Vql + "\n" + in.Query[1].Vql))
	if got := line.Details["sha256"]; got != hex.EncodeToString(whole[:]) {
		t.Errorf("hash %s", got)
	}
	if line.Details["env"] != "Password,Who" || line.Address != "127.0.0.1" {
		t.Errorf("line %+v", line)
	}
}

func TestMessagesFitDefaultLimits(t *testing.T) {
	w := newWorld(t)
	// Rows of 1.5 MB: two fit under gRPC's 4 MiB with little room, three do not.
	in := vqlOf("SELECT S FROM range(start=0, end=5, step=1)")
	in.Env = []*wirepb.VQLEnv{{Key: "S", Value: strings.Repeat("x", 1_500_000)}}
	a := w.query(t.Context(), pki().robot, in)
	w.check(a.err)
	if len(a.rows) != 5 {
		t.Errorf("%d rows", len(a.rows))
	}
	for i, m := range a.messages {
		if len(m.GetResponse()) > 3<<20 || m.GetPart() != uint64(i) {
			t.Errorf("message %d, part %d: %d bytes", i, m.GetPart(), len(m.GetResponse()))
		}
	}
}

func TestQueryTellsItsLog(t *testing.T) {
	w := newWorld(t)
	a := w.query(t.Context(), pki().robot, vqlOf("SELECT log(message='hello there') AS L, nosuch() AS X FROM scope()"))
	w.check(a.err)
	all := strings.Join(a.logs, "\n")
	if !strings.Contains(all, "hello there") || !strings.Contains(all, "nosuch") || len(a.rows) != 1 {
		t.Errorf("log %q, rows %v", all, a.rows)
	}
}

func TestQueryHandsOutFewRowsAfterMaxWait(t *testing.T) {
	started, stopped := make(chan struct{}), make(chan struct{})
	w := newWorld(t, withBlocking(started, stopped))
	in := vqlOf("SELECT * FROM endless()")
	in.MaxWait, in.MaxRow = 1, 1000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := wirepb.NewAPIClient(w.caller(pki().robot)).Query(ctx, in)
	w.check(err)
	m, err := stream.Recv()
	w.check(err)
	if m.GetTotalRows() != 1 || m.GetResponse() != `[{"n":1}]` {
		t.Errorf("message %v", m)
	}
	<-started
	cancel()
	<-stopped // the query ends with its caller
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after cancelling: %v", err)
	}
}

func TestQueryEndsAtItsTimeout(t *testing.T) {
	started, stopped := make(chan struct{}), make(chan struct{})
	w := newWorld(t, withBlocking(started, stopped))
	in := vqlOf("SELECT * FROM endless()")
	in.Timeout = 1
	a := w.query(t.Context(), pki().robot, in)
	<-stopped
	if status.Code(a.err) != codes.DeadlineExceeded || len(a.rows) != 1 {
		t.Errorf("%v, rows %v", a.err, a.rows)
	}
}

func TestQueryRefusals(t *testing.T) {
	w := newWorld(t, withBlocking(make(chan struct{}), make(chan struct{})))
	if a := w.query(t.Context(), pki().robot, vqlOf("SELECT FROM WHERE")); status.Code(a.err) != codes.InvalidArgument || !strings.Contains(a.err.Error(), "1:") {
		t.Errorf("syntax error: %v", a.err)
	}
	if a := w.query(t.Context(), pki().robot, vqlOf()); status.Code(a.err) != codes.InvalidArgument {
		t.Errorf("no query: %v", a.err)
	}
	a := w.query(t.Context(), pki().robot, vqlOf("SELECT * FROM forbidden()"))
	if len(a.rows) != 0 || !strings.Contains(strings.ToLower(strings.Join(a.logs, " ")), "permission denied") {
		t.Errorf("EXECVE for role api: %v, %v", a.rows, a.logs)
	}
	foreign := vqlOf("SELECT 1 FROM scope()")
	foreign.OrgId = "O1234"
	if a := w.query(t.Context(), pki().robot, foreign); status.Code(a.err) != codes.InvalidArgument || len(a.rows) != 0 {
		t.Errorf("another org: %v, %v", a.rows, a.err)
	}
	for name, as := range map[string]config.Pair{"stranger": pki().stranger, "node": pki().node} {
		if a := w.query(t.Context(), as, vqlOf("SELECT 1 FROM scope()")); status.Code(a.err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, a.err)
		}
	}
	w.want(200, "org_admin", "PUT", "/api/v1/users/robot", map[string]any{"roles": []string{"reader"}})
	if a := w.query(t.Context(), pki().robot, vqlOf("SELECT 1 FROM scope()")); status.Code(a.err) != codes.PermissionDenied {
		t.Errorf("reader: %v", a.err)
	}
}

// withSteps adds a plugin that gives a row for each value it gets, and one that
// needs EXECVE.
func withSteps(steps chan int64) func(*api.Options) {
	return func(o *api.Options) {
		engine, err := vql.NewEngine(nil, []*vql.Plugin{
			vql.NewPlugin(vql.Spec{Name: "steps"}, func(ctx context.Context, _ *vql.Scope, _ *struct{}, emit vql.Emit) error {
				for {
					select {
					case n := <-steps:
						if err := emit(vql.NewDict().Set("n", n)); err != nil {
							return err
						}
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}),
			vql.NewPlugin(vql.Spec{Name: "mighty", Permission: "EXECVE"}, func(_ context.Context, _ *vql.Scope, _ *struct{}, emit vql.Emit) error {
				return emit(vql.NewDict().Set("done", true))
			}),
		})
		if err != nil {
			panic(err)
		}
		o.Engine = engine
	}
}

func TestARunningQueryFollowsItsAccount(t *testing.T) {
	steps := make(chan int64)
	w := newWorld(t, withSteps(steps))
	become := func(change map[string]any) { w.want(200, "org_admin", "PUT", "/api/v1/users/robot", change) }
	become(map[string]any{"roles": []string{"administrator"}})
	in := vqlOf("SELECT * FROM foreach(row={SELECT * FROM steps()}, query={SELECT n, done FROM chain(a={SELECT * FROM mighty()}, b={SELECT FALSE AS done FROM scope()})})")
	in.MaxRow, in.MaxWait = 1, 60
	stream, err := wirepb.NewAPIClient(w.caller(pki().robot)).Query(t.Context(), in)
	w.check(err)
	next := func() (rows string) {
		for rows == "" && err == nil {
			var m *wirepb.VQLResponse
			m, err = stream.Recv()
			rows = m.GetResponse()
		}
		return rows
	}
	steps <- 1
	if got := next() + next(); err != nil || got != `[{"n":1,"done":true}][{"n":1,"done":false}]` {
		t.Fatalf("as administrator: %s, %v", got, err)
	}
	become(map[string]any{"roles": []string{"api"}})
	steps <- 2
	if got := next(); err != nil || got != `[{"n":2,"done":false}]` {
		t.Fatalf("as api: %s, %v", got, err)
	}
	become(map[string]any{"roles": []string{"api"}, "locked": true})
	steps <- 3
	if got := next(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("locked: %s, %v", got, err)
	}
}

func TestCallsAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := newWorld(t, func(o *api.Options) { o.Registerer = registry })
	w.check(w.query(t.Context(), pki().robot, vqlOf("SELECT 1 FROM scope()")).err)
	w.query(t.Context(), pki().stranger, vqlOf("SELECT 1 FROM scope()"))
	_, err := wirepb.NewAPIClient(w.caller(pki().robot)).Check(t.Context(), &wirepb.HealthCheckRequest{})
	w.check(err)
	w.stop() // calls are counted once they have ended
	families, err := registry.Gather()
	w.check(err)
	counted := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "raptorpack_api_requests_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			counted[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetCounter().GetValue()
		}
	}
	if want := map[string]float64{"grpc OK": 2, "grpc Unauthenticated": 1}; !maps.Equal(counted, want) {
		t.Errorf("counted %v, want %v", counted, want)
	}
}

func TestTheProgramsDoorWantsACertificate(t *testing.T) {
	w := newWorld(t)
	for name, transport := range map[string]credentials.TransportCredentials{
		"no certificate": credentials.NewTLS(w.tlsOf(config.Pair{})), "plain text": insecure.NewCredentials(),
	} {
		connection, err := grpc.NewClient("passthrough:///"+w.grpc, grpc.WithTransportCredentials(transport))
		w.check(err)
		_, err = wirepb.NewAPIClient(connection).Check(t.Context(), &wirepb.HealthCheckRequest{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		w.check(connection.Close())
	}
}

func TestHealthAndReflection(t *testing.T) {
	w := newWorld(t)
	connection := w.caller(pki().robot)
	ours, err := wirepb.NewAPIClient(connection).Check(t.Context(), &wirepb.HealthCheckRequest{})
	if err != nil || ours.GetStatus() != wirepb.HealthCheckResponse_SERVING {
		t.Errorf("Check: %v, %v", ours, err)
	}
	standard, err := healthpb.NewHealthClient(connection).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || standard.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("grpc.health: %v, %v", standard, err)
	}
	stream, err := reflectionpb.NewServerReflectionClient(connection).ServerReflectionInfo(t.Context())
	w.check(err)
	w.check(stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}))
	listed, err := stream.Recv()
	w.check(err)
	if got := listed.String(); !strings.Contains(got, "proto.API") {
		t.Errorf("reflection lists %s", got)
	}
	w.check(stream.CloseSend())
}

func TestAnUnreadyNodeIsNotHealthy(t *testing.T) {
	w := newWorld(t, func(o *api.Options) { o.Status = func() api.Status { return api.Status{Ready: "draining"} } })
	ours, err := wirepb.NewAPIClient(w.caller(pki().robot)).Check(t.Context(), &wirepb.HealthCheckRequest{})
	if err != nil || ours.GetStatus() != wirepb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("Check: %v, %v", ours, err)
	}
	standard, err := healthpb.NewHealthClient(w.caller(pki().robot)).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || standard.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("grpc.health: %v, %v", standard, err)
	}
}

func TestFilesAreReadInPieces(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Search.FileFinder", nil)
	content := strings.Repeat("0123456789", 300_000)
	var messages []*wirepb.VeloMessage
	messages = append(messages, uploadOf(key, 0, content)...)
	w.arrive(append(messages, endOf(key, 0, 1))...)
	var list struct {
		Items []struct {
			Path string `json:"stored_path"`
		}
	}
	w.want(200, "reader", "GET", w.flowsPath()+"/"+key.Flow.String()+"/uploads", nil).into(t, &list)
	client := wirepb.NewAPIClient(w.caller(pki().robot))
	var got strings.Builder
	for {
		piece, err := client.VFSGetBuffer(t.Context(), &wirepb.VFSFileBuffer{
			ClientId: w.client.String(), Offset: uint64(got.Len()), Length: 900_000, Components: strings.Split(list.Items[0].Path, "/"),
		})
		w.check(err)
		if len(piece.GetData()) == 0 {
			break
		}
		if piece.GetOffset() != uint64(got.Len()) || int(piece.GetLength()) != len(piece.GetData()) || piece.GetClientId() != w.client.String() {
			t.Fatalf("piece at %d of %d bytes", piece.GetOffset(), piece.GetLength())
		}
		got.Write(piece.GetData())
	}
	if got.String() != content {
		t.Errorf("%d bytes of %d", got.Len(), len(content))
	}
	for name, c := range map[string]struct {
		components []string
		code       codes.Code
	}{
		"outside":  {[]string{"..", "etc", "passwd"}, codes.InvalidArgument},
		"inside":   {[]string{"ledger", "epoch-1"}, codes.InvalidArgument},
		"missing":  {strings.Split(list.Items[0].Path+"x", "/"), codes.NotFound},
		"no names": {nil, codes.InvalidArgument},
	} {
		_, err := client.VFSGetBuffer(t.Context(), &wirepb.VFSFileBuffer{Length: 10, Components: c.components})
		if status.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.VFSGetBuffer(t.Context(), &wirepb.VFSFileBuffer{Length: 10, OrgId: "O1234", Components: strings.Split(list.Items[0].Path, "/")}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another org: %v", err)
	}
	if _, err := client.VFSGetBuffer(t.Context(), &wirepb.VFSFileBuffer{Length: 10, Offset: 1 << 63, Components: strings.Split(list.Items[0].Path, "/")}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an offset beyond all files: %v", err)
	}
}

func TestAStopEndsRunningQueriesAndStreams(t *testing.T) {
	started, stopped := make(chan struct{}), make(chan struct{})
	w := newWorld(t, withBlocking(started, stopped))
	key := w.collect("Linux.Sys.Users", nil)
	events := w.send(config.Pair{}, "reader", "GET", w.flowsPath()+"/"+key.Flow.String()+"/events", nil)
	defer events.Body.Close()
	stream, err := wirepb.NewAPIClient(w.caller(pki().robot)).Query(t.Context(), vqlOf("SELECT * FROM endless()"))
	w.check(err)
	<-started
	w.stop()
	<-stopped
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the query ended with %v", err)
	}
	if _, err := io.Copy(io.Discard, events.Body); err != nil {
		t.Errorf("the event stream ended with %v", err)
	}
}
