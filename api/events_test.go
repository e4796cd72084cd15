package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

const loginsArtifact = `name: Custom.Events.Logins
type: CLIENT_EVENT
parameters:
- name: Token
  type: redacted
- name: Path
sources:
- name: SSH
  query: SELECT * FROM clock(period=1)
`

const guardArtifact = `name: Custom.Server.Guard
type: SERVER_EVENT
required_permissions: [EXECVE]
parameters:
- name: Token
  type: redacted
sources:
- query: SELECT * FROM clock(period=1)
`

const logins = "Custom.Events.Logins/SSH"

// newEventWorld is a world with event artifacts.
func newEventWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	for _, text := range []string{loginsArtifact, guardArtifact} {
		w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": text})
	}
	return w
}

func tables(all ...api.EventTable) map[string]any {
	return map[string]any{"tables": append([]api.EventTable{}, all...)}
}

func watch(label, artifact string, parameters map[string]string) api.EventTable {
	return api.EventTable{Label: label, Artifacts: []api.CollectSpec{{Name: artifact, Parameters: parameters}}}
}

func TestEventTablesOfClients(t *testing.T) {
	w := newEventWorld(t)
	const path = "/api/v1/monitoring/client"
	var empty api.ClientMonitoring
	w.want(200, "reader", "GET", path, nil).into(t, &empty)
	if empty.Version != 0 || len(empty.Tables) != 0 {
		t.Errorf("before any: %+v", empty)
	}
	set := tables(watch("", "Custom.Events.Logins", map[string]string{"Token": "hush", "Path": "/x"}), watch("Lab", "Custom.Events.Logins/SSH", nil))
	w.want(403, "reader", "PUT", path, set)
	w.want(401, "", "PUT", path, set)
	var done api.Done
	w.want(200, "investigator", "PUT", path, set).into(t, &done)
	r := w.want(200, "reader", "GET", path, nil)
	if strings.Contains(string(r.body), "hush") {
		t.Errorf("a redacted value is shown: %s", r.body)
	}
	var shown api.ClientMonitoring
	r.into(t, &shown)
	want := `[{ [{Custom.Events.Logins map[Path:/x Token:<redacted>]}]} {lab [{Custom.Events.Logins/SSH map[]}]}]`
	if got := fmt.Sprint(shown.Tables); got != want || shown.Version != done.Index {
		t.Errorf("version %d, tables %s", shown.Version, got)
	}
	if e := w.trail.last("monitoring.client"); e.Principal != "investigator" || e.Details["tables"] != "Custom.Events.Logins lab:Custom.Events.Logins/SSH" {
		t.Errorf("audit %+v", e)
	}
	// What was shown can be sent back; the secret stays.
	w.want(200, "investigator", "PUT", path, map[string]any{"tables": shown.Tables, "version": shown.Version})
	groups, _ := w.flows.Events.Groups(ids.RootOrg)
	if got := fmt.Sprint(groups[0].Artifacts); got != "[{Custom.Events.Logins [{Path /x} {Token hush}]}]" {
		t.Errorf("after sending it back: %s", got)
	}
	w.want(409, "investigator", "PUT", path, map[string]any{"tables": shown.Tables, "version": shown.Version})
	for _, wrong := range []map[string]any{
		tables(watch("", "Linux.Sys.Users", nil)),
		tables(watch("", "Custom.Server.Guard", nil)),
		tables(watch("", "Custom.Events.Logins", map[string]string{"Nope": "1"})),
		tables(watch("new", "Custom.Events.Logins", map[string]string{"Token": "<redacted>"})),
		tables(watch("a", "Custom.Events.Logins", nil), watch("A", "Custom.Events.Logins", nil)),
	} {
		w.want(422, "administrator", "PUT", path, wrong)
	}
	w.want(404, "investigator", "PUT", path, tables(watch("", "No.Such", nil)))
	w.want(200, "investigator", "PUT", path, tables())
	w.want(200, "reader", "GET", path, nil).into(t, &shown)
	if len(shown.Tables) != 0 {
		t.Errorf("switched off: %+v", shown)
	}
}

