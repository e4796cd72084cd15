package flows_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// The end of a flow is told once in its life: a later word of its client, further
// coverage, and a snapshot in between change nothing of that.
func TestAnEndIsToldOnce(t *testing.T) {
	client := clientID(t, "C.00000000000000a1")
	var told []string
	ledger := flowstest.NewLedger()
	room := flows.New(flows.Options{Finished: func(index uint64, _ time.Time, ended []*flows.Flow) {
		for _, key := range ended {
			told = append(told, fmt.Sprint(index, " ", key.Flow))
		}
	}})
	propose := func(m *buspb.Mutation) {
		t.Helper()
		if err := ledger.Propose(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := ledger.Join(room.Table); err != nil {
		t.Fatal(err)
	}
	start := func() flows.Key {
		t.Helper()
		s := request()
		s.Clients = []ids.Client{client}
		m, id, err := flows.PlanStart(s)
		if err != nil {
			t.Fatal(err)
		}
		propose(m)
		return flows.Key{Org: s.Org, Client: client, Flow: id}
	}
	state := func(key flows.Key, want flows.State) {
		t.Helper()
		f, err := room.Flow(key)
		if err != nil || f.State != want {
			t.Fatalf("flow %+v, %v, want %s", f, err, want)
		}
	}
	a := start() // 1
	propose(body(taken(a)))
	propose(body(endOf(a, buspb.FlowEnd_OUTCOME_UNKNOWN, 0, nil))) // 3
	state(a, flows.Errored)
	propose(body(endOf(a, buspb.FlowEnd_OUTCOME_OK, 9, covers(a, "n1-1", 0, 5))))
	state(a, flows.Waiting)
	b := start() // 5
	propose(body(endOf(b, buspb.FlowEnd_OUTCOME_OK, 9, covers(b, "n1-1", 0, 5))))
	state(b, flows.Waiting)
	var snapshot bytes.Buffer
	if _, err := room.View().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := room.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	propose(body(coverage(covers(a, "n1-1", 5, 9)), coverage(covers(b, "n1-1", 5, 9)))) // 7
	state(a, flows.Completed)
	propose(body(coverage(covers(a, "n2-1", 0, 9)), coverage(covers(b, "n2-1", 0, 9))))
	c := start() // 9
	propose(body(cancel(c)))
	propose(body(endOf(c, buspb.FlowEnd_OUTCOME_OK, 0, nil)))
	want := []string{fmt.Sprint(3, " ", a.Flow), fmt.Sprint(7, " ", b.Flow), fmt.Sprint(10, " ", c.Flow)}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}
