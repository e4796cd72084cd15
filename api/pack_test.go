package api_test

import (
	"fmt"
	"testing"
	"time"

	"raptorpack/api"
	"raptorpack/proto/buspb"
)

// twoNodes are a minion that is asked and the master that it follows.
func twoNodes() []*buspb.NodeStatus {
	return []*buspb.NodeStatus{
		{
			Incarnation: "n1-4", Node: "n1", Version: "1.2", Epoch: 7, Index: 90, Unready: "draining", Connected: 3, Clients: 9,
			Age: 1_500_999, Outbox: 2, Started: 1_700_000_000_000_000, Cpu: 0.25, Memory: 1 << 20, Frontend: "10.0.0.1:8000",
			Operators: "127.0.0.1:8889", Programs: "127.0.0.1:8001", Draining: true,
		},
		{Incarnation: "n2-1", Node: "n2", Version: "1.2", Epoch: 7, Index: 100, Leads: 7, Candidate: true, Age: 0},
	}
}

func TestThePackIsShownAsItsNodesSay(t *testing.T) {
	w := newWorld(t)
	w.nodes = twoNodes()
	var got api.List[api.NodeStatus]
	w.want(200, "reader", "GET", "/api/v1/pack", nil).into(t, &got)
	if got.Total != 2 || len(got.Items) != 2 || got.AsOf.Index == 0 {
		t.Fatalf("%+v", got)
	}
	started := time.UnixMicro(1_700_000_000_000_000).UTC()
	first := got.Items[0]
	if first.StartedAt == nil || !first.StartedAt.Equal(started) {
		t.Errorf("started %v", first.StartedAt)
	}
	first.StartedAt = nil
	want := api.NodeStatus{
		Node: "n1", Incarnation: "n1-4", Version: "1.2", Role: "minion", Ready: "draining", Epoch: 7, Index: 90, Lag: 10, AgeMs: 1500,
		Connected: 3, Clients: 9, Outbox: 2, CPU: 0.25, MemoryBytes: 1 << 20, Frontend: "10.0.0.1:8000", Operators: "127.0.0.1:8889",
		Programs: "127.0.0.1:8001", Draining: true, Self: true,
	}
	if first != want {
		t.Errorf("got  %+v\nwant %+v", first, want)
	}
	if second := got.Items[1]; second.Role != "master" || second.Self || second.Lag != 0 || second.AgeMs != 0 || second.StartedAt != nil {
		t.Errorf("%+v", second)
	}
}

func TestRolesAndAges(t *testing.T) {
	for _, c := range []struct {
		name  string
		nodes []*buspb.NodeStatus
		want  string // role and age of each
	}{
		{"nobody", nil, ""},
		{"a candidate that has heard of no master", []*buspb.NodeStatus{{Candidate: true, Age: -1}}, "candidate -1 "},
		{"a minion that has heard of one", []*buspb.NodeStatus{{Age: 2_000}}, "minion 2 "},
		{"an old master that woke up and has not noticed", []*buspb.NodeStatus{{Candidate: true, Leads: 3}, {Candidate: true, Leads: 4}}, "candidate 0 master 0 "},
	} {
		got := ""
		for _, n := range api.PackOf(c.nodes) {
			got += fmt.Sprint(n.Role, " ", n.AgeMs, " ")
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

const drainN2 = "/api/v1/pack/nodes/n2/drain"

func TestADrainReachesItsNodeAndLeavesALine(t *testing.T) {
	w := newWorld(t)
	w.nodes = twoNodes()
	var got api.Drained
	w.want(200, "administrator", "POST", drainN2, nil).into(t, &got)
	if want := (api.Drained{Node: "n2", Incarnation: "n2-1"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if w.orders() != "n2:drain:administrator" {
		t.Errorf("ordered %s", w.orders())
	}
	line := w.trail.last("node.drain")
	if line.Principal != "administrator" || line.Object != "n2" || line.Details["incarnation"] != "n2-1" || line.Details["outcome"] != "" {
		t.Errorf("audit %+v", line)
	}
}

func TestADrainThatGoesWrongSaysSo(t *testing.T) {
	w := newWorld(t)
	w.nodes = twoNodes()
	for _, c := range []struct {
		status      int
		node, query string
		outcome     string // of its audit line; "none": there is no line
	}{
		{404, "n9", "", "none"},
		{422, "No%20Name", "", "none"},
		{503, "n3", "", "none"},
		{409, "n2", "?incarnation=n2-0", "none"},
		{503, "n4", "", "unsure"},
		{200, "n2", "?incarnation=n2-1", ""},
	} {
		before := w.trail.operations()
		r := w.want(c.status, "administrator", "POST", "/api/v1/pack/nodes/"+c.node+"/drain"+c.query, nil)
		if c.status == 503 && r.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", c.node)
		}
		if none := w.trail.operations() == before; none != (c.outcome == "none") {
			t.Errorf("%s%s: audit %s", c.node, c.query, w.trail.operations())
		}
		if line := w.trail.last("node.drain"); c.outcome == "unsure" && (line.Details["outcome"] != "unsure" || line.Object != c.node) {
			t.Errorf("%s: audit %+v", c.node, line)
		}
	}
}

func TestADrainWithTheSameKeyIsOrderedOnce(t *testing.T) {
	w := newWorld(t)
	w.nodes = twoNodes()
	var first, second api.Drained
	w.want(200, "administrator", "POST", drainN2, nil, "Idempotency-Key", "k1").into(t, &first)
	w.nodes[1].Incarnation = "n2-2" // it has come back meanwhile
	w.want(200, "administrator", "POST", drainN2, nil, "Idempotency-Key", "k1").into(t, &second)
	if first != second || w.orders() != "n2:drain:administrator" {
		t.Errorf("%+v, then %+v: %s", first, second, w.orders())
	}
	w.want(200, "org_admin", "POST", drainN2, nil, "Idempotency-Key", "k1")
	w.want(200, "administrator", "POST", "/api/v1/pack/nodes/n1/drain", nil, "Idempotency-Key", "k1")
	w.want(200, "administrator", "POST", drainN2, nil)
	if want := "n2:drain:administrator n2:drain:org_admin n1:drain:administrator n2:drain:administrator"; w.orders() != want {
		t.Errorf("ordered %s, want %s", w.orders(), want)
	}
	w.want(503, "administrator", "POST", "/api/v1/pack/nodes/n4/drain", nil, "Idempotency-Key", "k2")
	w.want(503, "administrator", "POST", "/api/v1/pack/nodes/n4/drain", nil, "Idempotency-Key", "k2")
}
