package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/vql/server"
)

func TestHuntsTellTheirStateInCustomaryWords(t *testing.T) {
	w := newHuntWorld(t)
	s := w.as("rex", "reader")
	now := time.Now
	draft, err := w.createHunt(t.Context(), server.Hunt{Collection: server.Collection{Artifacts: []flows.Artifact{{Name: "Linux.Test.Procs"}}}})
	must(t, err)
	running, paused, stopped, expired, archived := w.hunt("Linux.Test.Procs"), w.hunt("Linux.Test.Procs"), w.hunt("Linux.Test.Procs"),
		w.hunt("Linux.Test.Procs"), w.hunt("Linux.Test.Procs")
	w.apply(w.hunts.PlanPause(paused, "ada", now()))
	w.apply(w.hunts.PlanStop(stopped, false, "ada", now()))
	w.apply(w.hunts.PlanStop(archived, false, "ada", now()))
	w.apply(w.hunts.PlanArchive(archived, "ada", now()))
	w.expire(expired)
	deleted := w.hunt("Linux.Test.Procs")
	w.apply(w.hunts.PlanStop(deleted, false, "ada", now()))
	w.apply(w.hunts.PlanDelete(deleted, "ada", now()))
	var want []string // the newest first
	for _, one := range []struct {
		hunt         ids.Hunt
		state, finer string
	}{
		{archived.Hunt, "ARCHIVED", "archived"},
		{expired.Hunt, "STOPPED", "expired"},
		{stopped.Hunt, "STOPPED", "stopped"},
		{paused.Hunt, "PAUSED", "paused"},
		{running.Hunt, "RUNNING", "running"},
		{draft, "PAUSED", "draft"},
	} {
		row := fmt.Sprintf(`{"hunt_id":%q,"state":%q,"detailed_state":%q}`, one.hunt, one.state, one.finer)
		want = append(want, row)
		s.want(`SELECT hunt_id, state, detailed_state FROM hunts(hunt_id='`+one.hunt.String()+`')`, row)
	}
	s.want(`SELECT hunt_id, state, detailed_state FROM hunts()`, want...)
	for _, gone := range []string{deleted.Hunt.String(), "H.123", "what"} {
		s.want(`SELECT * FROM hunts(hunt_id='` + gone + `')`)
		s.want(`SELECT hunt_info(hunt_id='`+gone+`') AS H FROM scope()`, `{"H":null}`)
	}
	s.wantLog("is being deleted")
	s.wantLog("hunt H.123: no such hunt")
}

// expire lets a hunt's time run out.
func (w *huntWorld) expire(key hunts.Key) {
	w.t.Helper()
	soon := time.Now().Add(time.Millisecond)
	w.apply(w.hunts.PlanEdit(key, hunts.Edit{Expires: &soon}, "ada", soon.Add(-time.Hour)))
	for {
		all, err := w.hunts.PlanExpire(time.Now())
		must(w.t, err)
		for _, m := range all {
			w.apply(m, nil)
		}
		if one, err := w.hunts.Hunt(key); err != nil || one.State == hunts.Expired {
			must(w.t, err)
			return
		}
	}
}

func TestHuntsCountTheirClients(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Listing", w.one, w.two, w.three)
	w.ingest(flowOf(key, w.one), numbered("Linux.Test.Listing/Users", 0, 4), ended(4, 0))
	w.ingestAt(w.other, flowOf(key, w.two), failed())
	s := w.as("rex", "reader")
	s.want(`SELECT stats.total_clients_scheduled AS S, stats.total_clients_with_results AS R, stats.total_clients_with_errors AS E,
		stats.available_downloads AS D, stats.running AS Running, stats.completed AS C, stats.rows AS Rows, stats.flows AS F FROM hunts()`,
		`{"S":3,"R":1,"E":1,"D":[],"Running":1,"C":1,"Rows":4,"F":3}`)
	s.want(`SELECT creator, artifacts, artifact_sources, tags, client_limit, org_ids, create_time > 1700000000000000 AS T, start_time = create_time AS B,
		start_request.specs[0].artifact AS A FROM hunts(hunt_id='`+key.Hunt.String()+`')`,
		`{"creator":"ada","artifacts":["Linux.Test.Listing"],"artifact_sources":["Linux.Test.Listing/Files","Linux.Test.Listing/Users"],"tags":[],`+
			`"client_limit":0,"org_ids":["root"],"T":true,"B":true,"A":"Linux.Test.Listing"}`)
	s.want(`SELECT start_request.specs AS S, start_request.artifacts AS A, stats.rows AS R FROM hunts(summary=TRUE)`,
		`{"S":null,"A":["Linux.Test.Listing"],"R":4}`)
	s.want(`SELECT hunt_info(hunt_id='`+key.Hunt.String()+`').stats.rows AS R FROM scope()`, `{"R":4}`)
}

// NULL until an agent tells: 0 would read as no cost.
func TestHuntsTellProcessorTimeOfThoseThatTell(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs", w.one, w.two, w.three)
	s := w.as("rex", "reader")
	cost := `SELECT stats.cpu_ns AS C, stats.cpu_told AS T FROM hunts(hunt_id='` + key.Hunt.String() + `')`
	w.ingest(flowOf(key, w.one), ended(0, 0))
	s.want(cost, `{"C":null,"T":0}`)
	w.ingest(flowOf(key, w.two), costing(ended(0, 0), 40))
	w.ingestAt(w.other, flowOf(key, w.two), costing(ended(0, 0), 40)) // again
	w.ingest(flowOf(key, w.three), costing(ended(0, 0), 2))
	s.want(cost, `{"C":42,"T":2}`)
	s.want(`SELECT Flow.cpu_ns AS C FROM hunt_flows(hunt_id='`+key.Hunt.String()+`') ORDER BY C`, `{"C":null}`, `{"C":2}`, `{"C":40}`)
	s.want(`SELECT get_flow(client_id='`+w.two.String()+`', flow_id='`+flowOf(key, w.two).Flow.String()+`').cpu_ns AS C FROM scope()`, `{"C":40}`)
}

