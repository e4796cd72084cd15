package server_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/vql/server"
)

const logins = `name: Linux.Test.Logins
type: CLIENT_EVENT
parameters:
  - {name: Deep, type: bool}
sources:
  - {name: SSH, query: "SELECT * FROM clock()"}
  - {name: Console, query: "SELECT * FROM clock()"}
`

// watchLogins has all clients watch, and returns how a client sends a row.
func (w *world) watchLogins() (send func(client ids.Client, n int)) {
	w.t.Helper()
	args := &wirepb.VQLCollectorArgs{Query: []*wirepb.VQLRequest{{Vql: "SELECT * FROM clock()", Name: "Linux.Test.Logins/SSH"}}}
	w.apply(flows.PlanEvents(ids.RootOrg, "ada", []flows.EventGroup{{Queries: []flows.EventQuery{{
		Args: args, Names: map[string]string{"Linux.Test.Logins/SSH": "Linux.Test.Logins/SSH"},
	}}}}))
	return func(client ids.Client, n int) {
		w.t.Helper()
		m := lines("Linux.Test.Logins/SSH", 0, 1, fmt.Sprintf("{\"n\":%d}\n", n))
		m.SessionId, m.VqlResponse.Timestamp = ids.Monitoring.String(), uint64(n)
		must(w.t, w.flows.Ingest(context.Background(), flows.Peer{Client: client, Received: time.Now()}, []*wirepb.VeloMessage{m}))
	}
}

func TestEventRowsAreRead(t *testing.T) {
	w := newWorld(t)
	send := w.watchLogins()
	send(w.one, 1)
	send(w.two, 2)
	s := w.as("rex", "reader")
	numbers := func(query string, args ...any) string {
		t.Helper()
		return strings.Join(s.rows("SELECT n FROM "+query, args...), " ")
	}
	both, first := `{"n":1} {"n":2}`, `{"n":1}`
	for query, want := range map[string]string{
		"source(artifact='Linux.Test.Logins/SSH')":                                                              both,
		"source(artifact='Linux.Test.Logins', source='SSH', client_id='" + w.one.String() + "')":                first,
		"source(artifact='Linux.Test.Logins', start_row=1)":                                                     `{"n":2}`,
		"source(artifact='Linux.Test.Logins/SSH', count=1)":                                                     first,
		"source(artifact='Linux.Test.Logins/SSH', start_time=now() + 100)":                                      "",
		"source(artifact='Linux.Test.Logins/SSH', start_time=now() - 100, end_time=now() + 100)":                both,
		"source(artifact='Linux.Test.Logins/Console')":                                                          "",
		"monitoring(client_id='" + w.one.String() + "', artifact='Linux.Test.Logins', source='SSH')":            first,
		"monitoring(client_id='" + w.one.String() + "', artifact='Linux.Test.Logins/SSH', end_time=now() - 99)": "",
		"monitoring_logs(client_id='" + w.one.String() + "', artifact='Linux.Test.Logins/SSH')":                 "",
	} {
		if got := numbers("%s", query); got != want {
			t.Errorf("%s gave %s, want %s", query, got, want)
		}
	}
	s.wantLog("reading Linux.Test.Logins/SSH; source chooses another")
	nobody := w.as("eve")
	nobody.rows("SELECT * FROM source(artifact='Linux.Test.Logins/SSH')")
	nobody.rows("SELECT * FROM watch_monitoring(artifact='Linux.Test.Logins/SSH')")
	nobody.wantLog("permission denied: READ_RESULTS is needed")
}

func TestLogsOfEventQueriesAreRead(t *testing.T) {
	w := newWorld(t)
	w.watchLogins()
	for _, client := range []ids.Client{w.one, w.two} {
		m := logLine("watching " + client.String())
		m.SessionId, m.LogMessage.Artifact = ids.Monitoring.String(), "Linux.Test.Logins/SSH"
		must(t, w.flows.Ingest(context.Background(), flows.Peer{Client: client, Received: time.Now()}, []*wirepb.VeloMessage{m}))
	}
	s := w.as("rex", "reader")
	at := "client_id='" + w.one.String() + "', artifact='Linux.Test.Logins', source='SSH'"
	s.want("SELECT level, message FROM monitoring_logs("+at+") WHERE _ts", `{"level":"INFO","message":"watching `+w.one.String()+`"}`)
	s.want("SELECT level, message FROM monitoring_logs(" + at + ", end_time=now() - 100)")
	s.want("SELECT level, message FROM monitoring_logs(client_id='nobody', artifact='Linux.Test.Logins/SSH')")
	s.wantLog("nobody")
}

