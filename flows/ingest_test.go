package flows_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

func TestIngestWholeFlowCompletes(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	n.want(key, flows.Pending)

	n.send(rows(key, procs, 0, 10))
	if f := n.want(key, flows.Running); f.Taken.IsZero() {
		t.Error("flow runs but has no time of being taken")
	}
	n.send(packed(rows(key, procs, 10, 5)), rows(key, mounts, 0, 3), logLines(key, 0, "hello", "of "+procs))
	n.send(done(key, 18))

	f := n.want(key, flows.Completed)
	w.stored(key, "Linux.Sys.Pslist", 15)
	w.stored(key, "Linux.Mounts/All", 3)
	if f.Rows() != 18 || f.Totals.Rows != 18 || f.Error != "" || f.Duration != 5 || f.FirstActive.Unix() != 1 {
		t.Errorf("record %+v", f)
	}
	log := w.disk.Text(filestore.FlowLogs(key.Org, key.Client, key.Flow))
	if !strings.Contains(log, "of Linux.Sys.Pslist") || strings.Contains(log, procs) {
		t.Errorf("log has opaque names: %s", log)
	}
	for _, set := range w.disk.Sets() {
		if text := w.disk.Text(filestore.Set(set)); strings.Contains(text, "secret") || strings.Contains(text, "goroutine") {
			t.Errorf("%s keeps an echoed query or a backtrace: %s", set, text)
		}
	}
	if w.letters() != "" {
		t.Errorf("dead letters: %s", w.letters())
	}
}

func TestIngestOnePacketIsOneCommit(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	a, b := w.start(), w.start()
	n.send(rows(a, procs, 0, 10), rows(b, procs, 0, 5), logLines(a, 0, "x"), done(a, 10), done(b, 5))
	n.want(a, flows.Completed)
	n.want(b, flows.Completed)
	if w.disk.Commits() != 1 || w.ledger.Facts() != 0 {
		t.Errorf("%d commits, want 1", w.disk.Commits())
	}
}

func TestIngestFailureAcknowledgesNothingAndTheResendIsStoredOnce(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	packet := func() []*wirepb.VeloMessage {
		return []*wirepb.VeloMessage{rows(key, procs, 0, 10), logLines(key, 0, "x"), done(key, 10)}
	}

	n.committer.Before = failing(1)
	mustErr(t, n.try(packet()...), flows.ErrTryAgain)
	w.deliver()
	n.want(key, flows.Pending)

	n.committer.Before = nil
	n.committer.Torn = func(*filestore.Commit) error { return flowstest.ErrInjected }
	mustErr(t, n.try(packet()...), flows.ErrTryAgain)
	w.deliver()
	n.want(key, flows.Pending) // data without its fact tells nobody

	n.committer.Torn = nil
	n.send(packet()...)
	n.want(key, flows.Completed)
	w.stored(key, "Linux.Sys.Pslist", 10)

	before := w.disk.Commits()
	n.send(packet()...)
	if got := w.disk.Commits() - before; got != 0 {
		t.Errorf("a resend of what is durable caused %d commits", got)
	}
	n.want(key, flows.Completed)
}

func TestIngestDuplicateInFlightWaitsForTheFirst(t *testing.T) {
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			key := w.start()
			gate := make(chan error)
			n.committer.Before = func(context.Context, *filestore.Commit) error { return <-gate }
			first, second := make(chan error, 1), make(chan error, 1)
			go func() { first <- n.try(rows(key, procs, 0, 10)) }()
			synctest.Wait()
			go func() { second <- n.try(rows(key, procs, 0, 10)) }()
			synctest.Wait()
			select {
			case err := <-second:
				t.Fatalf("resend was answered (%v) before its first copy was durable", err)
			default:
			}
			if fails {
				gate <- flowstest.ErrInjected
				if err := <-first; !errors.Is(err, flows.ErrTryAgain) {
					t.Fatalf("first: %v", err)
				}
			}
			gate <- nil
			if !fails {
				if err := <-first; err != nil {
					t.Fatalf("first: %v", err)
				}
			}
			synctest.Wait()
			if err := <-second; err != nil {
				t.Fatalf("second: %v", err)
			}
			if got := len(w.disk.Appends(results(key, "Linux.Sys.Pslist"))); got != 1 {
				t.Errorf("stored %d times", got)
			}
		})
	}
}

func TestIngestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		gate := make(chan error)
		n.committer.Before = func(context.Context, *filestore.Commit) error { return <-gate }
		first := make(chan error, 1)
		go func() { first <- n.try(rows(key, procs, 0, 10)) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := n.Ingest(ctx, n.peer(), []*wirepb.VeloMessage{rows(key, procs, 0, 10)})
		if !errors.Is(err, flows.ErrTryAgain) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		gate <- nil
		<-first
	})
}

