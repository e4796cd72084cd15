package hunts_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

func TestHuntGoesItsWay(t *testing.T) {
	w := newWorld(t, 6)
	k := w.create(t, func(c *hunts.Create) { c.Start = false })
	h := w.hunt(t, k)
	if h.State != hunts.Draft || h.Creator != "ada" || len(h.Artifacts) != 2 || h.Limits.Rows != 1000 || h.Expires.Sub(noon) != 7*24*time.Hour {
		t.Errorf("draft: %+v", h)
	}
	w.nominate(t, k, 0)
	w.counts(t, k, 0, 0, 0, 0, 0, 0, 0) // nobody is found for a draft
	w.must(t)(w.PlanStart(k, "ada", noon))
	w.nominate(t, k, 0, 1, 2, 0, 3)
	w.nominate(t, k, 2, 9) // again, and one that nobody knows
	w.counts(t, k, 4, 0, 0, 0, 0, 0, 0)
	w.must(t)(admission(t, k, 0, 0, 1, 2), nil)
	w.counts(t, k, 1, 3, 0, 0, 0, 0, 0)
	w.nominate(t, k, 0, 1, 2)
	w.counts(t, k, 1, 3, 0, 0, 0, 0, 0)
	w.must(t)(facts(ended(k, 0, 0, endedOK, 3, 3), ended(k, 0, 1, endedBad, 0, 0), ended(k, 0, 2, endedOK, 1, 2)), nil)
	w.counts(t, k, 1, 1, 1, 1, 0, 0, 2) // client 2 misses a row
	w.must(t)(facts(ended(k, 0, 0, endedOK, 3, 3)), nil)
	w.must(t)(w.PlanRerun(k, nil, "ada", noon))
	w.counts(t, k, 2, 1, 1, 0, 0, 0, 2)
	if h := w.hunt(t, k); h.Again != 1 || h.Sums != (hunts.Sums{Flows: 3, Rows: 4, Logs: 3, Duration: 15}) {
		t.Errorf("%d again, sums %+v", h.Again, h.Sums)
	}
	if err := w.propose(admission(t, k, 0, 1)); !errors.Is(err, hunts.ErrNotAdmitted) {
		t.Errorf("the first attempt again: %v", err)
	}
	w.must(t)(admission(t, k, 1, 1), nil)
	w.must(t)(facts(ended(k, 0, 1, endedOK, 0, 0)), nil) // the first attempt ends late
	w.counts(t, k, 1, 2, 1, 0, 0, 0, 2)
	w.must(t)(facts(ended(k, 1, 1, endedOK, 0, 0)), nil)
	w.counts(t, k, 1, 1, 2, 0, 0, 0, 2)
	w.must(t)(facts(deletes(k, 0, 0)), nil)
	w.counts(t, k, 1, 1, 1, 0, 0, 1, 1)
	w.nominate(t, k, 0)
	w.counts(t, k, 1, 1, 1, 0, 0, 1, 1)
	w.must(t)(w.PlanAdd(k, idsOf(0, 5, 1), "ada", noon))
	w.counts(t, k, 3, 1, 1, 0, 0, 0, 1)
	members, next, err := w.Clients(k, hunts.PendingClients, 0, 2)
	if err != nil || len(members) != 2 || members[0].Client != id(0) || members[0].Attempt != 1 || members[1].Client != id(3) || next != 5 {
		t.Errorf("pending: %+v, next %d, %v", members, next, err)
	}
	if m, s, ok := w.Member(k, id(1)); !ok || s != hunts.CompletedClients || m.Flow != k.Hunt.Flow(1) {
		t.Errorf("client 1: %+v in %s, %v", m, s, ok)
	}
	if of := w.Of(ids.RootOrg, id(2)); len(of) != 1 || of[k.Hunt] != hunts.RunningClients {
		t.Errorf("client 2 is in %v", of)
	}
}