func TestWatchMonitoringGivesWhatComes(t *testing.T) {
	w := newWorld(t)
	send := w.watchLogins()
	send(w.one, 1)
	s := w.as("rex", "reader")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop := make(chan struct{})
	sent := make(chan struct{})
	go func() { // whatever it takes until the query watches
		defer close(sent)
		for n := 2; ; n++ {
			send(w.two, n)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	var got []string
	err := s.each(ctx, "SELECT * FROM watch_monitoring(artifact='Linux.Test.Logins/SSH') LIMIT 3", func(row *vql.Dict) error {
		got = append(got, string(vql.AppendJSON(nil, row)))
		return nil
	})
	close(stop)
	<-sent
	if err != nil || len(got) != 3 || strings.Contains(got[0], `"n":1,`) || !strings.Contains(got[0], `"_Source":"Linux.Test.Logins/SSH"`) {
		t.Errorf("%v: %v", err, got)
	}
}

// tables are event tables in memory.
type tables struct {
	clients []server.EventTable
	server  []flows.Artifact
}

func (w *world) withTables(name string, granted ...string) (*session, *tables) {
	w.t.Helper()
	kept := &tables{}
	h := w.host(name)
	h.Events = &server.EventTables{
		Clients: func() []server.EventTable { return kept.clients },
		Server:  func() []flows.Artifact { return kept.server },
		ChangeClients: func(_ context.Context, edit func([]server.EventTable) ([]server.EventTable, error)) (err error) {
			kept.clients, err = edit(kept.clients)
			return err
		},
		ChangeServer: func(_ context.Context, edit func([]flows.Artifact) ([]flows.Artifact, error)) (err error) {
			kept.server, err = edit(kept.server)
			return err
		},
	}
	return w.session(roles(granted), nil, h), kept
}

func TestEventTablesAreChanged(t *testing.T) {
	w := newWorld(t)
	s, kept := w.withTables("ada", "administrator")
	s.want("SELECT get_client_monitoring() AS M, get_server_monitoring() AS S FROM scope()",
		`{"M":{"artifacts":{"artifacts":[],"specs":[]},"label_events":[]},"S":{"artifacts":[],"specs":[]}}`)
	s.rows("SELECT add_client_monitoring(artifact='Linux.Test.Logins', parameters=dict(Deep=TRUE)) FROM scope()")
	s.rows("SELECT add_client_monitoring(artifact='Linux.Test.Logins/SSH', label='Lab') FROM scope()")
	const whole = `{"artifacts":{"artifacts":["Linux.Test.Logins"],"specs":[{"artifact":"Linux.Test.Logins","parameters":{"env":[{"key":"Deep","value":"Y"}]}}]},` +
		`"label_events":[{"label":"lab","artifacts":{"artifacts":["Linux.Test.Logins/SSH"],"specs":[{"artifact":"Linux.Test.Logins/SSH","parameters":{"env":[]}}]}}]}`
	s.want("SELECT get_client_monitoring() AS M FROM scope()", `{"M":`+whole+`}`)
	s.want("SELECT set_client_monitoring(value=get_client_monitoring()) AS M FROM scope()", `{"M":`+whole+`}`)
	s.rows("SELECT rm_client_monitoring(artifact='Linux.Test.Logins/SSH', label='LAB'), rm_client_monitoring(artifact='Linux.Test.Logins') FROM scope()")
	for _, table := range kept.clients {
		if len(table.Artifacts) != 0 {
			t.Errorf("left: %+v", kept.clients)
		}
	}
	s.rows("SELECT add_server_monitoring(artifact='S.A', parameters=dict(P=1)), add_server_monitoring(artifact='S.A', parameters=dict(P=2)) FROM scope()")
	if got := fmt.Sprint(kept.server); got != "[{S.A [{P 2}]}]" {
		t.Errorf("server's table %s", got)
	}
	s.rows("SELECT set_server_monitoring(value=dict(artifacts=('S.B', 'S.C'), specs=(dict(artifact='S.C', parameters=dict(env=(dict(key='K', value='V'), ))), ))) FROM scope()")
	if got := fmt.Sprint(kept.server); got != "[{S.B []} {S.C [{K V}]}]" {
		t.Errorf("server's table %s", got)
	}
	s.rows("SELECT rm_server_monitoring(artifact='S.B') FROM scope()")
	if len(kept.server) != 1 {
		t.Errorf("server's table %+v", kept.server)
	}
	s.rows("SELECT set_server_monitoring(value=dict(artifacts=('S.B', ), specs=(dict(artifact='S.X'), ))) FROM scope()")
	s.wantLog("which is not among the artifacts")
	s.rows("SELECT set_client_monitoring(value=dict(artifacts=1)) FROM scope()")
	s.wantLog("artifacts is no dict")
}

func TestEventTablesNeedPermissions(t *testing.T) {
	w := newWorld(t)
	s, kept := w.withTables("ann", "analyst")
	for _, call := range []string{
		"add_client_monitoring(artifact='A')", "rm_client_monitoring(artifact='A')", "set_client_monitoring(value=dict())",
		"add_server_monitoring(artifact='A')", "rm_server_monitoring(artifact='A')", "set_server_monitoring(value=dict())",
	} {
		s.rows("SELECT %s FROM scope()", call)
		s.wantLog(strings.Split(call, "(")[0] + ": permission denied")
	}
	if len(kept.clients)+len(kept.server) != 0 {
		t.Error("something was changed")
	}
	w.admin().rows("SELECT get_client_monitoring() FROM scope()") // of a host without tables
}