func TestIngestSameRowsOtherBytesAreKeptAndFlagged(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	n.send(rows(key, procs, 0, 3))
	other := rows(key, procs, 0, 3)
	other.VqlResponse.JsonlResponse = strings.ReplaceAll(other.VqlResponse.JsonlResponse, "1", "7")
	n.send(other)
	n.send(done(key, 3))
	f := n.want(key, flows.Completed)
	if f.Conflicts() != 1 || len(w.disk.Appends(results(key, "Linux.Sys.Pslist"))) != 2 {
		t.Errorf("%d conflicts, %d batches", f.Conflicts(), len(w.disk.Appends(results(key, "Linux.Sys.Pslist"))))
	}
}

func TestIngestRefusesWhatWasNotAskedFor(t *testing.T) {
	evil := func(key flows.Key, change func(m *wirepb.VeloMessage)) *wirepb.VeloMessage {
		m := rows(key, procs, 0, 2)
		change(m)
		return m
	}
	stats := func(key flows.Key, session string) *wirepb.VeloMessage {
		m := done(key, 0)
		m.SessionId = session
		return m
	}
	cases := []struct {
		name   string
		m      func(key flows.Key) *wirepb.VeloMessage
		reason string
	}{
		{"session of nobody", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { m.SessionId = "F.NEVERISSUED12" })
		}, "not given to this client"},
		{"session that is a path", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { m.SessionId = "../../x" })
		}, "no such session"},
		{"child of an issued flow", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { m.SessionId += "/1" })
		}, "no such session"},
		{"status of nobody's flow", func(k flows.Key) *wirepb.VeloMessage { return stats(k, "F.NEVERISSUED12") }, "not given"},
		{"name in clear", func(k flows.Key) *wirepb.VeloMessage { return rows(k, "Linux.Sys.Pslist", 0, 2) }, "name that was not given"},
		{"name of others", func(k flows.Key) *wirepb.VeloMessage { return rows(k, "System.Flow.Completion", 0, 2) }, "name that was not given"},
		{"more rows counted", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { m.VqlResponse.TotalRows = 3 })
		}, "2 rows where the client counts 3"},
		{"row number too high", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { m.VqlResponse.QueryStartRow = 1 << 60 })
		}, "out of range"},
		{"not JSON", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { m.VqlResponse.JsonlResponse = "{\"a\":1}\nrubbish\n" })
		}, "line 2"},
		{"array", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { m.VqlResponse.JsonlResponse, m.VqlResponse.TotalRows = "[1]\n", 1 })
		}, "line 1"},
		{"inflates to more than said", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { packed(m).VqlResponse.UncompressedSize-- })
		}, "not what they claim"},
		{"inflates to less than said", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { packed(m).VqlResponse.UncompressedSize++ })
		}, "not what they claim"},
		{"bomb", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { packed(m).VqlResponse.UncompressedSize = 1 << 40 })
		}, "not what they claim"},
		{"damaged zlib", func(k flows.Key) *wirepb.VeloMessage {
			return evil(k, func(m *wirepb.VeloMessage) { packed(m).VqlResponse.CompressedJsonResponse[3] ^= 0xff })
		}, "not what they claim"},
		{"log count", func(k flows.Key) *wirepb.VeloMessage {
			m := logLines(k, 0, "x")
			m.LogMessage.NumberOfRows = 2
			return m
		}, "1 log lines"},
		{"log number", func(k flows.Key) *wirepb.VeloMessage { return logLines(k, -1, "x") }, "log number"},
		{"log not JSON", func(k flows.Key) *wirepb.VeloMessage {
			m := logLines(k, 0, "x")
			m.LogMessage.Jsonl = "x\n"
			return m
		}, "line 1"},
		{"nothing inside", func(k flows.Key) *wirepb.VeloMessage { return &wirepb.VeloMessage{SessionId: k.Flow.String()} }, "no payload"},
		{"event nobody watches", func(flows.Key) *wirepb.VeloMessage {
			return rows(flows.Key{Flow: ids.Monitoring}, "System.Flow.Completion", 0, 2)
		}, "name that was not given"},
		{"negative upload number", func(k flows.Key) *wirepb.VeloMessage {
			return &wirepb.VeloMessage{SessionId: k.Flow.String(), FileBuffer: &wirepb.FileBuffer{UploadNumber: -1, Data: []byte("x")}}
		}, "upload number"},
		{"upload elsewhere", func(k flows.Key) *wirepb.VeloMessage {
			return &wirepb.VeloMessage{SessionId: k.Flow.String(), FileBuffer: &wirepb.FileBuffer{Reference: "s3://x"}}
		}, "stored elsewhere"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			key := w.start()
			n.send(c.m(key))
			if got := w.letters(); !strings.Contains(got, c.reason) || strings.Count(got, "\n") != 1 {
				t.Errorf("dead letters %q, want one with %q", got, c.reason)
			}
			if sets := w.disk.Sets(); len(sets) != 1 {
				t.Errorf("stored in %v", sets)
			}
			n.send(c.m(key))
			if got := strings.Count(n.logs.String(), "level=WARN"); got != 1 {
				t.Errorf("%d log lines for two letters of one kind:\n%s", got, n.logs)
			}
		})
	}
}

