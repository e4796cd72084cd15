package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// hunt makes one as an investigator does and returns its path.
func (w *world) hunt(change func(*api.HuntRequest)) string {
	w.t.Helper()
	r := api.HuntRequest{CollectRequest: wish("Linux.Sys.Users", nil), Start: true}
	if change != nil {
		change(&r)
	}
	var made api.Hunted
	w.want(200, "administrator", "POST", "/api/v1/hunts", r).into(w.t, &made)
	return "/api/v1/hunts/" + made.Hunt
}

func (w *world) showHunt(path string) api.Hunt {
	w.t.Helper()
	var h api.Hunt
	w.want(200, "reader", "GET", path, nil).into(w.t, &h)
	return h
}

// takesPart lets foreman and manager find and admit the client.
func (w *world) takesPart(path string) flows.Key {
	w.t.Helper()
	hunt, err := ids.ParseHunt(strings.TrimPrefix(path, "/api/v1/hunts/"))
	w.check(err)
	facts, err := hunts.PlanNominate(hunts.Key{Hunt: hunt}, []ids.Client{w.client})
	w.check(err)
	for _, m := range facts {
		w.propose(m)
	}
	manager := hunts.NewManager(hunts.ManagerOptions{
		Room: w.hunts, Flows: w.flows, Now: time.Now, Connected: func(ids.Org, ids.Client) bool { return true },
		Propose: func(_ context.Context, m *buspb.Mutation) error { w.propose(m); return nil },
	})
	if n, err := manager.Step(w.t.Context()); err != nil || n != 1 {
		w.t.Fatalf("%d clients admitted, %v", n, err)
	}
	return flows.Key{Client: w.client, Flow: hunt.Flow(0)}
}

func TestAHuntIsMadeChangedAndDeleted(t *testing.T) {
	w := newWorld(t)
	path := w.hunt(func(r *api.HuntRequest) { r.Description, r.Limit, r.Rate, r.OS = "accounts", 10, 600, "linux" })
	h := w.showHunt(path)
	if h.State != "running" || h.Description != "accounts" || h.Limit != 10 || h.Rate != 600 || h.Targets.OS != "linux" || h.Creator != "administrator" ||
		len(h.Artifacts) != 1 || len(h.Results) == 0 || time.Until(h.Expires) < 6*24*time.Hour {
		t.Fatalf("%+v", h)
	}
	key := w.takesPart(path)
	if h := w.showHunt(path); h.Clients["running"] != 1 || h.Joined != 1 {
		t.Errorf("clients %v", h.Clients)
	}
	w.arrive(endOf(key, 0, 0))
	for _, step := range []struct {
		method, path string
		body         any
		status       int
		state        string
	}{
		{"POST", "/pause", nil, 200, "paused"},
		{"POST", "/pause", nil, 409, "paused"},
		{"DELETE", "", nil, 409, "paused"},
		{"PATCH", "", map[string]any{"client_limit": 20, "description": "more", "tags": []string{"case-17", "b", "b"}}, 200, "paused"},
		{"PATCH", "", map[string]any{"tags": []string{"\n"}}, 422, "paused"},
		{"PATCH", "", map[string]any{"clients_per_minute": -1}, 422, "paused"},
		{"POST", "/start", nil, 200, "running"},
		{"POST", "/dance", nil, 422, "running"},
		{"POST", "/stop?cancel=true", nil, 200, "stopped"},
		{"POST", "/archive", nil, 200, "archived"},
		{"POST", "/clients", map[string]any{"clients": []string{w.client.String()}}, 409, "archived"},
		{"POST", "/stop", nil, 200, "stopped"},
		{"DELETE", "", nil, 200, "deleted"},
	} {
		w.want(step.status, "administrator", step.method, path+step.path, step.body)
		if h := w.showHunt(path); h.State != step.state {
			t.Errorf("after %s %s the hunt is %s, want %s", step.method, step.path, h.State, step.state)
		}
	}
	if h := w.showHunt(path); h.Limit != 20 || h.Description != "more" || strings.Join(h.Tags, " ") != "b case-17" {
		t.Errorf("%+v", h)
	}
	want := "hunt.create hunt.pause hunt.change hunt.start hunt.stop hunt.archive hunt.stop hunt.delete"
	if got := strings.ReplaceAll(w.trail.operations(), "administrator:", ""); got != want {
		t.Errorf("audit trail: %s, want %s", got, want)
	}
}

