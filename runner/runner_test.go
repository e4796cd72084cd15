package runner_test

import (
	"slices"
	"strings"
	"testing"

	"raptorpack/flows"
	"raptorpack/internal/testkit"
	"raptorpack/proto/wirepb"
)

const whole = `name: Server.Whole
type: SERVER
sources:
- name: Numbers
  query: |
    LET _ <= log(message='the first line')
    SELECT _value AS N FROM range(start=0, end=2500, step=1)
- name: File
  query: SELECT upload(file='some bytes', accessor='data', name='dir/note.txt').Size AS Size FROM scope()
`

const marked = `name: Server.Marked
type: SERVER
sources:
- query: SELECT mark() AS Mark FROM scope()
`

const endless = `name: Server.Endless
type: SERVER
sources:
- query: SELECT * FROM chain(a={ SELECT mark() AS Mark FROM scope() }, b={ SELECT * FROM clock(period=10) })
`

const lent = `name: Server.Lent
type: SERVER
impersonate: admin
sources:
- query: SELECT mark() AS Mark FROM scope()
`

const choosy = `name: Server.Choosy
type: SERVER
precondition: SELECT * FROM scope() WHERE FALSE
sources:
- query: SELECT mark() AS Mark FROM scope()
`

func TestCollectionOnTheServerIsStoredLikeAClients(t *testing.T) {
	w := newWorld(t, whole)
	w.lead()
	w.fails.Store(3) // what is not taken is sent again
	key := w.start("ann", "Server.Whole")
	f := w.await(key, flows.Completed, flows.Errored)
	if f.State != flows.Completed || f.Rows() != 2501 || f.Conflicts() != 0 || f.Totals.Uploads != 1 || f.Totals.Logs == 0 {
		t.Errorf("%+v", f)
	}
	rows := w.rows(key, "Server.Whole/Numbers")
	if len(rows) != 1000 || rows[0] != `{"N":0}` || rows[999] != `{"N":999}` {
		t.Errorf("%d rows, %.40v ...", len(rows), rows)
	}
	if rows := w.rows(key, "Server.Whole/File"); !slices.Equal(rows, []string{`{"Size":10}`}) {
		t.Errorf("%v", rows)
	}
	if log := w.logs(key); !strings.Contains(log, "the first line") {
		t.Errorf("log %q", log)
	}
	uploads, err := w.flows.Uploads(t.Context(), key)
	if err != nil || len(uploads) != 1 || uploads[0].StoredSize != 10 || !slices.Equal(uploads[0].Components, []string{"dir", "note.txt"}) {
		t.Errorf("%+v, %v", uploads, err)
	}
	if !slices.Equal(w.ran(), []string{"ann"}) {
		t.Errorf("ran in the names of %v", w.ran())
	}
}

func TestCollectionRunsWithThePermissionsOfItsCreator(t *testing.T) {
	w := newWorld(t, marked, lent, choosy)
	w.denied = "EXECVE"
	w.lead()
	key := w.start("ann", "Server.Marked")
	w.await(key, flows.Completed, flows.Errored)
	if log := w.logs(key); w.marks.Load() != 0 || !strings.Contains(log, "EXECVE") {
		t.Errorf("%d marks without permission; log %s", w.marks.Load(), log)
	}
	if f := w.await(w.start("nobody", "Server.Marked"), flows.Completed, flows.Errored); f.State != flows.Errored || !strings.Contains(f.Error, "no such account") {
		t.Errorf("%+v", f)
	}
	w.await(w.start("ann", "Server.Lent"), flows.Completed, flows.Errored)
	if ran := w.ran(); !slices.Contains(ran, "admin*") {
		t.Errorf("ran in the names of %v", ran)
	}
	key = w.start("ann", "Server.Choosy")
	if f := w.await(key, flows.Completed, flows.Errored); f.State != flows.Completed || w.marks.Load() != 0 || !strings.Contains(w.logs(key), "precondition") {
		t.Errorf("%+v", f)
	}
}

func TestCollectionIsCancelledAndBounded(t *testing.T) {
	w := newWorld(t, endless, whole)
	stop := w.lead()
	key := w.start("ann", "Server.Endless")
	w.await(key, flows.Running)
	m, err := w.flows.PlanCancel(key, "bob")
	w.check(err)
	w.check(w.ledger.Propose(m))
	testkit.Eventually(t, "the cancelled query has ended", func() (any, bool) {
		f, err := w.flows.Flow(key)
		return []any{f, err}, err == nil && f.State == flows.Cancelled && !f.CancelDue
	})
	f := w.await(w.start("ann", "Server.Whole", func(s *flows.Start) {
		s.Limits = flows.Limits{Rows: 1500}
		s.Request.VqlClientActions[0].MaxRow = 1000
	}), flows.Errored)
	if !strings.Contains(f.Error, "limit of 1500 rows") {
		t.Errorf("%+v", f)
	}
	stop() // nothing is left that would keep it
}

// What a master ran ends with it, and is never begun by the next.
func TestNextMasterEndsWhatRan(t *testing.T) {
	w := newWorld(t, endless, marked)
	stop := w.lead()
	key := w.start("ann", "Server.Endless")
	w.await(key, flows.Running)
	testkit.Eventually(t, "the query has begun", func() (any, bool) { return w.marks.Load(), w.marks.Load() == 1 })
	stop()
	if f := w.await(key, flows.Running); f.State != flows.Running {
		t.Fatalf("an old master that told on: %+v", f)
	}
	waiting := w.start("ann", "Server.Marked") // while nobody leads
	w.settled.Store(false)
	w.lead()
	w.settled.Store(true)
	if f := w.await(key, flows.Errored); !strings.Contains(f.Error, "the master changed") {
		t.Errorf("%+v", f)
	}
	w.await(waiting, flows.Completed)
	if w.marks.Load() != 2 {
		t.Errorf("%d marks, want one of each", w.marks.Load())
	}
}

// Whoever does not lead any more when its task is durably taken begins nothing.
func TestNothingBeginsWithoutTheLease(t *testing.T) {
	w := newWorld(t, marked)
	w.leads.Store(false)
	stop := w.lead()
	key := w.start("ann", "Server.Marked")
	w.await(key, flows.Running)
	stop()
	if w.marks.Load() != 0 {
		t.Fatal("a query ran without the lease")
	}
	w.leads.Store(true)
	w.lead()
	w.await(key, flows.Errored)
	if w.marks.Load() != 0 {
		t.Error("a task that was taken ran again")
	}
}

// What cannot be understood is answered, not run.
func TestBrokenRequestEndsWithAnError(t *testing.T) {
	w := newWorld(t, marked)
	w.lead()
	f := w.await(w.start("ann", "Server.Marked", func(s *flows.Start) {
		s.Request.VqlClientActions[0].Query = []*wirepb.VQLRequest{{Vql: "SELECT FROM"}}
		s.Names = nil
	}), flows.Errored)
	if f.Error == "" {
		t.Errorf("%+v", f)
	}
}
