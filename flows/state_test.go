package flows_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

func body(changes ...*buspb.FlowChange) *buspb.Mutation {
	data, err := proto.Marshal(&buspb.FlowsBody{Changes: changes})
	if err != nil {
		panic(err)
	}
	return &buspb.Mutation{Kind: flows.Kind, Body: data}
}

func keyOf(k flows.Key) *buspb.FlowKey {
	return &buspb.FlowKey{Client: k.Client.String(), Flow: k.Flow.String()}
}

func endOf(k flows.Key, o buspb.FlowEnd_Outcome, total int64, c *buspb.FlowCoverage) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_End{End: &buspb.FlowEnd{
		Key: keyOf(k), Outcome: o, Error: o.String(), Totals: &buspb.FlowTotals{Rows: total}, Coverage: c,
	}}}
}

// costly is an end that tells its processor time.
func costly(c *buspb.FlowChange, ns int64) *buspb.FlowChange {
	c.GetEnd().CpuNs = proto.Int64(ns)
	return c
}

func covers(k flows.Key, incarnation string, bounds ...int64) *buspb.FlowCoverage {
	return &buspb.FlowCoverage{Key: keyOf(k), Incarnation: incarnation, Names: []*buspb.FlowExtent{{Name: "A", Bounds: bounds}}}
}

func coverage(c *buspb.FlowCoverage) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_Coverage{Coverage: c}}
}

func taken(k flows.Key) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_Taken{Taken: &buspb.FlowTaken{Key: keyOf(k)}}}
}

func lost(k flows.Key, asked uint64, by string) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_End{End: &buspb.FlowEnd{
		Key: keyOf(k), Outcome: buspb.FlowEnd_OUTCOME_UNKNOWN, Error: "not known", Asked: asked, AskedBy: by,
	}}}
}

func offer(k flows.Key, incarnation string, turn uint64, sure bool) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_Offer{Offer: &buspb.FlowOffer{
		Key: keyOf(k), Incarnation: incarnation, Turn: turn, Sure: sure,
	}}}
}

func expire(k flows.Key) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_Expire{Expire: &buspb.FlowExpire{Keys: []*buspb.FlowKey{keyOf(k)}}}}
}

func cancel(k flows.Key) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_Cancel{Cancel: &buspb.FlowCancel{Key: keyOf(k)}}}
}