func TestMovesThatAHuntPermits(t *testing.T) {
	w := newWorld(t, 1)
	k := w.create(t, func(c *hunts.Create) { c.Start = false; c.Expires = noon.Add(time.Hour) })
	plans := map[string]func() (*buspb.Mutation, error){
		"start":   func() (*buspb.Mutation, error) { return w.PlanStart(k, "ada", w.now()) },
		"pause":   func() (*buspb.Mutation, error) { return w.PlanPause(k, "ada", w.now()) },
		"stop":    func() (*buspb.Mutation, error) { return w.PlanStop(k, false, "ada", w.now()) },
		"cancel":  func() (*buspb.Mutation, error) { return w.PlanStop(k, true, "ada", w.now()) },
		"archive": func() (*buspb.Mutation, error) { return w.PlanArchive(k, "ada", w.now()) },
		"delete":  func() (*buspb.Mutation, error) { return w.PlanDelete(k, "ada", w.now()) },
		"edit":    func() (*buspb.Mutation, error) { return w.PlanEdit(k, hunts.Edit{Rate: to(int64(7))}, "ada", w.now()) },
		"rerun":   func() (*buspb.Mutation, error) { return w.PlanRerun(k, nil, "ada", w.now()) },
		"add":     func() (*buspb.Mutation, error) { return w.PlanAdd(k, idsOf(0), "ada", w.now()) },
		"late": func() (*buspb.Mutation, error) {
			w.now = func() time.Time { return noon.Add(2 * time.Hour) }
			all, err := w.PlanExpire(w.now())
			if err != nil || len(all) != 1 {
				t.Fatalf("%d hunts expire, %v", len(all), err)
			}
			return all[0], nil
		},
		"extend": func() (*buspb.Mutation, error) {
			return w.PlanEdit(k, hunts.Edit{Expires: to(w.now().Add(time.Hour))}, "ada", w.now())
		},
	}
	for _, step := range []struct {
		do   string
		want hunts.State // empty: refused
	}{
		{"pause", ""},
		{"stop", ""},
		{"rerun", ""},
		{"add", hunts.Draft},
		{"edit", hunts.Draft},
		{"start", hunts.Running},
		{"start", ""},
		{"archive", ""},
		{"delete", ""},
		{"add", hunts.Running},
		{"rerun", hunts.Running},
		{"pause", hunts.Paused},
		{"pause", ""},
		{"add", hunts.Paused},
		{"start", hunts.Running},
		{"stop", hunts.Stopped},
		{"stop", ""},
		{"pause", ""},
		{"add", ""},
		{"rerun", hunts.Stopped},
		{"cancel", hunts.Stopped},
		{"archive", hunts.Archived},
		{"start", ""},
		{"edit", ""},
		{"rerun", ""},
		{"stop", hunts.Stopped},
		{"start", hunts.Running},
		{"late", hunts.Expired},
		{"start", ""},
		{"extend", hunts.Expired},
		{"start", hunts.Running},
		{"stop", hunts.Stopped},
		{"delete", hunts.Deleted},
		{"delete", ""},
		{"start", ""},
		{"edit", ""},
	} {
		before := w.hunt(t, k).State
		m, err := plans[step.do]()
		if err == nil {
			err = w.propose(m)
		}
		if step.want == "" {
			if !errors.Is(err, hunts.ErrState) {
				t.Errorf("%s a %s hunt: %v", step.do, before, err)
			}
			step.want = before
		} else if err != nil {
			t.Errorf("%s a %s hunt: %v", step.do, before, err)
		}
		if got := w.hunt(t, k).State; got != step.want {
			t.Fatalf("%s a %s hunt: %s", step.do, before, got)
		}
	}
	if len(w.List(ids.RootOrg)) != 0 || !w.Gone(k) {
		t.Error("a deleted hunt is listed")
	}
}

