package flows_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

func day(text string) time.Time {
	at, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	return at
}

func TestOnlyWholeDaysThatAreClosedAreDeleted(t *testing.T) {
	now, client := day("2026-11-22 10:00"), clientID(t, "C.00000000000000a1")
	table := flows.New(flows.Options{}).Erased
	for _, c := range []struct{ from, to, now, want string }{
		{"", "", "2026-11-22 10:00", "1970-01-01 2026-11-21"},
		{"", "", "2026-11-22 00:59", "1970-01-01 2026-11-20"},
		{"", "", "2026-11-22 01:00", "1970-01-01 2026-11-21"},
		{"2026-11-10 00:00", "2026-11-12 00:00", "2026-11-22 10:00", "2026-11-10 2026-11-11"},
		{"2026-11-10 00:01", "2026-11-12 23:59", "2026-11-22 10:00", "2026-11-11 2026-11-11"},
		{"2026-11-20 00:00", "2027-01-01 00:00", "2026-11-22 10:00", "2026-11-20 2026-11-21"},
		{"2026-11-10 00:01", "2026-11-11 23:59", "2026-11-22 10:00", "none"},
		{"2026-11-22 00:00", "", "2026-11-22 10:00", "none"},
		{"2026-11-12 00:00", "2026-11-10 00:00", "2026-11-22 10:00", "none"},
	} {
		var from, to time.Time
		if c.from != "" {
			from = day(c.from)
		}
		if c.to != "" {
			to = day(c.to)
		}
		_, d, err := table.PlanDelete(ids.RootOrg, "A/B", client, from, to, day(c.now))
		got := "none"
		if err == nil {
			got = d.From + " " + d.To
		} else if !errors.Is(err, flows.ErrInvalid) {
			t.Errorf("%v: %v", c, err)
		}
		if got != c.want {
			t.Errorf("%v: %s", c, got)
		}
	}
	if _, _, err := table.PlanDelete(ids.RootOrg, "", client, time.Time{}, time.Time{}, now); err == nil {
		t.Error("a bad name was taken")
	}
}

func TestEventDeletionsKeepTheStatesPromises(t *testing.T) {
	table := flows.New(flows.Options{}).Erased
	var entries []*buspb.Entry
	add := func(name, client, from, to string) {
		t.Helper()
		m, _, err := table.PlanDelete(ids.RootOrg, name, clientID(t, client), day(from+" 00:00"), day(to+" 00:00"), day("2026-11-22 10:00"))
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, &buspb.Entry{Mutation: m})
	}
	for i := range 3 {
		add("B", fmt.Sprintf("C.00000000000000a%d", i), "2026-11-10", "2026-11-12")
	}
	add("A/S", "C.00000000000000a1", "2026-11-10", "2026-11-12")
	add("A/S", "C.00000000000000a1", "2026-11-11", "2026-11-12") // known
	add("A/S", "C.00000000000000a1", "2026-11-14", "2026-11-15")
	add("A/S", "C.00000000000000a1", "2026-11-10", "2026-11-20") // both before
	for _, bad := range []*buspb.Mutation{
		{Kind: flows.EventDeletionsKind, Body: []byte{0xff}},
		{Kind: flows.EventDeletionsKind},
		{Kind: flows.EventDeletionsKind, Org: "../x", Body: entries[0].Mutation.Body},
	} {
		entries = append(entries, &buspb.Entry{Mutation: bad})
	}
	statetest.Run(t, func() replication.State { return flows.New(flows.Options{}).Erased }, entries)
	for _, e := range entries[:7] {
		if err := table.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	if all := table.All(); len(all) != 4 || all[0].From != "2026-11-10" || all[0].To != "2026-11-19" {
		t.Errorf("remembered: %v", all)
	}
	if err := table.Restore(strings.NewReader(`{"name":"A","client":"x","from":"2026-11-10","to":"2026-11-10"}`)); err == nil {
		t.Error("a damaged snapshot was restored")
	}
}
