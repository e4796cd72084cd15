package server_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// sendAt is a row of a day, days before today.
func (w *world) sendAt(client ids.Client, n, days int) time.Time {
	w.t.Helper()
	at := time.Now().UTC().AddDate(0, 0, -days)
	m := lines("Linux.Test.Logins/SSH", 0, 1, fmt.Sprintf("{\"n\":%d}\n", n))
	m.SessionId, m.VqlResponse.Timestamp = ids.Monitoring.String(), uint64(n)
	must(w.t, w.flows.Ingest(context.Background(), flows.Peer{Client: client, Received: at}, []*wirepb.VeloMessage{m}))
	return at
}

func TestEventsOfOneClientAreDeletedByDays(t *testing.T) {
	w := newWorld(t)
	w.watchLogins()
	w.sendAt(w.one, 1, 5)
	shared := w.sendAt(w.one, 2, 4)
	w.sendAt(w.two, 3, 4)
	w.sendAt(w.one, 4, 3)
	w.sendAt(w.one, 5, 0)
	rex := w.as("rex", "reader")
	rows := func(client string) string {
		t.Helper()
		return strings.Join(rex.rows(`SELECT n FROM source(artifact='Linux.Test.Logins/SSH'%s)`, client), " ")
	}
	file := func(days int) string {
		return string(filestore.Events(ids.RootOrg, "Linux.Test.Logins/SSH", time.Now().UTC().AddDate(0, 0, -days))) + "/n1-1.jsonl.gz"
	}
	there := func(days int) bool {
		_, err := os.Stat(filepath.Join(w.store.Root(), file(days)))
		return err == nil
	}
	all := `{"n":1} {"n":2} {"n":3} {"n":4} {"n":5}`
	want := func(days ...int) (out []string) {
		for _, d := range days {
			out = append(out, fmt.Sprintf(`{"type":"EventFile","data":{"VFSPath":%q},"error":""}`, file(d)))
		}
		return out
	}
	call := func(args string) string {
		return `SELECT * FROM delete_events(artifact='Linux.Test.Logins/SSH', client_id='` + w.one.String() + `'` + args + `)`
	}
	rex.want(call(`, really_do_it=TRUE`))
	rex.wantLog("DELETE_RESULTS is needed")
	s := w.admin()
	s.want(call(``), want(5, 4, 3)...)
	end := `, end_time='` + shared.AddDate(0, 0, 1).Format("2006-01-02") + `T12:00:00Z'`
	s.want(call(end), want(5, 4)...)
	if got := rows(""); got != all {
		t.Fatalf("a dry run left %s", got)
	}
	s.want(call(end+`, really_do_it=TRUE`), want(5, 4)...)
	if got := rows(""); got != `{"n":3} {"n":4} {"n":5}` {
		t.Errorf("left are %s\n%s", got, s.log())
	}
	if got := rows(`, client_id='` + w.two.String() + `'`); got != `{"n":3}` {
		t.Errorf("of the other are left %s", got)
	}
	if last := w.audit[len(w.audit)-1]; !strings.HasPrefix(last, "ada events.delete Linux.Test.Logins/SSH map[client:"+w.one.String()) {
		t.Errorf("audit %q", w.audit)
	}
	for _, d := range w.flows.Erased.All() {
		must(t, w.flows.RemoveEvents(t.Context(), d))
		must(t, w.flows.RemoveEvents(t.Context(), d))
	}
	if there(5) || !there(4) || !there(3) || !there(0) {
		t.Errorf("files: five %v, shared %v, three %v, today %v", there(5), there(4), there(3), there(0))
	}
	list, err := w.flows.EventList(t.Context(), ids.RootOrg, w.one, time.Time{}, time.Time{})
	if err != nil || len(list) != 1 || len(list[0].Days) != 2 {
		t.Errorf("days of the client: %v, %v", list, err)
	}
	// What is left of the shared day goes with the other's rows.
	s.rows(`SELECT * FROM delete_events(artifact='Linux.Test.Logins/SSH', client_id='%s', really_do_it=TRUE)`, w.two)
	for _, d := range w.flows.Erased.All() {
		must(t, w.flows.RemoveEvents(t.Context(), d))
	}
	if there(4) {
		t.Error("a day of which nothing is left is there")
	}
	if got := rows(""); got != `{"n":4} {"n":5}` {
		t.Errorf("left are %s", got)
	}
	for _, bad := range []string{`, start_time=now()`, `, start_time='what'`} {
		s.want(call(bad + `, really_do_it=TRUE`))
	}
	s.wantLog("no whole day")
}
