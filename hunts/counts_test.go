package hunts_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// run is a world and its model.
type run struct {
	*world
	t       *rapid.T
	model   *model
	keys    []hunts.Key
	manager *hunts.Manager
	away    map[ids.Client]bool

	one   sync.Mutex
	wrong string // what the model says otherwise
}

func (r *run) Propose(_ context.Context, m *buspb.Mutation) error {
	r.one.Lock() // the manager proposes several at a time
	defer r.one.Unlock()
	want := r.model.apply(m)
	err := r.propose(m)
	if (err == nil) != want && r.wrong == "" {
		r.wrong = fmt.Sprintf("%s entry %d: model says %v, room %v", m.Kind, r.index, want, err)
	}
	return err
}

func (r *run) try(m *buspb.Mutation, err error) {
	if err == nil {
		_ = r.Propose(context.Background(), m) // compared with the model
	}
}

func (r *run) lead() {
	r.manager = hunts.NewManager(hunts.ManagerOptions{
		Room: r.Room, Flows: r.flows, Propose: r.Propose, Now: r.now,
		Connected: func(_ ids.Org, c ids.Client) bool { return !r.away[c] },
	})
}

func TestCountsAreExactWhateverHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &run{t: rt, world: newWorld(t, 0), model: &model{
			hunts: map[string]*modelHunt{}, persons: map[string]int{}, used: map[string]bool{},
		}, away: map[ids.Client]bool{}}
		at := noon
		r.now = func() time.Time { at = at.Add(7 * time.Second); return at }
		for i := range modelClients {
			r.come(t, i)
			r.collect(t, i)
		}
		r.lead()
		for range rapid.IntRange(10, 150).Draw(rt, "steps") {
			r.step(t)
			r.check()
		}
	})
}

func (r *run) come(t *testing.T, i int) {
	r.enrol(t, i, i+1)
	r.model.people++
	r.model.persons[id(i).String()] = r.model.people
}

// made are collections of a client that were made by hand, by how they ended.
func made(i int, bad bool) flows.Key {
	f, err := ids.ParseFlow(fmt.Sprintf("F.HAND%d%t", i, bad))
	if err != nil {
		panic(err)
	}
	return flows.Key{Client: id(i), Flow: f}
}

func (r *run) collect(t *testing.T, i int) {
	for _, bad := range []bool{false, true} {
		a := flows.Arrival{
			Key: made(i, bad), Incarnation: "n1-1", Artifacts: []flows.Artifact{{Name: pslist}}, Rows: []flows.ArrivedRows{{Name: pslist, Rows: 2}},
			Origin: flows.Origin{SHA256: fmt.Sprintf("%064d", 10+i)},
		}
		if bad {
			a.Error, a.Rows[0].Rows, a.Origin.SHA256 = "broke", 0, fmt.Sprintf("%064d", 20+i)
		}
		r.must(t)(flows.PlanImport(a))
	}
}

// add makes a collection of a client one of a hunt's.
func (r *run) add(k hunts.Key, client int) {
	from, err := r.flows.Flow(made(client, rapid.Bool().Draw(r.t, "bad")))
	if err != nil {
		r.t.Fatal(err)
	}
	r.try(flows.PlanCopy(flows.Copy{
		Key: flows.Key{Client: id(client), Flow: k.Hunt.Copy(fmt.Sprint("S", r.index))}, Hunt: k.Hunt, From: from, Incarnation: "n1-1",
		Artifacts: from.Spec.Artifacts, Names: []flows.Coverage{{Name: pslist, Rows: from.Covers(pslist)}}, Again: rapid.Bool().Draw(r.t, "again"),
	}, "ada"))
}

func (r *run) step(t *testing.T) {
	if len(r.keys) == 0 {
		r.begin()
		return
	}
	k := rapid.SampledFrom(r.keys).Draw(r.t, "hunt")
	one := rapid.IntRange(0, modelClients-1).Draw(r.t, "client")
	some := idsOf(rapid.SliceOfNDistinct(rapid.IntRange(0, modelClients-1), 1, 3, rapid.ID).Draw(r.t, "clients")...)
	now := r.now()
	switch rapid.SampledFrom(strings.Fields(
		"begin start start start pause stop cancel delete limit nominate nominate nominate decline admit admit lead lead lead lead end end end "+
			"remove gone come come label rerun rerun add copy copy uncopy away snapshot master",
	)).Draw(r.t, "step") {
	case "begin":
		if len(r.keys) < 3 {
			r.begin()
		}
	case "start":
		r.try(r.PlanStart(k, "", now))
	case "pause":
		r.try(r.PlanPause(k, "", now))
	case "stop":
		r.try(r.PlanStop(k, false, "", now))
	case "cancel":
		r.try(r.PlanStop(k, true, "", now))
	case "delete":
		r.try(r.PlanDelete(k, "", now))
	case "limit":
		r.try(r.PlanEdit(k, hunts.Edit{Limit: to(rapid.SampledFrom([]int64{0, 0, 1, 2, 3, 4}).Draw(r.t, "limit"))}, "", now))
	case "nominate":
		all, err := hunts.PlanNominate(k, some)
		r.try(all[0], err)
	case "decline":
		all, err := hunts.PlanDecline(k, some)
		r.try(all[0], err)
	case "admit": // an old master's plan, maybe
		s := collect()
		s.Hunt = k.Hunt
		spec, err := flows.PlanSpec(s)
		if err != nil {
			r.t.Fatal(err)
		}
		r.try(flows.PlanAdmit(k.Org, spec, k.Hunt.Flow(rapid.IntRange(0, 2).Draw(r.t, "attempt")), some))
	case "lead":
		_, _ = r.manager.Step(context.Background()) // refusals are compared with the model
	case "end":
		outcome, rows := rapid.SampledFrom([]buspb.FlowEnd_Outcome{endedOK, endedBad}).Draw(r.t, "outcome"), rapid.Int64Range(0, 2).Draw(r.t, "rows")
		attempt := rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(r.t, "attempt")
		if f, err := r.flows.Flow(flows.Key{Client: id(one), Flow: k.Hunt.Flow(attempt)}); err == nil && !f.State.Final() {
			end := ended(k, attempt, one, outcome, rows, rows)
			if rapid.Bool().Draw(r.t, "tells") {
				end = costly(end, rapid.Int64Range(0, 9).Draw(r.t, "cpu"))
			}
			r.try(facts(end), nil)
		}
	case "remove":
		r.try(facts(deletes(k, rapid.IntRange(0, 2).Draw(r.t, "attempt"), one)), nil)
	case "gone":
		if m, err := r.clients.PlanDelete(ids.RootOrg, id(one)); err == nil {
			r.model.gone(id(one).String())
			r.try(m, nil)
		}
	case "come":
		if _, known := r.model.persons[id(one).String()]; !known {
			r.come(t, one)
		}
	case "label":
		if m, err := r.clients.PlanLabels(ids.RootOrg, idsOf(one), []string{"x"}, nil); err == nil {
			r.model.forgive(id(one).String())
			r.try(m, nil)
		}
	case "rerun":
		if rapid.Bool().Draw(r.t, "all") {
			some = nil
		}
		r.try(r.PlanRerun(k, some, "", now))
	case "add":
		r.try(r.PlanAdd(k, some, "", now))
	case "copy":
		r.add(k, one)
	case "uncopy":
		if m, _, _ := r.Member(k, id(one)); strings.HasSuffix(m.Flow.String(), ".L") {
			r.try(facts(gone(flows.Key{Client: id(one), Flow: m.Flow})), nil)
		}
	case "away":
		r.away[id(one)] = !r.away[id(one)]
	case "snapshot":
		r.restart()
	case "master":
		r.lead()
	}
}

