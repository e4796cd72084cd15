package flows_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

func eventGroup(label, token, name string) flows.EventGroup {
	return flows.EventGroup{Label: label, Queries: []flows.EventQuery{{
		Args:  &wirepb.VQLCollectorArgs{Query: []*wirepb.VQLRequest{{Vql: "SELECT * FROM watch()", Name: token}}},
		Names: map[string]string{token: name},
	}}}
}

func (w *world) events(groups ...flows.EventGroup) {
	w.t.Helper()
	m, err := flows.PlanEvents(ids.RootOrg, "ada", groups)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.ledger.Propose(m); err != nil {
		w.t.Fatal(err)
	}
}

func event(token string, stamp uint64, lines ...string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: "F.Monitoring", VqlResponse: &wirepb.VQLResponse{
		Query: &wirepb.VQLRequest{Name: token}, Timestamp: stamp, TotalRows: uint64(len(lines)),
		JsonlResponse: strings.Join(lines, "\n") + "\n",
	}}
}

const (
	execs    = "Linux.Events.ProcessExecutions"
	execsTok = "$e1"
)

func TestEventRowsAreStoredByDayAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble begins at 2000-01-01 00:00 UTC
		w := newWorld(t)
		n := w.node()
		w.events(eventGroup("", execsTok, execs))
		send := func() { n.send(event(execsTok, 7, `{"_ts":1,"pid":1}`, `{"pid":2}`)) }
		send()
		send()
		set := filestore.Events(ids.RootOrg, execs, time.Now())
		want := `{"ClientId":"C.00000000000000a1","_ts":946684800,"client__ts":1,"pid":1}` + "\n" +
			`{"ClientId":"C.00000000000000a1","_ts":946684800,"pid":2}` + "\n"
		if got := w.disk.Text(set); got != want {
			t.Errorf("stored %q, want %q", got, want)
		}
		if e := w.disk.Appends(set)[0].Extent; e.Digest.IsZero() {
			t.Error("batch has no digest")
		}
		n.send(event(execsTok, 8, `{"pid":2}`)) // other time, other batch
		time.Sleep(25 * time.Hour)
		send()
		if got := w.disk.Text(filestore.Events(ids.RootOrg, execs, time.Now())); strings.Count(got, "\n") != 2 {
			t.Errorf("after a day: %q", got)
		}
		if got := strings.Count(w.disk.Text(set), "\n"); got != 3 {
			t.Errorf("%d rows on the first day", got)
		}
	})
}

func TestEventRowsSentAgainAfterMidnightAreStoredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble begins at 2000-01-01 00:00 UTC
		w := newWorld(t)
		n := w.node()
		w.events(eventGroup("", execsTok, execs))
		time.Sleep(24*time.Hour - time.Second)
		today := filestore.Events(ids.RootOrg, execs, time.Now())
		n.send(event(execsTok, 7, `{"pid":1}`))
		time.Sleep(2 * time.Second)
		n.send(event(execsTok, 7, `{"pid":1}`))
		if sets := w.disk.Sets(); len(sets) != 1 || len(w.disk.Appends(today)) != 1 {
			t.Errorf("stored in %v", sets)
		}
	})
}

func TestEventFailureIsSentAgain(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.events(eventGroup("", execsTok, execs))
	n.committer.Before = failing(1)
	mustErr(t, n.try(event(execsTok, 7, `{"pid":1}`)), flows.ErrTryAgain)
	n.send(event(execsTok, 7, `{"pid":1}`))
	if sets := w.disk.Sets(); len(sets) != 1 {
		t.Errorf("stored in %v", sets)
	}
}

func TestEventMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(o *flows.Options) { o.EventMemory = 10 })
	w.events(eventGroup("", execsTok, execs))
	for i := range 100 {
		n.send(event(execsTok, uint64(i), `{"pid":1}`))
	}
	n.send(event(execsTok, 99, `{"pid":1}`), event(execsTok, 0, `{"pid":1}`))
	if got := len(w.disk.Appends(filestore.Events(ids.RootOrg, execs, time.Now()))); got != 101 {
		t.Errorf("%d batches: the newest is known, the oldest forgotten: want 101", got)
	}
}

func TestEventNamesAreTakenOnlyFromWhoWasGivenThem(t *testing.T) {
	labels := []string{}
	w := newWorld(t)
	n := w.node(func(o *flows.Options) {
		o.Labels = func(ids.Org, ids.Client) []string { return labels }
	})
	clear := "Linux.Events.DNS" // a deployment that does not hide names
	w.events(eventGroup("", execsTok, execs), eventGroup("Lab", clear, clear))
	n.send(event(clear, 1, `{"a":1}`))
	if !strings.Contains(w.letters(), "name that was not given") {
		t.Errorf("dead letters %q", w.letters())
	}
	labels = []string{"LAB"}
	n.send(event(clear, 2, `{"a":1}`))
	w.events() // switched off: what was watched meanwhile is still taken
	n.send(event(execsTok, 3, `{"a":1}`))
	if got := len(w.disk.Sets()); got != 3 {
		t.Errorf("stored in %v", w.disk.Sets())
	}
}