func TestHuntsTellTheProcessorTimeOfTheirClients(t *testing.T) {
	for what, tc := range map[string]struct {
		told *int64
		want int64
	}{
		"a stock agent": {nil, 0}, "no cost": {new(int64), 1}, "some cost": {proto.Int64(4200), 1},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			path := w.hunt(nil)
			key := w.takesPart(path)
			end := endOf(key, 0, 0)
			end.FlowStats.QueryStatus[0].CpuNs = tc.told
			w.arrive(end, end)
			check := func(where string, got *int64) {
				if (got == nil) != (tc.told == nil) || got != nil && *got != *tc.told {
					t.Errorf("%s: %v", where, got)
				}
			}
			h := w.showHunt(path)
			if check("hunt", h.CPU); h.CPUTold != tc.want || h.Flows != 1 {
				t.Errorf("%+v", h)
			}
			var members api.List[api.HuntClient]
			w.want(200, "reader", "GET", path+"/clients", nil).into(t, &members)
			check("client", members.Items[0].CPU)
			var f api.Flow
			w.want(200, "reader", "GET", "/api/v1/clients/"+w.client.String()+"/flows/"+key.Flow.String(), nil).into(t, &f)
			check("flow", f.CPU)
		})
	}
}

func TestHuntsAreListedWithTheirClients(t *testing.T) {
	w := newWorld(t)
	first := w.hunt(nil)
	second := w.hunt(func(r *api.HuntRequest) { r.Start, r.Tags = false, []string{"case-17"} })
	var list api.List[api.Hunt]
	w.want(200, "reader", "GET", "/api/v1/hunts?limit=1", nil).into(t, &list)
	if len(list.Items) != 1 || list.Total != 2 || list.Next == "" || !strings.HasSuffix(second, list.Items[0].ID) {
		t.Fatalf("%+v", list)
	}
	w.want(200, "reader", "GET", "/api/v1/hunts?limit=1&cursor="+list.Next, nil).into(t, &list)
	if len(list.Items) != 1 || !strings.HasSuffix(first, list.Items[0].ID) {
		t.Fatalf("%+v", list)
	}
	w.want(200, "reader", "GET", "/api/v1/hunts?state=draft", nil).into(t, &list)
	if list.Total != 1 || list.Items[0].State != "draft" {
		t.Fatalf("%+v", list)
	}
	w.want(200, "reader", "GET", "/api/v1/hunts?tag=case-17", nil).into(t, &list)
	if list.Total != 1 || !strings.HasSuffix(second, list.Items[0].ID) {
		t.Fatalf("%+v", list)
	}
	key := w.takesPart(first)
	var members api.List[api.HuntClient]
	for _, query := range []string{"", "?set=running"} {
		w.want(200, "reader", "GET", first+"/clients"+query, nil).into(t, &members)
		if len(members.Items) != 1 || members.Total != 1 || members.Items[0].Hostname != "web-1" || members.Items[0].Set != "running" || members.Items[0].Flow != key.Flow.String() {
			t.Errorf("%q: %+v", query, members)
		}
	}
	w.want(422, "reader", "GET", first+"/clients?cursor=nonsense", nil)
	var of api.List[api.HuntOfClient]
	w.want(200, "reader", "GET", "/api/v1/clients/"+w.client.String()+"/hunts", nil).into(t, &of)
	if len(of.Items) != 1 || of.Items[0].Set != "running" || of.Items[0].Flow != key.Flow.String() {
		t.Errorf("%+v", of)
	}
	var line api.HuntTimeline
	w.want(200, "reader", "GET", first+"/timeline", nil).into(t, &line)
	if len(line.Buckets) == 0 || line.Buckets[len(line.Buckets)-1].Change["running"] != 1 {
		t.Errorf("%+v", line)
	}
	var estimate api.HuntEstimate
	w.want(200, "reader", "GET", "/api/v1/hunts/estimate?os=linux", nil).into(t, &estimate)
	if estimate.Matching != 1 {
		t.Errorf("%+v", estimate)
	}
}