func (r *run) begin() {
	m, hunt, err := r.PlanCreate(hunts.Create{
		Collect: collect(), Start: rapid.Bool().Draw(r.t, "started"),
		Settings: hunts.Settings{Limit: rapid.SampledFrom([]int64{0, 0, 1, 2, 3, 4}).Draw(r.t, "limit")},
	}, noon)
	r.try(m, err)
	r.keys = append(r.keys, hunts.Key{Hunt: hunt})
}

// restart goes on with a node that begins with a snapshot.
func (r *run) restart() {
	fresh, err := r.restored()
	if err != nil {
		r.t.Fatal(err)
	}
	for i, s := range r.states() {
		if before, after := dump(s), dump(fresh.states()[i]); !bytes.Equal(before, after) {
			r.t.Fatalf("%s came back as\n%s\nnot\n%s", s.Kind(), after, before)
		}
	}
	r.node = fresh
	r.lead()
}

func (r *run) check() {
	if r.wrong != "" {
		r.t.Fatal(r.wrong)
	}
	for _, k := range r.keys {
		want := r.model.hunts[k.Hunt.String()]
		h, err := r.Hunt(k)
		if want == nil {
			if err == nil {
				r.t.Fatalf("hunt %s is there", k.Hunt)
			}
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		r.checkHunt(h, want)
	}
}

func (r *run) checkHunt(h *hunts.Hunt, want *modelHunt) {
	var counts hunts.Counts
	for person, member := range want.members {
		counts[member.set]++
		for key, f := range want.flows {
			client, flow, _ := strings.Cut(key, " ")
			there := r.model.persons[client] == person
			if f.person == person && f.rows > 0 && member.newest(flow) && member.set != hunts.PendingClients && there {
				counts[hunts.WithResults]++
			}
		}
	}
	got := h.Counts
	rows, cpu, told := int64(0), time.Duration(0), int64(0)
	for _, f := range want.flows {
		rows += f.rows
		if f.cpu != nil {
			cpu, told = cpu+time.Duration(*f.cpu), told+1
		}
	}
	if h.Sums.CPU != cpu || h.Sums.CPUTold != told {
		r.t.Fatalf("hunt %s: %v of %d flows; model: %v of %d", h.Hunt, h.Sums.CPU, h.Sums.CPUTold, cpu, told)
	}
	// A client that was deleted keeps what was known of its results then, which the
	// model does not remember.
	got[hunts.WithResults] = r.resultsOfTheLiving(h.Key)
	if got != counts || h.Sums.Rows != rows || h.Sums.Flows != int64(len(want.flows)) {
		r.t.Fatalf("hunt %s: %v, %d rows, %d flows; model: %v, %d, %d", h.Hunt, got, h.Sums.Rows, h.Sums.Flows, counts, rows, len(want.flows))
	}
	if joined := int64(h.Counts.Joined() + h.Again); h.Settings.Limit > 0 && joined > h.Settings.Limit || joined != want.joined() {
		r.t.Fatalf("%d joined hunt %s, limit %d, model %d", joined, h.Hunt, h.Settings.Limit, want.joined())
	}
	var sum hunts.Counts
	buckets, _, err := r.Timeline(h.Key)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, b := range buckets {
		for s, n := range b.Change {
			sum[s] += int(n)
		}
	}
	if sum != h.Counts {
		r.t.Fatalf("timeline adds up to %v, not %v", sum, h.Counts)
	}
}

// resultsOfTheLiving counts the clients with results that were not deleted.
func (r *run) resultsOfTheLiving(k hunts.Key) int {
	members, _, err := r.Clients(k, hunts.WithResults, 0, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	n := 0
	for _, m := range members {
		if !m.Client.IsZero() {
			n++
		}
	}
	return n
}