func TestStateKeepsItsPromises(t *testing.T) {
	c1, c2 := clientID(t, "C.00000000000000a1"), clientID(t, "C.00000000000000a2")
	var entries []*buspb.Entry
	add := func(m *buspb.Mutation) { entries = append(entries, &buspb.Entry{Mutation: m}) }
	start := func(change ...func(*flows.Start)) flows.Key {
		s := request()
		s.Clients = []ids.Client{c1, c2}
		for _, c := range change {
			c(&s)
		}
		m, id, err := flows.PlanStart(s)
		if err != nil {
			t.Fatal(err)
		}
		add(m)
		return flows.Key{Org: s.Org, Client: c1, Flow: id}
	}
	a, b := start(), start(func(s *flows.Start) { s.Urgent = true; s.Limits.Rows = 7 })
	start(func(s *flows.Start) { s.Flow = a.Flow }) // refused: exists
	start(func(s *flows.Start) {
		s.Flow, s.Creator = a.Flow, "eve"
		s.Clients = []ids.Client{clientID(t, "C.00000000000000a3")}
	})
	o, err := ids.ParseOrg("O123")
	if err != nil {
		t.Fatal(err)
	}
	start(func(s *flows.Start) { s.Org = o })
	hunt := start(func(s *flows.Start) { s.Hunt, _ = ids.ParseHunt("H.D4K8M2O9P1Q3R"); s.Clients = []ids.Client{c2} })
	add(body(taken(a), coverage(covers(a, "n1-1", 0, 5))))
	add(body(endOf(a, buspb.FlowEnd_OUTCOME_OK, 9, covers(a, "n2-1", 7, 9))))
	add(body(coverage(covers(a, "n1-1", 5, 7))))
	add(body(costly(endOf(flows.Key{Client: c2, Flow: b.Flow}, buspb.FlowEnd_OUTCOME_ERROR, 0, nil), 1e9)))
	add(body(endOf(b, buspb.FlowEnd_OUTCOME_OK, 9, covers(b, "n2-1", 7, 9))))
	add(body(cancel(b)))
	add(body(cancel(a))) // refused: ended
	del := func(k flows.Key) *buspb.FlowChange {
		return &buspb.FlowChange{Change: &buspb.FlowChange_Delete{Delete: &buspb.FlowDelete{Key: keyOf(k)}}}
	}
	add(body(del(a), del(flows.Key{Client: c2, Flow: a.Flow}))) // refused whole: the second still waits
	add(body(del(a)))
	add(body(del(a))) // refused: gone
	add(body(endOf(a, buspb.FlowEnd_OUTCOME_OK, 9, nil), expire(b)))
	add(&buspb.Mutation{Kind: flows.Kind, Body: []byte("\xff\xff")})
	add(&buspb.Mutation{Kind: flows.Kind, Org: "../x"})
	add(body(endOf(flows.Key{Client: c2, Flow: hunt.Flow}, buspb.FlowEnd_OUTCOME_LIMIT, 0, nil)))
	task := start()
	turn := uint64(len(entries))
	add(body(lost(task, turn-1, "n1")))                  // older than the task
	add(body(offer(task, "n1-1", turn, false)))          // nobody asked
	add(body(lost(task, turn, "n1"), lost(task, 1, ""))) // the second is older
	add(body(offer(task, "n1-1", turn, false), offer(task, "n2-1", turn, false)))
	add(body(lost(task, turn, "n2"), offer(task, "n2-1", turn, false))) // older than the offer
	turn = uint64(len(entries)) - 1
	for range flows.MaxOffers {
		add(body(lost(task, turn, "n2")))
		add(body(offer(task, "n2-1", turn, true)))
		turn = uint64(len(entries))
	}
	second := start()
	turn = uint64(len(entries))
	add(body(lost(second, turn, strings.Repeat("n", 100)), offer(second, "n3-1", turn, true), taken(second)))
	add(body(lost(second, turn, "n1"))) // older than its being taken
	add(body(lost(second, turn+1, "n1")))
	add(body(coverage(&buspb.FlowCoverage{Key: keyOf(second), Incarnation: "n1-1", Uploads: []int64{0, 2}, UploadSizes: []int64{1, 7, 0, 5}, Conflicts: 2})))
	statetest.Run(t, func() replication.State { return flows.New(flows.Options{}).Table }, entries)
}

func TestEventTableKeepsItsPromises(t *testing.T) {
	var entries []*buspb.Entry
	for _, groups := range [][]flows.EventGroup{
		{eventGroup("", "$p1", "Linux.Events.ProcessExecutions")},
		{eventGroup("", "$p1", "Linux.Events.ProcessExecutions"), eventGroup("Lab", "$p2", "Linux.Events.SSH/Logins")},
		nil,
	} {
		m, err := flows.PlanEvents(ids.RootOrg, "ada", groups)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, &buspb.Entry{Mutation: m})
	}
	entries = append(entries, &buspb.Entry{Mutation: &buspb.Mutation{Kind: flows.MonitoringKind, Body: []byte("\xff")}})
	statetest.Run(t, func() replication.State { return flows.New(flows.Options{}).Events }, entries)
}