func TestIngestOfAnotherClientIsRefused(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	thief := flows.Peer{Client: clientID(t, "C.00000000000000ff"), Received: time.Now()}
	if err := n.Ingest(t.Context(), thief, []*wirepb.VeloMessage{rows(key, procs, 0, 2), done(key, 2)}); err != nil {
		t.Fatal(err)
	}
	w.deliver()
	n.want(key, flows.Pending)
	if strings.Count(w.letters(), "\n") != 2 {
		t.Errorf("dead letters %q", w.letters())
	}
}

func TestDeadLettersOfOneClientAreBounded(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	for range 10 {
		if err := n.DeadLetter(t.Context(), n.peer(), "packet does not decode", make([]byte, 10<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(w.letters()); got > 90<<20 || got < 60<<20 {
		t.Errorf("dead letters take %d bytes", got)
	}
}

func TestHuntRowsSayWhoseTheyAre(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	hunt, err := ids.ParseHunt("H.D4K8M2O9P1Q3R")
	if err != nil {
		t.Fatal(err)
	}
	key := w.start(func(s *flows.Start) { s.Hunt = hunt })
	m := rows(key, procs, 0, 1)
	m.VqlResponse.JsonlResponse = `{"ClientId":"C.other","x":1}` + "\n"
	n.send(m, logLines(key, 0, "x"), done(key, 1))
	n.want(key, flows.Completed)
	want := `{"ClientId":"C.00000000000000a1","FlowId":"` + key.Flow.String() + `","client_ClientId":"C.other","x":1}` + "\n"
	if got := w.disk.Text(filestore.HuntResults(key.Org, hunt, "Linux.Sys.Pslist")); got != want {
		t.Errorf("row %q, want %q", got, want)
	}
	if got := w.disk.Text(filestore.HuntLogs(key.Org, hunt)); !strings.HasPrefix(got, `{"ClientId":"C.00000000000000a1","FlowId":`) {
		t.Errorf("log %q", got)
	}
}

func TestUnnamedRowsAreCountedButNotKept(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	n.send(rows(key, "", 0, 4), rows(key, procs, 0, 1), done(key, 5))
	n.want(key, flows.Completed)
	if sets := w.disk.Sets(); len(sets) != 1 {
		t.Errorf("stored in %v", sets)
	}
}

func TestLimitsEndTheFlowAndCancelTheClient(t *testing.T) {
	cases := []struct {
		name   string
		limits flows.Limits
		m      func(flows.Key) *wirepb.VeloMessage
		reason string
	}{
		{"rows", flows.Limits{Rows: 5}, func(k flows.Key) *wirepb.VeloMessage { return rows(k, procs, 5, 1) }, "limit of 5 rows"},
		{"bytes", flows.Limits{RowBytes: 50}, func(k flows.Key) *wirepb.VeloMessage { return rows(k, procs, 5, 5) }, "limit of 50 byte"},
		{"upload bytes", flows.Limits{UploadBytes: 3}, func(k flows.Key) *wirepb.VeloMessage { return buffer(k, 0, 0, "abcd") }, "limit of 3 byte"},
		{"upload offset", flows.Limits{UploadBytes: 3}, func(k flows.Key) *wirepb.VeloMessage { return buffer(k, 0, 1<<40, "a") }, "limit of 3 byte"},
		{"uploads", flows.Limits{Uploads: 1}, func(k flows.Key) *wirepb.VeloMessage { return buffer(k, 7, 0, "x") }, "limit of 1 upload"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			key := w.start(func(s *flows.Start) { s.Limits = c.limits })
			a := n.Attach(key.Org, key.Client)
			defer a.Close()
			n.send(rows(key, procs, 0, 5), buffer(key, 0, 0, "abc"))
			n.want(key, flows.Running)
			n.send(c.m(key))
			f := n.want(key, flows.Errored)
			if !strings.Contains(f.Error, c.reason) || !f.CancelDue {
				t.Errorf("error %q, cancel due %v", f.Error, f.CancelDue)
			}
			if got := kinds(a.Next()); got != "cancel ask1" {
				t.Errorf("client is told %q", got)
			}
			n.send(rows(key, procs, 6, 1))
			w.stored(key, "Linux.Sys.Pslist", 5)
			n.send(complete(key, status(wirepb.VeloStatus_GENERIC_ERROR, 6, "Cancelled")))
			if f = n.want(key, flows.Errored); f.CancelDue || !strings.Contains(f.Error, c.reason) {
				t.Errorf("after the client stopped: error %q, cancel due %v", f.Error, f.CancelDue)
			}
		})
	}
}

func TestLogLimitSilencesButNeverFails(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start(func(s *flows.Start) { s.Limits.Logs = 10 })
	for i := range 300 {
		n.send(logLines(key, i, "x"))
	}
	n.send(done(key, 0))
	n.want(key, flows.Completed)
	if got := strings.Count(w.disk.Text(filestore.FlowLogs(key.Org, key.Client, key.Flow)), "\n"); got != 110 {
		t.Errorf("%d log lines, want the limit and the slack: 110", got)
	}
}

func TestOnlyNewLogLinesAlert(t *testing.T) {
	w := newWorld(t)
	alerts := 0
	n := w.node(func(o *flows.Options) { o.Alert = func(flows.Key, string, []byte) { alerts++ } })
	key := w.start(func(s *flows.Start) { s.Limits.Logs = 10 })
	alert := func(first int) *wirepb.VeloMessage {
		m := logLines(key, first, "found")
		m.LogMessage.Level = "ALERT"
		return m
	}
	n.committer.Before = failing(1)
	mustErr(t, n.try(alert(0)), flows.ErrTryAgain)
	n.send(alert(0))
	n.send(alert(0))
	if alerts != 1 {
		t.Errorf("%d alerts for a line that came three times", alerts)
	}
	for i := range 300 {
		n.send(alert(i))
	}
	if alerts != 110 {
		t.Errorf("%d alerts for 110 lines within the limit", alerts)
	}
}

func TestLateMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		n.send(rows(key, procs, 0, 2), done(key, 2))
		n.want(key, flows.Completed)

		n.send(logLines(key, 0, "late"))
		if w.disk.Text(filestore.FlowLogs(key.Org, key.Client, key.Flow)) == "" {
			t.Error("a log that came after the end was dropped")
		}
		n.send(rows(key, procs, 2, 5))
		w.stored(key, "Linux.Sys.Pslist", 2)

		m, err := n.PlanDelete(key, "ada")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.ledger.Propose(m); err != nil {
			t.Fatal(err)
		}
		before := w.disk.Commits()
		n.send(rows(key, procs, 2, 5), done(key, 7), logLines(key, 5, "x"))
		if w.disk.Commits() != before || w.letters() != "" {
			t.Error("messages of a deleted flow were stored")
		}
		if _, err := n.Flow(key); !errors.Is(err, flows.ErrNotFound) || !n.Deleted(key) {
			t.Errorf("deleted flow: %v", err)
		}
	})
}

func TestErroredFlowTakesStragglersForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		n.send(rows(key, procs, 0, 2), complete(key, status(wirepb.VeloStatus_GENERIC_ERROR, 9, strings.Repeat("é", 5000))))
		f := n.want(key, flows.Errored)
		if len(f.Error) > 2100 {
			t.Errorf("error text has %d bytes", len(f.Error))
		}
		n.send(rows(key, procs, 2, 2))
		w.stored(key, "Linux.Sys.Pslist", 4)
		if f = n.want(key, flows.Errored); f.Rows() != 4 {
			t.Errorf("record counts %d rows", f.Rows())
		}
		time.Sleep(25 * time.Hour)
		n.send(rows(key, procs, 4, 2))
		w.stored(key, "Linux.Sys.Pslist", 4)
	})
}

func TestProgressIsSoft(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	key := w.start()
	watch := n.Watch(key)
	defer watch.Close()
	n.send(progress(key)) // delivered, waiting for a slot in the client
	n.want(key, flows.Running)
	<-watch.C()
	n.send(progress(key, status(wirepb.VeloStatus_PROGRESS, 7, ""), status(wirepb.VeloStatus_OK, 2, "")))
	<-watch.C()
	p, ok := n.Progress(key)
	if !ok || p.Totals.Rows != 9 || p.Queries != 2 || p.Running != 1 {
		t.Errorf("progress %+v, %v", p, ok)
	}
	if _, ok := other.Progress(key); ok {
		t.Error("progress crossed to another node")
	}
	if w.disk.Commits() != 1 { // the fact that it was taken
		t.Errorf("%d commits", w.disk.Commits())
	}
}