func TestEventLogs(t *testing.T) {
	w := newWorld(t)
	var alerts []string
	n := w.node(func(o *flows.Options) {
		o.Alert = func(_ flows.Key, artifact string, line []byte) { alerts = append(alerts, artifact+string(line)) }
	})
	w.events(eventGroup("", execsTok, execs))
	m := logLines(flows.Key{Flow: ids.Monitoring}, 0, "x")
	m.LogMessage.Artifact, m.LogMessage.Level = execsTok, "ALERT"
	n.send(m)
	if got := w.disk.Text(filestore.EventLogs(ids.RootOrg, execs, time.Now())); !strings.Contains(got, `"message":"x"`) {
		t.Errorf("log %q", got)
	}
	if len(alerts) != 1 || !strings.HasPrefix(alerts[0], execs) {
		t.Errorf("alerts %q", alerts)
	}
}

func TestEventTableIsSentUntilTheClientRunsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		a := w.attach(n)
		defer a.Close()
		n.send(&wirepb.VeloMessage{SessionId: "E.Foreman", ForemanCheckin: &wirepb.ForemanCheckin{}})
		wantNext(t, a, "")
		w.events(eventGroup("", execsTok, execs), eventGroup("lab", "$x", "Other"))
		woken(t, a)
		m := wantNext(t, a, "table")[0]
		version := m.UpdateEventTable.Version
		if len(m.UpdateEventTable.Event) != 1 || version <= uint64(time.Now().UnixNano()) || m.SessionId != "F.Monitoring" {
			t.Errorf("table %v", m)
		}
		wantNext(t, a, "")
		a2 := w.attach(n) // the first connection broke: the client says 0 again
		defer a2.Close()
		n.CheckedIn(ids.RootOrg, w.client, 0)
		if got := wantNext(t, a2, "table")[0].UpdateEventTable.Version; got <= version {
			t.Errorf("version %d after %d", got, version)
		}
		n.CheckedIn(ids.RootOrg, w.client, version)
		wantNext(t, a2, "")

		// A number that nobody here issued says nothing, be it from the future or
		// from between the table and now: the client gets its table once.
		for _, foreign := range []time.Duration{1000 * time.Hour, -time.Minute} {
			time.Sleep(time.Hour)
			reported := uint64(time.Now().Add(foreign).UnixNano())
			n.CheckedIn(ids.RootOrg, w.client, reported)
			version := wantNext(t, a2, "table")[0].UpdateEventTable.Version
			if version <= reported {
				t.Errorf("version %d is not above the client's %d", version, reported)
			}
			n.CheckedIn(ids.RootOrg, w.client, version)
			wantNext(t, a2, "")
		}
		time.Sleep(time.Second)
		w.events() // below what the client runs by the ledger's time
		wantNext(t, a2, "table")
	})
}

// A client that got its table from one node is not sent it by another, and no
// node's clock moves the versions.
func TestEventTableVersionIsTheSameOnEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n, other := w.node(), w.node()
		w.events(eventGroup("", execsTok, execs))
		time.Sleep(time.Hour)
		a := w.attach(n)
		defer a.Close()
		n.CheckedIn(ids.RootOrg, w.client, 0)
		version := wantNext(t, a, "table")[0].UpdateEventTable.Version
		if version >= uint64(time.Now().UnixNano()) {
			t.Errorf("version %d is of this node's clock", version)
		}
		b := w.attach(other)
		defer b.Close()
		other.CheckedIn(ids.RootOrg, w.client, version)
		wantNext(t, b, "")
	})
}

func TestClientInfoIsHandedOnWithItsFact(t *testing.T) {
	w := newWorld(t)
	sink := &infoSink{}
	n := w.node(func(o *flows.Options) { o.Info = sink })
	m := event("Server.Internal.ClientInfo", 1, `{"hostname":"lab1"}`)
	n.send(m)
	if sink.got != `{"hostname":"lab1"}`+"\n" {
		t.Errorf("sink got %q", sink.got)
	}
	sink.err = errors.New("no")
	n.send(event("Server.Internal.ClientInfo", 1, `{"hostname":"lab1"}`), event("Server.Internal.ClientInfo", 1, `{}`, `{}`))
	if strings.Count(w.letters(), "self-report") != 2 {
		t.Errorf("dead letters %q", w.letters())
	}
}