// A task is handed out again by one node per answer of its client, and by none once
// something of it was taken.
func TestOneOfferWinsPerAnswer(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.start() // entry 1, so that there is an index before the task's
	key := w.start()
	propose := func(changes ...*buspb.FlowChange) *flows.Flow {
		t.Helper()
		if err := w.ledger.Propose(body(changes...)); err != nil {
			t.Fatal(err)
		}
		return n.flow(key)
	}
	turn := n.flow(key).Turn
	if f := propose(offer(key, "a-1", turn, false)); f.Offered != "" {
		t.Errorf("offered by %s without an answer", f.Offered)
	}
	if f := propose(lost(key, turn-1, "a")); f.Cleared != 0 {
		t.Error("an answer from before the task counts")
	}
	if f := propose(lost(key, turn, "a")); f.Cleared == 0 || f.State != flows.Pending {
		t.Errorf("answered, but cleared by entry %d, %s", f.Cleared, f.State)
	}
	f := propose(offer(key, "b-1", turn, false), offer(key, "c-1", turn, false))
	if f.Offered != "b-1" || f.Offers != 1 || f.Cleared != 0 {
		t.Errorf("offered by %q, %d times, cleared %d", f.Offered, f.Offers, f.Cleared)
	}
	if f = propose(lost(key, turn, "a"), offer(key, "c-1", f.Turn, false)); f.Offered != "b-1" {
		t.Errorf("the same answer, sent again, lets %s offer", f.Offered)
	}
	if f = propose(taken(key), lost(key, f.Turn, "a"), offer(key, "c-1", f.Turn, true)); f.State != flows.Running || f.Offers != 1 {
		t.Errorf("a task that was taken is %s, offered %d times", f.State, f.Offers)
	}
	if f = propose(lost(key, f.Turn, "a")); f.State != flows.Errored {
		t.Errorf("its client lost it, and it is %s", f.State)
	}
}

// Each case is a list of facts in the order they reach the ledger; the state
// they lead to is the same in every order unless the case says otherwise.
func TestCompletedMeansComplete(t *testing.T) {
	const ok, bad, lost = buspb.FlowEnd_OUTCOME_OK, buspb.FlowEnd_OUTCOME_ERROR, buspb.FlowEnd_OUTCOME_UNKNOWN
	cases := []struct {
		name  string
		facts func(k flows.Key) []*buspb.FlowChange
		want  flows.State
	}{
		{"everything from one node", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, ok, 9, covers(k, "n1-1", 0, 9))}
		}, flows.Completed},
		{"no rows", func(k flows.Key) []*buspb.FlowChange { return []*buspb.FlowChange{endOf(k, ok, 0, nil)} }, flows.Completed},
		{"two nodes, overlapping", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, ok, 9, covers(k, "n1-1", 4, 9)), coverage(covers(k, "n2-1", 0, 6)), taken(k)}
		}, flows.Completed},
		{"hole", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, ok, 9, covers(k, "n1-1", 5, 9)), coverage(covers(k, "n2-1", 0, 4))}
		}, flows.Waiting},
		{"hole, though as many as counted", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, ok, 8, covers(k, "n1-1", 5, 9)), coverage(covers(k, "n2-1", 0, 4))}
		}, flows.Waiting},
		{"end missing", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, ok, 10, covers(k, "n1-1", 0, 9))}
		}, flows.Waiting},
		{"more than counted", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, ok, 8, covers(k, "n1-1", 0, 9))}
		}, flows.Waiting},
		{"upload missing", func(k flows.Key) []*buspb.FlowChange {
			end := endOf(k, ok, 0, nil)
			end.GetEnd().Totals.Uploads = 1
			return []*buspb.FlowChange{end}
		}, flows.Waiting},
		{"error asks for no equality", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, bad, 10, covers(k, "n1-1", 0, 9)), taken(k)}
		}, flows.Errored},
		{"a real end beats unknown", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, lost, 0, nil), endOf(k, ok, 9, covers(k, "n1-1", 0, 9))}
		}, flows.Completed},
		{"unknown", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{taken(k), endOf(k, lost, 0, nil), coverage(covers(k, "n1-1", 0, 9))}
		}, flows.Errored},
		{"twice the same end", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, ok, 9, covers(k, "n1-1", 0, 9)), endOf(k, ok, 9, covers(k, "n2-1", 0, 9))}
		}, flows.Completed},
		{"bounds without sense", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, ok, 9, covers(k, "n1-1", 0, 9, -7, 3, 5, 5, 8))}
		}, flows.Completed},
		{"our limit stands", func(k flows.Key) []*buspb.FlowChange {
			return []*buspb.FlowChange{endOf(k, buspb.FlowEnd_OUTCOME_LIMIT, 0, nil), endOf(k, bad, 3, nil)}
		}, flows.Errored},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, order := range orders(len(c.facts(flows.Key{}))) {
				w := newWorld(t)
				n := w.node()
				key := w.start()
				facts := c.facts(key)
				for _, i := range order {
					if err := w.ledger.Propose(body(facts[i])); err != nil {
						t.Fatal(err)
					}
				}
				if f := n.flow(key); f.State != c.want {
					t.Errorf("order %v: %s (%s), want %s", order, f.State, f.Error, c.want)
				}
			}
		})
	}
}