func TestHuntFlowsComeInPages(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs", w.one, w.two, w.three)
	w.ingest(flowOf(key, w.one), numbered("Linux.Test.Procs", 0, 4), ended(4, 0))
	w.ingestAt(w.other, flowOf(key, w.two), failed())
	w.apply(w.hunts.PlanRerun(key, nil, "ada", time.Now()))
	w.manage()
	w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"}) // not of the hunt
	var want []string
	for f := range w.flows.HuntFlows(key.Org, key.Hunt) {
		want = append(want, fmt.Sprintf(`{"HuntId":%q,"ClientId":%q,"FlowId":%q,"Flow":null}`, key.Hunt, f.Client, f.Flow))
	}
	if len(want) != 4 {
		t.Fatalf("%d flows", len(want))
	}
	s := w.as("rex", "reader")
	at := `hunt_id='` + key.Hunt.String() + `'`
	for _, c := range []struct {
		args     string
		from, to int
	}{
		{"", 0, 4}, {", start_row=1", 1, 4}, {", `limit`=2", 0, 2}, {", start_row=3, `limit`=2", 3, 4}, {", start_row=9", 4, 4}, {", start_row=-1, `limit`=-1", 0, 4},
	} {
		s.want(`SELECT * FROM hunt_flows(`+at+`, basic_info=TRUE`+c.args+`)`, want[c.from:c.to]...)
	}
	s.want(`SELECT Flow.state AS S, Flow.total_collected_rows AS R, Flow.session_id = FlowId AS Same FROM hunt_flows(`+at+`) WHERE ClientId = '`+w.one.String()+`'`,
		`{"S":"FINISHED","R":4,"Same":true}`)
	s.want(`SELECT Flow.state AS S FROM hunt_flows(`+at+`) WHERE ClientId = '`+w.two.String()+`' ORDER BY S`, `{"S":"ERROR"}`, `{"S":"RUNNING"}`)
	w.apply(w.clients.PlanDelete(key.Org, w.two))
	if got := s.rows(`SELECT * FROM hunt_flows(%s)`, at); len(got) != 2 || strings.Contains(strings.Join(got, ""), w.two.String()) {
		t.Errorf("of a deleted client: %v", got)
	}
	s.wantLog("2 flows of clients that were deleted are left out")
	s.want(`SELECT * FROM hunt_flows(hunt_id='H.123')`)
	s.wantLog("no such hunt")
}

func TestHuntsNeedTheCallersPermissions(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs", w.one)
	w.ingest(flowOf(key, w.one), numbered("Linux.Test.Procs", 0, 1), ended(1, 0))
	at := `hunt_id='` + key.Hunt.String() + `'`
	for _, c := range []struct{ query, needs, also string }{
		{`SELECT hunt(artifacts='Linux.Test.Procs') AS X FROM scope()`, "START_HUNT", ""},
		{`SELECT hunt_add(` + at + `, client_id='` + w.two.String() + `') AS X FROM scope()`, "START_HUNT", ""},
		{`SELECT hunt_update(` + at + `, stop=TRUE) AS X FROM scope()`, "START_HUNT", ""},
		{`SELECT hunt_info(` + at + `) AS X FROM scope()`, "READ_RESULTS", ""},
		{`SELECT 1 AS X FROM hunts()`, "READ_RESULTS", ""},
		{`SELECT 1 AS X FROM hunt_flows(` + at + `)`, "READ_RESULTS", ""},
		{`SELECT 1 AS X FROM hunt_results(` + at + `)`, "READ_RESULTS", ""},
		{`SELECT 1 AS X FROM source(` + at + `)`, "READ_RESULTS", ""},
		{`SELECT 1 AS X FROM hunt_delete(` + at + `) LIMIT 1`, "SERVER_ADMIN", "DELETE_RESULTS"},
		{`SELECT 1 AS X FROM hunt_delete(` + at + `, archive=TRUE)`, "SERVER_ADMIN", "START_HUNT"},
	} {
		s := w.session(roles{}, nil, w.host("eve"))
		if got := strings.Join(s.rows("%s", c.query), ""); got != "" && got != `{"X":null}` {
			t.Errorf("nobody: %s gave %s", c.query, got)
		}
		s.wantLog("permission denied: " + c.needs + " is needed")
		if c.also != "" {
			s := w.session(only(c.needs), nil, w.host("eve"))
			s.want(c.query)
			s.wantLog("permission denied: " + c.also + " is needed")
		}
		if got := strings.Join(w.admin().rows("%s", c.query), ""); got == "" || got == `{"X":null}` {
			t.Errorf("administrator: %s gave %s", c.query, got)
		}
	}
}

func TestWithoutHuntsTheirPrimitivesSaySo(t *testing.T) {
	w := newWorld(t)
	h := w.host("ada")
	h.Hunts, h.Rows = nil, nil
	s := w.session(roles{"administrator"}, nil, h)
	s.want(`SELECT hunt(artifacts='Linux.Test.Procs') AS H, hunt_info(hunt_id='H.1') AS I FROM scope()`, `{"H":null,"I":null}`)
	for _, call := range []string{"hunts()", "hunt_flows(hunt_id='H.1')", "hunt_results(hunt_id='H.1')", "hunt_delete(hunt_id='H.1')"} {
		s.want(`SELECT * FROM ` + call)
	}
	s.wantLog("hunts: not available in this version")
}