func TestSelfReportsMakeFewEntries(t *testing.T) {
	w := newWorld(t)
	n := w.node(func(o *flows.Options) { o.Info = &infoSink{} })
	var many []*wirepb.VeloMessage
	for i := range 50 {
		many = append(many, event("Server.Internal.ClientInfo", uint64(i), fmt.Sprintf(`{"hostname":"lab%d"}`, i)))
	}
	if err := n.try(many...); err != nil {
		t.Fatal(err)
	}
	if got := w.ledger.Facts(); got != 1 {
		t.Errorf("%d facts of one packet", got)
	}
	for i := range 150 {
		if err := n.try(event("Server.Internal.ClientInfo", uint64(i), `{"hostname":"lab"}`)); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.ledger.Facts(); got != 100 {
		t.Errorf("%d facts of a day", got)
	}
	if !strings.Contains(w.letters(), "more than 100 changes") {
		t.Error("what was left out is not among the dead letters")
	}
}

type infoSink struct {
	got string
	err error
}

func (s *infoSink) PlanInfo(_ ids.Org, _ ids.Client, line []byte, _ time.Time) (*buspb.Mutation, error) {
	s.got = string(line)
	return &buspb.Mutation{Kind: "clients"}, s.err
}

func TestCoverageIsToldWhenTheFlowEndsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.node(), w.node()
		tries := 0
		a.committer.Before = func(_ context.Context, c *filestore.Commit) error {
			if len(c.Appends) > 0 {
				return nil
			}
			if tries++; tries == 1 { // telling fails once
				return flowstest.ErrInjected
			}
			return nil
		}
		stop := a.runs(t)
		defer stop()
		key := w.start()
		a.send(rows(key, procs, 0, 5))
		b.send(rows(key, procs, 5, 5), done(key, 10))
		a.want(key, flows.Waiting)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		w.deliver()
		a.want(key, flows.Completed)
	})
}

// A flow that says nothing for a day may still end, on any node.
func TestWhatIsHeldOfASilentFlowIsToldBeforeItIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.node(), w.node()
		stop := a.runs(t)
		defer stop()
		key := w.start()
		a.send(rows(key, procs, 0, 5))
		time.Sleep(26 * time.Hour)
		synctest.Wait()
		b.send(rows(key, procs, 5, 5), done(key, 10))
		a.want(key, flows.Completed)
	})
}

// runs starts a room and returns what stops it.
func (n *node) runs(t *testing.T) func() {
	t.Helper()
	ctx, stop := contextOf(t)
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	return func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestCoverageOfTheDeadIsRead(t *testing.T) {
	w := newWorld(t)
	a, b := w.node(), w.node()
	key := w.start()
	a.send(rows(key, procs, 0, 5), buffer(key, 0, 0, "x"), eof(key, 0, 1))
	w.ledger.Leave(a.Table, a.Events) // killed
	end := done(key, 10)
	end.FlowStats.QueryStatus[0].UploadedFiles = 1
	b.send(rows(key, procs, 5, 5), end)
	b.want(key, flows.Waiting)
	mutations, err := b.RecoverCoverage(t.Context(), "n1-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutations {
		if err := w.ledger.Propose(m); err != nil {
			t.Fatal(err)
		}
	}
	if f := b.want(key, flows.Completed); f.UploadBytes() != 1 {
		t.Errorf("%d bytes of uploads", f.UploadBytes())
	}
	if again, err := b.RecoverCoverage(t.Context(), "n1-1"); err != nil || len(again) != 0 {
		t.Errorf("nothing is unfinished, but: %v, %v", again, err)
	}
}

func TestResultsArePagedFromTheSegments(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	n.send(rows(key, procs, 0, 3), logLines(key, 0, "x"))
	page, err := n.Results(t.Context(), key, "Linux.Sys.Pslist", flows.Page{})
	if err != nil || len(page.Rows) != 3 || string(page.Rows[2].Line) != `{"n":2}` {
		t.Errorf("page %+v, %v", page, err)
	}
	if page, err := n.Logs(t.Context(), key, flows.Page{}); err != nil || len(page.Rows) != 1 {
		t.Errorf("log %+v, %v", page, err)
	}
	if _, err := n.Results(t.Context(), key, "No.Such", flows.Page{}); !errors.Is(err, flows.ErrNotFound) {
		t.Errorf("unknown result: %v", err)
	}
	if _, _, err := n.OpenUpload(t.Context(), key, 3); !errors.Is(err, flows.ErrNotFound) {
		t.Errorf("unknown upload: %v", err)
	}
}

func TestLongBatchesAreCutIntoExtents(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	var lines []string
	for i := range 3000 {
		lines = append(lines, fmt.Sprintf(`{"n":%d,"pad":%q}`, i, strings.Repeat("x", 1000)))
	}
	lines = append(lines, fmt.Sprintf(`{"n":3000,"pad":%q}`, strings.Repeat("x", 2<<20)))
	m := rows(key, procs, 0, 1)
	m.VqlResponse.JsonlResponse, m.VqlResponse.TotalRows = strings.Join(lines, "\n")+"\n", uint64(len(lines))
	n.send(packed(m), done(key, len(lines)))
	n.want(key, flows.Completed)
	got, err := w.disk.Rows(results(key, "Linux.Sys.Pslist"))
	if err != nil || strings.Join(got, "") != strings.Join(lines, "\n")+"\n" {
		t.Errorf("%d rows stored, %v", len(got), err)
	}
	if n := len(w.disk.Appends(results(key, "Linux.Sys.Pslist"))); n < 4 {
		t.Errorf("%d extents", n)
	}
}