// orders are all permutations of 0 … n-1.
func orders(n int) [][]int {
	if n == 0 {
		return [][]int{{}}
	}
	var out [][]int
	for _, o := range orders(n - 1) {
		for at := 0; at <= len(o); at++ {
			p := append(append(append([]int{}, o[:at]...), n-1), o[at:]...)
			out = append(out, p)
		}
	}
	return out
}

func TestWaitingEndsAfterTenMinutesWithTheRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n, other := w.node(), w.node()
		key := w.start()
		n.send(rows(key, procs, 0, 2), rows(key, procs, 5, 2), done(key, 9))
		n.want(key, flows.Waiting)
		if m, err := n.PlanExpire(time.Now()); err != nil || len(m) != 0 {
			t.Fatalf("expires at once: %v, %v", m, err)
		}
		if err := w.ledger.Propose(body(expire(key))); err != nil { // a master with a fast clock
			t.Fatal(err)
		}
		n.want(key, flows.Waiting)
		time.Sleep(11 * time.Minute)
		m, err := n.PlanExpire(time.Now())
		if err != nil || len(m) != 1 {
			t.Fatalf("planned %v, %v", m, err)
		}
		if err := w.ledger.Propose(m[0]); err != nil {
			t.Fatal(err)
		}
		f := n.want(key, flows.Incomplete)
		if !strings.Contains(f.Error, "Linux.Sys.Pslist rows 2-4") || !strings.Contains(f.Error, "4 rows of 9 rows") {
			t.Errorf("error %q", f.Error)
		}
		other.send(rows(key, procs, 2, 3))
		n.want(key, flows.Incomplete)
		other.send(rows(key, procs, 7, 2))
		time.Sleep(5 * time.Second) // coverage is not told with each packet
		if err := other.TellDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.deliver()
		n.want(key, flows.Completed)
		w.stored(key, "Linux.Sys.Pslist", 9)
	})
}

// A client that claims rows without end and sends one in each packet makes few
// entries, and none after a day.
func TestRowsAfterTheEndAreToldNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		stop := n.runs(t)
		defer stop()
		key := w.start()
		n.send(done(key, 1_000_000_000))
		before := len(w.ledger.Entries())
		const packets = 100
		for i := range packets {
			n.send(rows(key, procs, 2*i, 1))
		}
		if got := len(w.ledger.Entries()) - before; got != 1 {
			t.Errorf("%d entries for rows of one moment", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		w.deliver()
		if f := n.want(key, flows.Waiting); f.Rows() != packets {
			t.Errorf("%d rows are told of", f.Rows())
		}
		if got := len(w.ledger.Entries()) - before; got != 2 {
			t.Errorf("%d entries in all", got)
		}
		time.Sleep(time.Hour)
		if err := w.ledger.Propose(body(expire(key))); err != nil {
			t.Fatal(err)
		}
		n.want(key, flows.Incomplete)
		time.Sleep(24 * time.Hour)
		n.send(rows(key, procs, 1, 1))
		if got := len(w.disk.Appends(results(key, "Linux.Sys.Pslist"))); got != packets {
			t.Errorf("%d batches stored", got)
		}
	})
}

