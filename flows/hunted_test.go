package flows_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

var errNoHunt = errors.New("the hunt is over")

// huntLog notes what the room of hunts is told.
type huntLog struct {
	room  *flows.Room
	no    error
	told  []string
	times []time.Time
}

func (h *huntLog) MayStart(_ time.Time, _ ids.Org, starts []flows.HuntStart) error {
	for _, s := range starts {
		h.told = append(h.told, fmt.Sprint("may ", s.Hunt, " ", s.Flow, " ", s.Clients))
	}
	return h.no
}

func (h *huntLog) FlowsChanged(at time.Time, org ids.Org, changes []flows.HuntChange) {
	h.times = append(h.times, at)
	state := func(f *flows.Flow) string {
		if f == nil {
			return "none"
		}
		return fmt.Sprint(f.State, " ", f.Rows())
	}
	for _, c := range changes {
		f := c.After
		if f == nil {
			f = c.Before
		}
		h.told = append(h.told, fmt.Sprint(f.Client, ": ", state(c.Before), ", ", state(c.After)))
		if h.room == nil || c.After == nil {
			continue
		}
		if _, err := h.room.Flow(f.Key); err != nil { // no lock is held
			h.told = append(h.told, "not to be read")
		}
	}
}

func huntOf(t testing.TB) ids.Hunt {
	t.Helper()
	h, err := ids.ParseHunt("H.D4K8M2O9P1Q3R")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func planAdmit(t testing.TB, flow ids.Flow, clients ...ids.Client) *buspb.Mutation {
	t.Helper()
	s := request()
	s.Hunt = huntOf(t)
	spec, err := flows.PlanSpec(s)
	if err != nil {
		t.Fatal(err)
	}
	m, err := flows.PlanAdmit(ids.RootOrg, spec, flow, clients)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func deletes(k flows.Key) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_Delete{Delete: &buspb.FlowDelete{Key: keyOf(k)}}}
}

