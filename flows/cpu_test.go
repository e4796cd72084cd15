package flows_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// used is a status that tells its processor time, as stock agents do not.
func used(s *wirepb.VeloStatus, ns int64) *wirepb.VeloStatus {
	s.CpuNs = proto.Int64(ns)
	return s
}

func (n *node) wantCPU(key flows.Key, s flows.State, want flows.CPU) {
	n.world.t.Helper()
	if f := n.want(key, s); f.CPU != want {
		n.world.t.Errorf("processor time %+v, want %+v", f.CPU, want)
	}
}

func TestProcessorTimeIsTheSumOfQueries(t *testing.T) {
	ok, going, bad := wirepb.VeloStatus_OK, wirepb.VeloStatus_PROGRESS, wirepb.VeloStatus_GENERIC_ERROR
	for what, tc := range map[string]struct {
		told []*wirepb.VeloStatus
		want flows.CPU
	}{
		"both told":        {[]*wirepb.VeloStatus{used(status(ok, 0, ""), 30), used(status(ok, 0, ""), 12)}, flows.CPU{Used: 42, Told: true}},
		"one told":         {[]*wirepb.VeloStatus{used(status(ok, 0, ""), 30), status(ok, 0, "")}, flows.CPU{Used: 30, Told: true}},
		"nothing was used": {[]*wirepb.VeloStatus{used(status(ok, 0, ""), 0)}, flows.CPU{Told: true}},
		"a stock agent":    {[]*wirepb.VeloStatus{status(ok, 0, "")}, flows.CPU{}},
		"below nothing":    {[]*wirepb.VeloStatus{used(status(ok, 0, ""), -5)}, flows.CPU{Told: true}},
		"beyond reason":    {[]*wirepb.VeloStatus{used(status(ok, 0, ""), 1<<62), used(status(ok, 0, ""), 1<<62)}, flows.CPU{Used: filestore.MaxRow, Told: true}},
		"failed":           {[]*wirepb.VeloStatus{used(status(bad, 0, "no"), 9)}, flows.CPU{Used: 9, Told: true}},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			key := w.start()
			n.send(progress(key, used(status(going, 0, ""), 3)))
			p, there := n.Progress(key)
			if !there || p.CPU != (flows.CPU{Used: 3, Told: true}) {
				t.Errorf("progress %+v", p)
			}
			n.send(complete(key, tc.told...))
			want := flows.Completed
			if what == "failed" {
				want = flows.Errored
			}
			n.wantCPU(key, want, tc.want)
		})
	}
}

// An agent repeats the end until it is acknowledged, and after that when it is asked:
// in one packet, in the next, at another node.
func TestProcessorTimeOfARepeatedEndCountsOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.node(), w.node()
	key := w.start()
	end := complete(key, used(status(wirepb.VeloStatus_OK, 0, ""), 40))
	a.send(end, end)
	a.send(end)
	b.send(end)
	want := flows.CPU{Used: 40, Told: true}
	a.wantCPU(key, flows.Completed, want)
	b.wantCPU(key, flows.Completed, want)
}

// What runs into a limit is what costs most: the client tells it after our limit has
// ended the flow.
func TestProcessorTimeOfAFlowThatALimitEnded(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start(func(s *flows.Start) { s.Limits = flows.Limits{Rows: 5} })
	n.send(rows(key, procs, 0, 6))
	n.wantCPU(key, flows.Errored, flows.CPU{})
	end := complete(key, used(status(wirepb.VeloStatus_GENERIC_ERROR, 6, "Cancelled"), 70))
	n.send(end)
	n.send(end)
	n.wantCPU(key, flows.Errored, flows.CPU{Used: 70, Told: true})
}

// The fact of an end may reach the ledger twice, in any order.
func TestProcessorTimeSurvivesReplayAndSnapshot(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key, stock := w.start(), w.start()
	for _, c := range []*buspb.FlowChange{
		endOf(key, buspb.FlowEnd_OUTCOME_LIMIT, 0, nil),
		costly(endOf(key, buspb.FlowEnd_OUTCOME_ERROR, 0, nil), 50),
		costly(endOf(key, buspb.FlowEnd_OUTCOME_ERROR, 0, nil), 50),
		costly(endOf(key, buspb.FlowEnd_OUTCOME_OK, 0, nil), 60),
		endOf(stock, buspb.FlowEnd_OUTCOME_OK, 0, nil),
	} {
		if err := w.ledger.Propose(body(c)); err != nil {
			t.Fatal(err)
		}
	}
	want := flows.CPU{Used: 60 * time.Nanosecond, Told: true}
	n.wantCPU(key, flows.Errored, want)
	n.wantCPU(stock, flows.Completed, flows.CPU{})
	var first, second bytes.Buffer
	if _, err := n.View().WriteTo(&first); err != nil {
		t.Fatal(err)
	}
	again := w.node()
	if err := again.Restore(bytes.NewReader(first.Bytes())); err != nil {
		t.Fatal(err)
	}
	again.wantCPU(key, flows.Errored, want)
	again.wantCPU(stock, flows.Completed, flows.CPU{})
	if _, err := again.View().WriteTo(&second); err != nil || second.String() != first.String() {
		t.Errorf("restored as\n%s\n%s\n%v", second.String(), first.String(), err)
	}
	if n := strings.Count(first.String(), `"cpu_ns"`); n != 1 {
		t.Errorf("%d flows of the snapshot tell processor time, want 1: %s", n, first.String())
	}
}