func TestPlanStartRefuses(t *testing.T) {
	twice := func(s *flows.Start) {
		s.Request.VqlClientActions = append(s.Request.VqlClientActions, s.Request.VqlClientActions[0])
	}
	cases := map[string]func(*flows.Start){
		"no client":             func(s *flows.Start) { s.Clients = nil },
		"zero client":           func(s *flows.Start) { s.Clients = []ids.Client{{}} },
		"no request":            func(s *flows.Start) { s.Request = nil },
		"no query":              func(s *flows.Start) { s.Request.VqlClientActions = nil },
		"no statement":          func(s *flows.Start) { s.Request.VqlClientActions[0].Query = nil },
		"name of nothing":       func(s *flows.Start) { delete(s.Names, procs) },
		"name in two requests":  twice,
		"two names, one result": func(s *flows.Start) { s.Names[mounts] = s.Names[procs] },
		"empty result":          func(s *flows.Start) { s.Names[procs] = "" },
		"result with controls":  func(s *flows.Start) { s.Names[procs] = "a\nb" },
		"monitoring session":    func(s *flows.Start) { s.Flow = ids.Monitoring },
		"too large":             func(s *flows.Start) { s.Request.VqlClientActions[0].Query[0].Vql = noise(600 << 10) },
	}
	for name, change := range cases {
		s := request()
		s.Clients = []ids.Client{clientID(t, "C.00000000000000a1")}
		change(&s)
		if m, _, err := flows.PlanStart(s); !errors.Is(err, flows.ErrInvalid) || m != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// noise is text that does not compress well.
func noise(n int) string {
	var b strings.Builder
	for i := uint64(1); b.Len() < n; i++ {
		fmt.Fprintf(&b, "%016x", i*0x9e3779b97f4a7c15)
	}
	return b.String()
}

func TestRequestLeavesTheStateWithTheLastTask(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start(func(s *flows.Start) { s.Clients = append(s.Clients, clientID(t, "C.00000000000000a2")) })
	has := func() bool {
		text, err := flowstest.Dump(n.Table)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(text, `"request"`)
	}
	n.send(rows(key, procs, 0, 1))
	if !has() {
		t.Fatal("request went while another client's task is pending")
	}
	if err := w.ledger.Propose(body(cancel(flows.Key{Client: clientID(t, "C.00000000000000a2"), Flow: key.Flow}))); err != nil {
		t.Fatal(err)
	}
	if has() {
		t.Error("request stays though no task is pending")
	}
}

func TestListPages(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	var keys []flows.Key
	for range 5 {
		keys = append(keys, w.start())
	}
	page := n.List(ids.RootOrg, w.client, ids.Flow{}, 2)
	if len(page) != 2 || page[0].Flow != keys[4].Flow || page[1].Flow != keys[3].Flow {
		t.Fatalf("first page %v", page)
	}
	page = n.List(ids.RootOrg, w.client, page[1].Flow, 0)
	if len(page) != 3 || page[2].Flow != keys[0].Flow {
		t.Errorf("rest %v", page)
	}
	if got := n.List(ids.RootOrg, clientID(t, "C.00000000000000ff"), ids.Flow{}, 0); got != nil {
		t.Errorf("flows of a stranger: %v", got)
	}
}

func TestCancel(t *testing.T) {
	errored := func(k flows.Key, n int64) *wirepb.VeloMessage {
		return complete(k, status(wirepb.VeloStatus_GENERIC_ERROR, n, "Cancelled"))
	}
	t.Run("running", func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		n.send(rows(key, procs, 0, 2))
		m, err := n.PlanCancel(key, "ada")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.ledger.Propose(m); err != nil {
			t.Fatal(err)
		}
		if f := n.want(key, flows.Cancelled); f.Error != "cancelled by ada" || !f.CancelDue {
			t.Errorf("error %q, due %v", f.Error, f.CancelDue)
		}
		n.send(rows(key, procs, 2, 2), errored(key, 5))
		if f := n.want(key, flows.Cancelled); f.Error != "cancelled by ada" || f.CancelDue || f.Rows() != 4 {
			t.Errorf("error %q, due %v, %d rows", f.Error, f.CancelDue, f.Rows())
		}
		if _, err := n.PlanCancel(key, "ada"); !errors.Is(err, flows.ErrFinished) {
			t.Errorf("cancelled again: %v", err)
		}
	})
	t.Run("too late", func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		if err := w.ledger.Propose(body(cancel(key))); err != nil {
			t.Fatal(err)
		}
		n.send(rows(key, procs, 0, 2), done(key, 2))
		n.want(key, flows.Completed)
	})
	t.Run("client never had it", func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		if err := w.ledger.Propose(body(cancel(key))); err != nil {
			t.Fatal(err)
		}
		a := n.Attach(key.Org, key.Client)
		defer a.Close()
		n.send(forgot(wantNext(t, a, "cancel ask1"))...)
		if f := n.want(key, flows.Cancelled); f.CancelDue {
			t.Error("the cancel is still due")
		}
		if got := a.Next(); got != nil {
			t.Errorf("client is told %q", kinds(got))
		}
	})
}