func TestEventTableOfTheServer(t *testing.T) {
	w := newEventWorld(t)
	const path = "/api/v1/monitoring/server"
	set := map[string]any{"artifacts": []api.CollectSpec{{Name: "Custom.Server.Guard", Parameters: map[string]string{"Token": "hush"}}}}
	w.want(403, "investigator", "PUT", path, set)
	w.want(422, "administrator", "PUT", path, map[string]any{"artifacts": []api.CollectSpec{{Name: "Custom.Events.Logins"}}})
	w.want(200, "administrator", "PUT", path, set)
	var shown api.ServerMonitoring
	r := w.want(200, "reader", "GET", path, nil)
	r.into(t, &shown)
	if strings.Contains(string(r.body), "hush") || len(shown.Artifacts) != 1 || shown.Artifacts[0].Principal != "administrator" || shown.Version == 0 {
		t.Errorf("shown: %s", r.body)
	}
	w.want(409, "administrator", "PUT", path, map[string]any{"artifacts": []api.CollectSpec{}, "version": shown.Version + 1})
	w.want(200, "administrator", "PUT", path, map[string]any{"artifacts": []api.CollectSpec{}})
	if e := w.trail.last("monitoring.server"); e.Principal != "administrator" {
		t.Errorf("audit %+v", e)
	}
}

// event lets the client send rows of its event query.
func (w *world) event(stamp uint64, lines ...string) {
	w.t.Helper()
	w.arrive(&wirepb.VeloMessage{SessionId: "F.Monitoring", VqlResponse: &wirepb.VQLResponse{
		Query: &wirepb.VQLRequest{Name: logins}, Timestamp: stamp, TotalRows: uint64(len(lines)), JsonlResponse: strings.Join(lines, "\n") + "\n",
	}})
}

func TestEventRowsAndTheirList(t *testing.T) {
	w := newEventWorld(t)
	w.want(200, "administrator", "PUT", "/api/v1/monitoring/client", tables(watch("", "Custom.Events.Logins", nil)))
	w.event(1, `{"n":1,"big":9223372036854775807}`, `{"n":2}`)
	w.event(2, `{"n":3}`)
	path := "/api/v1/events/" + url.PathEscape(logins)
	r := w.want(200, "reader", "GET", path+"?client="+w.client.String(), nil)
	if !strings.Contains(string(r.body), `"n":1,"big":9223372036854775807}`) {
		t.Errorf("not as stored: %s", r.body)
	}
	rows, cursor := 0, ""
	for {
		var page api.EventRows
		w.want(200, "reader", "GET", "/api/v1/events/Custom.Events.Logins?source=SSH&limit=2&cursor="+cursor, nil).into(t, &page)
		rows += len(page.Items)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if rows != 3 {
		t.Errorf("%d rows in pages", rows)
	}
	var page api.EventRows
	w.want(200, "reader", "GET", path+"?from="+url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339)), nil).into(t, &page)
	if len(page.Items) != 0 {
		t.Errorf("%d rows of the future", len(page.Items))
	}
	var list api.List[api.EventArtifact]
	w.want(200, "reader", "GET", "/api/v1/events?client="+w.client.String(), nil).into(t, &list)
	if len(list.Items) != 1 || list.Items[0].Name != logins || len(list.Items[0].Days) != 1 {
		t.Errorf("list %+v", list)
	}
	w.want(200, "reader", "GET", "/api/v1/events?client=server", nil).into(t, &list)
	if len(list.Items) != 0 {
		t.Errorf("of the server: %+v", list)
	}
	w.want(422, "reader", "GET", path+"?cursor=x", nil)
	w.want(422, "reader", "GET", "/api/v1/events?client=x", nil)
	w.want(200, "reader", "GET", path+"/logs", nil)
	for _, where := range []string{"/api/v1/events", path, path + "/logs", path + "/tail", "/api/v1/monitoring/client", "/api/v1/monitoring/server"} {
		w.want(401, "", "GET", where, nil)
	}
}

// sse is one event of a stream.
type sse struct {
	name, id, data string
}

// stream reads a tail; it ends with the test.
func (w *world) stream(path string, header ...string) (next func() sse) {
	w.t.Helper()
	response := w.send(config.Pair{}, "reader", "GET", path, nil, header...)
	w.t.Cleanup(func() { response.Body.Close() })
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		w.t.Fatalf("status %d, type %s", response.StatusCode, got)
	}
	lines := bufio.NewScanner(response.Body)
	return func() sse {
		w.t.Helper()
		var e sse
		for lines.Scan() {
			switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
			case "event":
				e.name = value
			case "id":
				e.id = value
			case "data":
				e.data = value
			case "":
				if e.name != "" {
					return e
				}
			}
		}
		w.t.Fatalf("the stream ended: %v", lines.Err())
		return e
	}
}