func TestAHuntIsMadeOnceForARequest(t *testing.T) {
	w := newWorld(t)
	r := api.HuntRequest{CollectRequest: wish("Linux.Sys.Users", nil)}
	var one, two api.Hunted
	w.want(200, "investigator", "POST", "/api/v1/hunts", r, "Idempotency-Key", "k").into(t, &one)
	w.want(200, "investigator", "POST", "/api/v1/hunts", r, "Idempotency-Key", "k").into(t, &two)
	if one != two || one.Hunt == "" {
		t.Errorf("%+v, then %+v", one, two)
	}
}

func TestBadHuntsAreRefused(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		who    string
		change func(*api.HuntRequest)
		status int
		text   string
	}{
		"unknown artifact":      {"investigator", func(r *api.HuntRequest) { r.Artifacts[0].Name = "No.Such" }, 404, "No.Such"},
		"unknown parameter":     {"investigator", func(r *api.HuntRequest) { r.Artifacts[0].Parameters = map[string]string{"X": "1"} }, 422, "X"},
		"reader":                {"reader", nil, 403, "START_HUNT"},
		"condition of anybody":  {"investigator", func(r *api.HuntRequest) { r.Condition = "SELECT 1 FROM scope()" }, 403, "ARTIFACT_WRITER"},
		"condition that is bad": {"administrator", func(r *api.HuntRequest) { r.Condition = "SELECT FROM" }, 422, "condition"},
		"filter that is bad":    {"administrator", func(r *api.HuntRequest) { r.Filter = "SELECT FROM" }, 422, "filter"},
		"over already":          {"investigator", func(r *api.HuntRequest) { r.Expires = time.Now().Add(-time.Hour) }, 422, "expires"},
		"bad label":             {"investigator", func(r *api.HuntRequest) { r.IncludeLabels = []string{" x"} }, 422, "label"},
		"bad client":            {"investigator", func(r *api.HuntRequest) { r.Clients = []string{"web-1"} }, 422, "web-1"},
		"bad system":            {"investigator", func(r *api.HuntRequest) { r.OS = "beos" }, 422, "os"},
	} {
		r := api.HuntRequest{CollectRequest: wish("Linux.Sys.Users", nil)}
		if c.change != nil {
			c.change(&r)
		}
		if got := w.ask(c.who, "POST", "/api/v1/hunts", r); got.status != c.status || !strings.Contains(string(got.body), c.text) {
			t.Errorf("%s: %d, want %d with %q: %s", name, got.status, c.status, c.text, got.body)
		}
	}
	w.want(404, "reader", "GET", "/api/v1/hunts/H.AAAAAAAAAAAAA", nil)
	w.want(422, "reader", "GET", "/api/v1/hunts/nonsense", nil)
	path := w.hunt(nil)
	w.want(404, "administrator", "POST", path+"/clients", map[string]any{"clients": []string{"C.00000000000000aa"}})
}

func TestHuntEventsTellEachChange(t *testing.T) {
	w := newWorld(t)
	path := w.hunt(nil)
	response := w.send(config.Pair{}, "reader", "GET", path+"/events", nil)
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	next := func() (h api.Hunt) {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				w.check(json.Unmarshal([]byte(data), &h))
				return h
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return h
	}
	if h := next(); h.State != "running" {
		t.Fatalf("%+v", h)
	}
	w.want(200, "investigator", "POST", path+"/pause", nil)
	if h := next(); h.State != "paused" {
		t.Fatalf("%+v", h)
	}
}