// The hunts hear of each step of their flows in the ledger's order, the same when
// it is replayed, and nothing of other flows, of refusals, or of a Restore.
func TestHuntsFollowTheirFlows(t *testing.T) {
	w := newWorld(t)
	log := &huntLog{}
	n := w.node(func(o *flows.Options) { o.Hunts = log })
	log.room = n.Room
	h, c1, c2 := huntOf(t), w.client, clientID(t, "C.00000000000000a2")
	direct := w.start()
	a, b := flows.Key{Client: c1, Flow: h.Flow(0)}, flows.Key{Client: c2, Flow: h.Flow(0)}
	for _, m := range []*buspb.Mutation{
		planAdmit(t, h.Flow(0), c1, c2),
		body(taken(a), endOf(a, buspb.FlowEnd_OUTCOME_OK, 3, covers(a, "n1-1", 0, 2)), taken(direct)),
		body(coverage(covers(a, "n1-1", 2, 3))),
		body(endOf(b, buspb.FlowEnd_OUTCOME_ERROR, 0, nil)),
		body(deletes(b)),
	} {
		if err := w.ledger.Propose(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.ledger.Propose(planAdmit(t, h.Flow(0), c2)); !errors.Is(err, flows.ErrExists) {
		t.Errorf("a deleted flow is started again: %v", err)
	}
	want := []string{
		"may H.D4K8M2O9P1Q3R F.D4K8M2O9P1Q3R.H [C.00000000000000a1 C.00000000000000a2]",
		"C.00000000000000a1: none, pending 0", "C.00000000000000a2: none, pending 0",
		"C.00000000000000a1: pending 0, running 0", "C.00000000000000a1: running 0, waiting 2",
		"C.00000000000000a1: waiting 2, completed 3",
		"C.00000000000000a2: pending 0, errored 0", "C.00000000000000a2: errored 0, none",
		"may H.D4K8M2O9P1Q3R F.D4K8M2O9P1Q3R.H [C.00000000000000a2]",
	}
	if diff := cmp.Diff(want, log.told); diff != "" {
		t.Error(diff)
	}
	replayed := &huntLog{}
	replayed.room = w.node(func(o *flows.Options) { o.Hunts = replayed }).Room
	if diff := cmp.Diff(log.told, replayed.told); diff != "" {
		t.Errorf("a replay tells otherwise: %s", diff)
	}
	if diff := cmp.Diff(log.times, replayed.times); diff != "" {
		t.Errorf("a replay tells other times: %s", diff)
	}
	var snapshot bytes.Buffer
	if _, err := n.View().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	told := len(log.told)
	if err := n.Restore(&snapshot); err != nil || len(log.told) != told {
		t.Errorf("a restore tells %q, %v", log.told[told:], err)
	}
}

// What the hunts refuse changes nothing, and starts of others are not asked about.
func TestHuntsMayRefuseAStart(t *testing.T) {
	w := newWorld(t)
	log := &huntLog{no: errNoHunt}
	n := w.node(func(o *flows.Options) { o.Hunts = log })
	log.room = n.Room
	w.start()
	if len(log.told) != 0 {
		t.Errorf("asked about a direct collection: %q", log.told)
	}
	if err := w.ledger.Propose(planAdmit(t, huntOf(t).Flow(0), w.client)); !errors.Is(err, errNoHunt) {
		t.Errorf("refused: %v", err)
	}
	if n.Count(ids.RootOrg, w.client) != 1 || len(log.told) != 1 {
		t.Errorf("%d flows, told %q", n.Count(ids.RootOrg, w.client), log.told)
	}
}

func TestStateWithHuntsKeepsItsPromises(t *testing.T) {
	h, c := huntOf(t), clientID(t, "C.00000000000000a1")
	a := flows.Key{Client: c, Flow: h.Flow(0)}
	var entries []*buspb.Entry
	for _, m := range []*buspb.Mutation{
		planAdmit(t, h.Flow(0), c), planAdmit(t, h.Flow(0), c), planAdmit(t, h.Flow(1), c),
		body(endOf(a, buspb.FlowEnd_OUTCOME_OK, 0, nil)), body(deletes(a)),
		body(&buspb.FlowChange{Change: &buspb.FlowChange_Start{Start: &buspb.FlowStart{Spec: &buspb.FlowSpec{Hunt: "x"}}}}),
		body(&buspb.FlowChange{Change: &buspb.FlowChange_Start{Start: &buspb.FlowStart{Spec: &buspb.FlowSpec{Hunt: h.String()}}}}),
	} {
		entries = append(entries, &buspb.Entry{Mutation: m})
	}
	statetest.Run(t, func() replication.State {
		log := &huntLog{}
		log.room = flows.New(flows.Options{Hunts: log})
		return log.room.Table
	}, entries)
}

// Flows of a hunt share a spec whatever wish and version planned it, and a spec
// without a hunt or request is none.
func TestSpecOfAHuntIsPlannedOnce(t *testing.T) {
	s := request()
	if _, err := flows.PlanSpec(s); !errors.Is(err, flows.ErrInvalid) {
		t.Errorf("a spec without a hunt: %v", err)
	}
	s.Hunt = huntOf(t)
	spec, err := flows.PlanSpec(s)
	if err != nil || spec.Flow != "" {
		t.Fatalf("spec for %q: %v", spec.GetFlow(), err)
	}
	before := proto.CloneOf(spec)
	if _, err := flows.PlanAdmit(ids.RootOrg, spec, huntOf(t).Flow(1), []ids.Client{clientID(t, "C.00000000000000a1")}); err != nil {
		t.Error(err)
	}
	if !proto.Equal(before, spec) {
		t.Error("planning a start changed the spec")
	}
	for name, err := range map[string]error{
		"no client": second(flows.PlanAdmit(ids.RootOrg, spec, huntOf(t).Flow(0), nil)),
		"no flow":   second(flows.PlanAdmit(ids.RootOrg, spec, ids.Flow{}, []ids.Client{ids.Server})),
	} {
		if !errors.Is(err, flows.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Request = nil
	if _, err := flows.PlanSpec(s); !errors.Is(err, flows.ErrInvalid) {
		t.Errorf("a spec without a request: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// Cancelling what is still open leaves alone what has ended meanwhile, and all of
// a hunt can be listed and deleted.
func TestFlowsOfAHuntEndTogether(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	h, c1, c2 := huntOf(t), w.client, clientID(t, "C.00000000000000a2")
	w.start()
	a, b := flows.Key{Client: c1, Flow: h.Flow(0)}, flows.Key{Client: c2, Flow: h.Flow(0)}
	propose := func(m *buspb.Mutation, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		return w.ledger.Propose(m)
	}
	if err := propose(planAdmit(t, h.Flow(0), c1, c2), nil); err != nil {
		t.Fatal(err)
	}
	if err := propose(body(endOf(a, buspb.FlowEnd_OUTCOME_OK, 0, nil)), nil); err != nil {
		t.Fatal(err)
	}
	var keys []flows.Key
	for f := range n.HuntFlows(ids.RootOrg, h) {
		keys = append(keys, f.Key)
	}
	if diff := cmp.Diff([]flows.Key{a, b}, keys, cmp.AllowUnexported(ids.Org{}, ids.Client{}, ids.Flow{})); diff != "" {
		t.Error(diff)
	}
	if err := propose(flows.PlanDeleteAll(ids.RootOrg, keys, "ada")); !errors.Is(err, flows.ErrUnfinished) {
		t.Errorf("deleted what runs: %v", err)
	}
	gone := flows.Key{Client: clientID(t, "C.00000000000000a3"), Flow: h.Flow(0)}
	if err := propose(flows.PlanCancelOpen(ids.RootOrg, append(keys, gone), "ada")); err != nil {
		t.Fatal(err)
	}
	if f, g := n.flow(a), n.flow(b); f.State != flows.Completed || g.State != flows.Cancelled || g.CancelledBy != "ada" {
		t.Errorf("%s and %s by %q", f.State, g.State, g.CancelledBy)
	}
	if err := propose(flows.PlanDeleteAll(ids.RootOrg, keys, "ada")); err != nil {
		t.Fatal(err)
	}
	if left := slices.Collect(n.HuntFlows(ids.RootOrg, h)); len(left) != 0 || !n.Used(a) || n.Used(gone) {
		t.Errorf("%d left; used %v %v", len(left), n.Used(a), n.Used(gone))
	}
}

// The file of a hunt's flows has one record for each end, also when it is told again by
// another node; a collection has none.
func TestEndsOfFlowsOfHuntsLeaveARecord(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	hunt := ids.NewHunt(time.Now())
	key := w.start(func(s *flows.Start) { s.Hunt = hunt })
	direct := w.start()
	a := w.attach(n)
	defer a.Close()
	end := func(k flows.Key) *wirepb.VeloMessage {
		return complete(k, used(status(wirepb.VeloStatus_OK, 3, ""), 9))
	}
	for _, k := range []flows.Key{key, direct} {
		n.send(rows(k, procs, 0, 3), end(k))
	}
	n.send(end(key))
	other.send(end(key))
	got, err := w.disk.Rows(filestore.HuntFlows(ids.RootOrg, hunt))
	want := `{"ClientId":"` + w.client.String() + `","FlowId":"` + key.Flow.String() + `","outcome":"ok","rows":3,"logs":0,"uploads":0,"upload_bytes":0,"first_active":1000000,"duration_ns":5,"cpu_ns":9}` + "\n"
	if err != nil || strings.Join(got, "") != want {
		t.Errorf("%v: %q, want %q", err, got, want)
	}
	if sets := w.disk.Sets(); slices.ContainsFunc(sets, func(s string) bool { return strings.Contains(s, "hunts/") && !strings.Contains(s, hunt.String()) }) {
		t.Errorf("sets %v", sets)
	}
}