func TestWishesThatMakeNoSense(t *testing.T) {
	w := newWorld(t, 1)
	dotted, err := ids.ParseHunt("H.a.1")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*hunts.Create){
		"id with dots":    func(c *hunts.Create) { c.Hunt = dotted },
		"rate":            func(c *hunts.Create) { c.Rate = -1 },
		"fast":            func(c *hunts.Create) { c.Rate = 1 << 40 },
		"limit":           func(c *hunts.Create) { c.Limit = -1 },
		"over":            func(c *hunts.Create) { c.Expires = noon },
		"description":     func(c *hunts.Create) { c.Description = "\xff" },
		"system":          func(c *hunts.Create) { c.Conditions.OS = "beos" },
		"label":           func(c *hunts.Create) { c.Conditions.Include = []string{" x"} },
		"no label":        func(c *hunts.Create) { c.Conditions.Exclude = []string{""} },
		"many labels":     func(c *hunts.Create) { c.Conditions.Exclude = strings.Fields(strings.Repeat("x ", 101)) },
		"lone condition":  func(c *hunts.Create) { c.Conditions.Condition = "SELECT 1" },
		"lone request":    func(c *hunts.Create) { c.Conditions.ConditionRequest = []byte{1} },
		"long filter":     func(c *hunts.Create) { c.Conditions.Filter = strings.Repeat("x", 1<<17) },
		"nothing to run":  func(c *hunts.Create) { c.Collect.Request = nil },
		"unknown clients": func(c *hunts.Create) { c.Clients = idsOf(0, 5) },
	} {
		c := hunts.Create{Collect: collect()}
		edit(&c)
		m, _, err := w.PlanCreate(c, noon)
		if err == nil {
			err = w.propose(m)
		}
		if !errors.Is(err, hunts.ErrInvalid) && !errors.Is(err, flows.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k := w.create(t)
	for name, err := range map[string]error{
		"edit rate":   second(w.PlanEdit(k, hunts.Edit{Rate: to(int64(-1))}, "", noon)),
		"edit tags":   second(w.PlanEdit(k, hunts.Edit{Tags: to([]string{" "})}, "", noon)),
		"edit expiry": second(w.PlanEdit(k, hunts.Edit{Expires: to(noon.Add(-1))}, "", noon)),
		"add none":    second(w.PlanAdd(k, nil, "", noon)),
		"add unknown": second(w.PlanAdd(k, idsOf(7), "", noon)),
	} {
		if !errors.Is(err, hunts.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	none := hunts.Key{Hunt: ids.NewHunt(noon)}
	for name, err := range map[string]error{
		"start": second(w.PlanStart(none, "", noon)), "look": second(w.Hunt(none)),
		"admit": w.propose(admission(t, none, 0, 0)),
	} {
		if !errors.Is(err, hunts.ErrNotFound) {
			t.Errorf("%s nothing: %v", name, err)
		}
	}
	if _, _, err := w.PlanCreate(hunts.Create{Collect: collect(), Hunt: k.Hunt}, noon); err != nil {
		t.Error(err)
	}
	m, _, err := w.PlanCreate(hunts.Create{Collect: collect(), Hunt: k.Hunt}, noon)
	if err == nil {
		err = w.propose(m)
	}
	if !errors.Is(err, hunts.ErrExists) {
		t.Errorf("create twice: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// What a hunt's own condition said of a client is forgotten with every change of it,
// and a deleted client leaves no set inexact.
func TestClientsChangeUnderAHunt(t *testing.T) {
	w := newWorld(t, 4)
	k := w.create(t)
	decline := func(who ...int) {
		t.Helper()
		all, err := hunts.PlanDecline(k, idsOf(who...))
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		w.must(t)(all[0], nil)
	}
	decline(0, 1, 2)
	w.nominate(t, k, 3)
	decline(3)
	w.counts(t, k, 1, 0, 0, 0, 3, 0, 0)
	w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(0, 3), []string{"x"}, nil))
	w.must(t)(w.clients.PlanInfo(ids.RootOrg, id(1), []byte(`{"hostname":"h"}`), ids.Flow{}, nil))
	w.counts(t, k, 1, 0, 0, 0, 1, 0, 0)
	w.nominate(t, k, 0, 1)
	w.must(t)(admission(t, k, 0, 1), nil)
	for _, who := range []int{0, 1, 2} { // pending, running, declined
		w.must(t)(w.clients.PlanDelete(ids.RootOrg, id(who)))
	}
	w.counts(t, k, 1, 0, 0, 1, 0, 0, 0)
	w.must(t)(facts(ended(k, 0, 1, endedOK, 2, 2)), nil) // it was on its way
	w.counts(t, k, 1, 0, 0, 1, 0, 0, 0)
	if rows := w.hunt(t, k).Sums.Rows; rows != 2 {
		t.Errorf("%d rows are on disk", rows)
	}
	w.enrol(t, 1, 2) // the same agent comes again
	w.nominate(t, k, 1)
	w.must(t)(w.PlanRerun(k, nil, "", noon)) // the deleted one stays
	w.counts(t, k, 2, 0, 0, 1, 0, 0, 0)
	if err := w.propose(admission(t, k, 0, 1)); !errors.Is(err, flows.ErrExists) {
		t.Errorf("its first flow again: %v", err)
	}
	w.counts(t, k, 2, 0, 0, 1, 0, 0, 0)
	w.must(t)(admission(t, k, 1, 1), nil)
	w.counts(t, k, 1, 1, 0, 1, 0, 0, 0)
	w.must(t)(facts(ended(k, 0, 1, endedOK, 2, 2)), nil)
	w.counts(t, k, 1, 1, 0, 1, 0, 0, 0)
	members, _, err := w.Clients(k, hunts.ErroredClients, 0, 5)
	if err != nil || len(members) != 1 || !members[0].Client.IsZero() {
		t.Errorf("errored: %+v, %v", members, err)
	}
}

// The limit holds at the ledger, whatever was planned when.
func TestLimitHoldsWhateverComesBetween(t *testing.T) {
	w := newWorld(t, 10)
	k := w.create(t, func(c *hunts.Create) { c.Limit = 5 })
	w.nominate(t, k, 0, 1, 2, 3, 4, 5, 6, 7)
	four, two := admission(t, k, 0, 0, 1, 2, 3), admission(t, k, 0, 4, 5)
	w.must(t)(four, nil)
	if err := w.propose(two); !errors.Is(err, hunts.ErrLimit) || !errors.Is(err, hunts.ErrNotAdmitted) {
		t.Errorf("six of five: %v", err)
	}
	if _, err := w.PlanEdit(k, hunts.Edit{Limit: to(int64(3))}, "", noon); !errors.Is(err, hunts.ErrLimit) {
		t.Errorf("a limit below those who take part: %v", err)
	}
	w.must(t)(w.PlanEdit(k, hunts.Edit{Limit: to(int64(4))}, "", noon))
	if err := w.propose(admission(t, k, 0, 4)); !errors.Is(err, hunts.ErrLimit) {
		t.Errorf("the limit was lowered: %v", err)
	}
	w.must(t)(facts(ended(k, 0, 0, endedBad, 0, 0)), nil)
	w.must(t)(w.PlanRerun(k, idsOf(0), "", noon))
	if err := w.propose(admission(t, k, 0, 4)); !errors.Is(err, hunts.ErrLimit) {
		t.Errorf("who waits for another attempt keeps its place: %v", err)
	}
	w.must(t)(admission(t, k, 1, 0), nil)
	w.must(t)(w.PlanEdit(k, hunts.Edit{Limit: to(int64(0))}, "", noon))
	w.must(t)(two, nil)
	if joined := w.hunt(t, k).Counts.Joined(); joined != 6 {
		t.Errorf("%d take part", joined)
	}
}

func TestTimelineAddsUpToTheCounts(t *testing.T) {
	w := newWorld(t, 3000)
	k := w.create(t, func(c *hunts.Create) { c.Expires = noon.Add(1000 * 24 * time.Hour) })
	for i := range 3000 {
		at := noon.Add(time.Duration(i*i) * time.Second)
		w.now = func() time.Time { return at }
		w.nominate(t, k, i)
		if i%3 == 0 {
			w.must(t)(admission(t, k, 0, i), nil)
		}
	}
	buckets, width, err := w.Timeline(k)
	if err != nil || len(buckets) > 360 || width < 2 {
		t.Fatalf("%d buckets of %d minutes, %v", len(buckets), width, err)
	}
	var sum hunts.Counts
	for i, b := range buckets {
		if b.Minute%width != 0 || i > 0 && b.Minute <= buckets[i-1].Minute {
			t.Fatalf("bucket %d begins at %d", i, b.Minute)
		}
		for s, n := range b.Change {
			sum[s] += int(n)
		}
	}
	if sum != w.hunt(t, k).Counts {
		t.Errorf("adds up to %v", sum)
	}
}

// story is a ledger with all kinds of changes and refusals.
func story(t *testing.T) []*buspb.Entry {
	w := newWorld(t, 40)
	var entries []*buspb.Entry
	add := func(m *buspb.Mutation, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, &buspb.Entry{Mutation: m})
		_ = w.propose(m) // refusals are part of it
	}
	many := make([]int, 40)
	for i := range many {
		many[i] = i
	}
	a := hunts.Key{Hunt: ids.NewHunt(noon)}
	c := hunts.Create{
		Hunt: a.Hunt, Collect: collect(), Start: true, Clients: idsOf(3, 4),
		Settings: hunts.Settings{Description: "<a&b>", Rate: 6000, Limit: 30},
		Conditions: hunts.Conditions{
			Include: []string{"x"}, Exclude: []string{"y"}, OS: "linux", Condition: "SELECT 1", ConditionRequest: []byte{1}, Filter: "x",
		},
	}
	m, _, err := w.PlanCreate(c, noon)
	add(m, err)
	add(m, nil) // refused
	all, err := hunts.PlanNominate(a, idsOf(many...))
	add(all[0], err)
	all, err = hunts.PlanDecline(a, idsOf(1, 2))
	add(all[0], err)
	add(w.PlanPause(a, "ada", noon))
	add(w.PlanEdit(a, hunts.Edit{Description: to("b"), Rate: to(int64(60)), Limit: to(int64(20)), Expires: to(noon.Add(time.Minute))}, "ada", noon))
	add(m, nil)
	add(w.PlanRerun(a, nil, "ada", noon))
	add(w.PlanStart(a, "ada", noon))
	add(w.PlanStop(a, true, "ada", noon))
	c.Hunt = ids.NewHunt(noon)
	add(second2(w.PlanCreate(c, noon)))
	b := hunts.Key{Hunt: c.Hunt}
	all, err = hunts.PlanDecline(b, idsOf(1, 2, 5))
	add(all[0], err)
	add(w.PlanAdd(b, idsOf(2), "eve", noon))
	add(w.PlanDelete(a, "ada", noon))
	forget := &buspb.Mutation{Kind: hunts.Kind, Body: forgetBody(t, a)}
	add(forget, nil)
	add(forget, nil) // refused
	add(&buspb.Mutation{Kind: hunts.Kind, Body: []byte("\xff\xff")}, nil)
	add(&buspb.Mutation{Kind: hunts.Kind, Org: "../x"}, nil)
	all, err = hunts.PlanNominate(a, idsOf(1))
	add(all[0], err) // a fact about what is gone
	late, err := w.PlanExpire(noon.Add(30 * 24 * time.Hour))
	add(late[0], err) // not yet
	return entries
}

func second2(m *buspb.Mutation, _ ids.Hunt, err error) (*buspb.Mutation, error) { return m, err }

func TestStateKeepsItsPromises(t *testing.T) {
	w := newWorld(t, 40)
	statetest.Run(t, func() replication.State { return hunts.New(hunts.Options{Clients: w.clients}) }, story(t))
}

// The rate holds at the ledger too: a plan that comes late finds it used up.
func TestRateHoldsWhateverComesBetween(t *testing.T) {
	w := newWorld(t, 10)
	at := noon
	w.now = func() time.Time { return at }
	k := w.create(t, func(c *hunts.Create) { c.Rate = 120 })
	w.nominate(t, k, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	refused := func(who ...int) {
		t.Helper()
		if err := w.propose(admission(t, k, 0, who...)); !errors.Is(err, hunts.ErrNotAdmitted) {
			t.Errorf("%v at %s: %v", who, at.Sub(noon), err)
		}
	}
	refused(0, 1, 2) // two a second
	w.must(t)(admission(t, k, 0, 0), nil)
	w.must(t)(admission(t, k, 0, 1), nil)
	refused(2)
	at = at.Add(499 * time.Millisecond)
	refused(2)
	at = at.Add(time.Millisecond)
	w.must(t)(admission(t, k, 0, 2), nil)
	w.must(t)(w.PlanEdit(k, hunts.Edit{Rate: to(int64(1))}, "", at)) // two were ahead, and stay so
	refused(3)
	at = at.Add(time.Minute)
	refused(3)
	at = at.Add(time.Minute)
	w.must(t)(admission(t, k, 0, 3), nil)
	refused(4)
	w.must(t)(w.PlanEdit(k, hunts.Edit{Rate: to(int64(0))}, "", at))
	w.must(t)(admission(t, k, 0, 4, 5), nil)
	w.must(t)(w.PlanEdit(k, hunts.Edit{Rate: to(int64(60))}, "", at))
	refused(6, 7)
	w.must(t)(admission(t, k, 0, 6), nil)
}
