package flows_test

import (
	"errors"
	"strings"
	"testing"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

func serverSet(t *testing.T, principal string, version *uint64, all ...flows.Artifact) *buspb.Mutation {
	t.Helper()
	m, err := flows.PlanServerEvents(ids.RootOrg, principal, all, version)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func serverRead(t *testing.T, query string, added, round uint64, place string) *buspb.Mutation {
	t.Helper()
	read := flows.ServerRead{Query: query, Added: added, Round: round, Places: map[string]string{"Watched": place}, Events: 2}
	m, err := read.Fact()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func parameter(name, value string) []flows.Parameter {
	return []flows.Parameter{{Name: name, Value: value}}
}

func TestServerTableKeepsItsPromises(t *testing.T) {
	old := uint64(77)
	mutations := []*buspb.Mutation{
		serverRead(t, "S.Nobody", 1, 1, "x"), // of no table
		serverSet(t, "ada", nil, flows.Artifact{Name: "S.A", Parameters: parameter("P", "1")}, flows.Artifact{Name: "S.B/Two"}),
		serverRead(t, "S.A/One", 2, 1, "a"),
		serverRead(t, "S.B/Two", 2, 5, "b"),
		serverSet(t, "ben", &old), // made from another
		serverSet(t, "ben", nil, flows.Artifact{Name: "S.A", Parameters: parameter("P", "2")}),
		{Kind: flows.ServerMonitoringKind, Body: []byte("\xff")},
		{Kind: flows.ServerMonitoringKind},
		serverSet(t, "ben", nil),
	}
	var entries []*buspb.Entry
	for _, m := range mutations {
		entries = append(entries, &buspb.Entry{Mutation: m})
	}
	statetest.Run(t, func() replication.State { return flows.New(flows.Options{}).Server }, entries)
}

func TestServerTableKeepsWhatStays(t *testing.T) {
	table := flows.New(flows.Options{}).Server
	index := uint64(0)
	apply := func(m *buspb.Mutation) error {
		index++
		m.Org = ids.RootOrg.String()
		return table.Apply(&buspb.Entry{Index: index, Time: 1_000_000 * int64(index), Mutation: m})
	}
	must := func(m *buspb.Mutation) {
		t.Helper()
		if err := apply(m); err != nil {
			t.Fatal(err)
		}
	}
	a, b := flows.Artifact{Name: "S.A"}, flows.Artifact{Name: "S.B", Parameters: parameter("P", "1")}
	must(serverSet(t, "ada", nil, a, b))       // entry 1
	must(serverRead(t, "S.A/One", 1, 1, "p1")) // 2
	must(serverRead(t, "S.B", 1, 1, "q1"))     // 3
	b.Parameters = parameter("P", "2")
	one := uint64(1)
	must(serverSet(t, "ben", &one, a, b)) // 4
	all, version := table.Artifacts(ids.RootOrg)
	if version != 4 || all[0].Principal != "ada" || all[0].Set != 1 || all[1].Principal != "ben" || all[1].Set != 4 || all[1].Added != 1 {
		t.Errorf("version %d, %+v", version, all)
	}
	if err := apply(serverSet(t, "eve", &one)); !errors.Is(err, flows.ErrTableChanged) {
		t.Errorf("a table made from version 1: %v", err)
	}
	must(serverRead(t, "S.A/One", 1, 1, "zombie")) // a round that was told already
	must(serverRead(t, "S.A/One", 1, 3, "p3"))
	must(serverRead(t, "S.A/One", 1, 2, "late"))
	must(serverRead(t, "S.C", 1, 9, "of nobody"))
	if p := table.Place(ids.RootOrg, "S.A/One"); p.Round != 3 || p.Places["Watched"] != "p3" || p.Events != 4 {
		t.Errorf("place %+v", p)
	}
	if p := table.Place(ids.RootOrg, "S.B"); p.Places["Watched"] != "q1" {
		t.Errorf("another value of a parameter loses the place: %+v", p)
	}
	facts := []*buspb.Mutation{serverRead(t, "S.A/One", 1, 4, "p4"), serverRead(t, "S.A/One", 1, 2, "old"), serverRead(t, "S.A/One", 9, 9, "other life")}
	if reads := table.Reads(ids.RootOrg, facts); len(reads) != 1 || reads["S.A/One"].Places["Watched"] != "p4" {
		t.Errorf("facts that are on their way: %+v", reads)
	}
	must(serverSet(t, "ada", nil, b))
	must(serverSet(t, "ada", nil, a, b))
	if p := table.Place(ids.RootOrg, "S.A/One"); p.Round != 0 {
		t.Errorf("who left and came back is at %+v", p)
	}
	if err := apply(serverRead(t, "S.A/One", 1, 5, "of its first life")); err != nil || table.Place(ids.RootOrg, "S.A/One").Round != 0 {
		t.Errorf("a fact of its first life counts: %v", err)
	}
}

func TestServerTableRefusesNamesTwice(t *testing.T) {
	for _, names := range [][]string{{"S.A", "S.A/One"}, {""}, {"/x"}, {strings.Repeat("n", 5000)}} {
		var all []flows.Artifact
		for _, name := range names {
			all = append(all, flows.Artifact{Name: name})
		}
		if _, err := flows.PlanServerEvents(ids.RootOrg, "ada", all, nil); !errors.Is(err, flows.ErrInvalid) {
			t.Errorf("%.20q: %v", names, err)
		}
	}
}

func TestEventTableIsChangedOnlyFromTheVersionThatStands(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	group := eventGroup("", execsTok, execs)
	group.Artifacts = []flows.Artifact{{Name: execs, Parameters: parameter("P", "1")}}
	set := func(version uint64) error {
		m, err := flows.PlanEventsFrom(ids.RootOrg, "ada", []flows.EventGroup{group}, version)
		if err != nil {
			t.Fatal(err)
		}
		return w.ledger.Propose(m)
	}
	if err := set(0); err != nil {
		t.Fatal(err)
	}
	if err := set(0); !errors.Is(err, flows.ErrTableChanged) {
		t.Errorf("from none where one stands: %v", err)
	}
	groups, version := n.Events.Groups(ids.RootOrg)
	if len(groups) != 1 || len(groups[0].Artifacts) != 1 || groups[0].Artifacts[0].Parameters[0].Value != "1" {
		t.Errorf("groups %+v", groups)
	}
	if err := set(version); err != nil {
		t.Errorf("from the version that stands: %v", err)
	}
}