func TestTailGoesOnWhereItStood(t *testing.T) {
	w := newEventWorld(t)
	w.want(200, "administrator", "PUT", "/api/v1/monitoring/client", tables(watch("", "Custom.Events.Logins", nil)))
	w.event(1, `{"n":1}`)
	path := "/api/v1/events/" + url.PathEscape(logins) + "/tail"
	next := w.stream(path)
	begin := next()
	if begin.name != "begin" || begin.id == "" {
		t.Fatalf("first %+v", begin)
	}
	w.event(2, `{"n":2}`, "{\"n\":3,\r\"x\":\"evil\"}") // a carriage return would end a line of the stream
	rows := next()
	var got struct{ Rows []json.RawMessage }
	if err := json.Unmarshal([]byte(rows.data), &got); err != nil || len(got.Rows) != 2 || !strings.Contains(rows.data, `"evil"`) {
		t.Fatalf("%v: %+v", err, rows)
	}
	w.event(3, `{"n":4}`)
	for name, again := range map[string]func() sse{
		"cursor": w.stream(path + "?cursor=" + rows.id), "header": w.stream(path, "Last-Event-ID", rows.id),
	} {
		if e := again(); !strings.Contains(e.data, `"n":4`) || strings.Contains(e.data, `"n":3`) {
			t.Errorf("by %s: %+v", name, e)
		}
	}
	if e := w.stream(path + "?from=" + url.QueryEscape(time.Now().UTC().Format(time.RFC3339)))(); strings.Count(e.data, `"n"`) != 4 {
		t.Errorf("from today: %+v", e)
	}
	if e := next(); !strings.Contains(e.data, `"n":4`) {
		t.Errorf("the first stream goes on with %+v", e)
	}
	w.want(422, "reader", "GET", path+"?cursor=x", nil)
	w.want(422, "reader", "GET", path+"?from=x", nil)
}

func TestTailEndsWithTheRightToRead(t *testing.T) {
	w := newEventWorld(t)
	w.want(200, "administrator", "PUT", "/api/v1/monitoring/client", tables(watch("", "Custom.Events.Logins", nil)))
	response := w.send(config.Pair{}, "reader", "GET", "/api/v1/events/"+url.PathEscape(logins)+"/tail", nil)
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Scan()
	m, err := w.users.PlanSet("reader", []string{"reader"}, nil, true)
	w.check(err)
	w.propose(m)
	w.event(1, `{"n":1}`)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"n":1`) {
			t.Error("a locked account reads on")
		}
	}
}

// A query's edits are made anew when somebody else's came between.
func TestChangesOfEventTablesDoNotLoseEachOther(t *testing.T) {
	w := newEventWorld(t)
	who := &api.Principal{Name: "local:test", Local: true}
	between := true
	add := func(label string) func([]api.EventTable) ([]api.EventTable, error) {
		return func(all []api.EventTable) ([]api.EventTable, error) {
			if label == "mine" && between {
				between = false
				w.check(w.server.ChangeClientEvents(context.Background(), who, func(all []api.EventTable) ([]api.EventTable, error) {
					return append(all, watch("theirs", "Custom.Events.Logins", nil)), nil
				}))
			}
			return append(all, watch(label, "Custom.Events.Logins", nil)), nil
		}
	}
	w.check(w.server.ChangeClientEvents(t.Context(), who, add("mine")))
	if all, _ := w.server.ClientEvents(); len(all) != 2 {
		t.Errorf("tables %+v", all)
	}
	err := w.server.ChangeServerEvents(t.Context(), &api.Principal{Name: "investigator"}, func(all []api.CollectSpec) ([]api.CollectSpec, error) { return all, nil })
	if err == nil {
		t.Error("somebody without COLLECT_SERVER changes the server's table")
	}
	w.check(w.server.ChangeServerEvents(t.Context(), who, func(all []api.CollectSpec) ([]api.CollectSpec, error) {
		return append(all, api.CollectSpec{Name: "Custom.Server.Guard"}), nil
	}))
	if all, _ := w.server.ServerEvents(); len(all) != 1 {
		t.Errorf("server's %+v", all)
	}
}
