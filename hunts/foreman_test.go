package hunts_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// post is a node's foreman with its connections and outbox.
type post struct {
	*hunts.Foreman
	w *world

	mu        sync.Mutex
	here      []ids.Client
	failures  int
	sent      int
	questions []hunts.Question
	forward   func(hunts.Question) // nil: questions are only kept
}

var errOutbox = errors.New("no outbox")

func newPost(w *world, here ...int) *post {
	p := &post{w: w, here: idsOf(here...)}
	p.Foreman = hunts.NewForeman(hunts.ForemanOptions{
		Room: w.Room, Tell: p.send,
		Here:   func(ids.Org) iter.Seq[ids.Client] { return slices.Values(p.here) },
		IsHere: func(_ ids.Org, c ids.Client) bool { return slices.Contains(p.here, c) },
		Ask:    p.ask, Index: func() uint64 { return w.index },
	})
	return p
}

func (p *post) send(ctx context.Context, all []*buspb.Mutation) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failures > 0 {
		p.failures--
		return errOutbox
	}
	p.sent += len(all)
	return p.w.tell(ctx, all)
}

func (p *post) ask(q hunts.Question) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.questions = append(p.questions, q)
	if p.forward != nil {
		p.forward(q)
	}
}

// reply answers a question, as any node would.
func (p *post) reply(q hunts.Question, yes bool) { p.Answer(q.Key, q.Client, q.Asked, yes) }

// running runs test with the foreman inside a bubble.
func (p *post) running(t *testing.T, test func(settle func())) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1) // one answer
	go func() { done <- p.Run(ctx) }()
	test(func() {
		time.Sleep(10 * time.Second)
		synctest.Wait()
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestForemanMatchesLabelsAndSystem(t *testing.T) {
	w := newWorld(t, 5)
	for i, system := range []string{"linux", "windows", "linux", "linux", ""} {
		w.must(t)(w.clients.PlanInfo(ids.RootOrg, id(i), []byte(`{"hostname":"h","system":"`+system+`"}`), ids.Flow{}, nil))
	}
	w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(0, 1, 2), []string{"Prod"}, nil))
	w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(2), []string{"fragile"}, nil))
	conditions := hunts.Conditions{OS: "linux", Include: []string{"prod", "lab"}, Exclude: []string{"Fragile"}}
	k := w.create(t, func(c *hunts.Create) { c.Conditions = conditions })
	w.create(t, func(c *hunts.Create) { c.Conditions.OnlyAdded = true })
	p := newPost(w)
	wants := func(who int) bool { return len(p.Match(ids.RootOrg, id(who))) == 1 }
	for who, want := range []bool{true, false, false, false, false} {
		for range 2 { // the second time from memory
			if wants(who) != want {
				t.Errorf("client %d wanted: %v", who, !want)
			}
		}
	}
	w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(3), []string{"LAB"}, nil))
	w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(0), []string{"fragile"}, nil))
	if wants(0) || !wants(3) {
		t.Error("a label is not seen")
	}
	w.nominate(t, k, 3)
	if wants(3) || wants(17) {
		t.Error("wants who is pending, or nobody")
	}
	w.must(t)(w.PlanPause(k, "", noon))
	w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(0), nil, []string{"fragile"}))
	if wants(0) {
		t.Error("a paused hunt recruits")
	}
	w.must(t)(w.PlanStart(k, "", noon))
	if !wants(0) {
		t.Error("a hunt that goes on does not recruit")
	}
	for _, query := range []hunts.Conditions{conditions, {OS: "linux", Include: []string{"prod", "lab", "x*"}, Exclude: []string{"Fragile"}}} {
		w.clients.SetOnline(ids.RootOrg, id(3), true)
		e, err := w.Estimate(ids.RootOrg, query, noon)
		if err != nil || e != (hunts.Estimate{Matching: 2, Online: 1}) {
			t.Errorf("estimate %+v, %v", e, err)
		}
	}
	if e, err := w.Estimate(ids.RootOrg, hunts.Conditions{}, noon); err != nil || e.Matching != 5 {
		t.Errorf("estimate of all %+v, %v", e, err)
	}
}

// Clients that are connected are found when a hunt starts and when they change, each
// told once, also when the outbox fails for a while.
func TestForemanTellsEachOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1200)
		all := make([]int, 1100)
		for i := range all {
			all[i] = i
		}
		p := newPost(w, all...)
		p.failures = 2
		k := w.create(t)
		p.running(t, func(settle func()) {
			settle()
			w.counts(t, k, 1100, 0, 0, 0, 0, 0, 0)
			p.Arrived(ids.RootOrg, id(5))
			p.Arrived(ids.RootOrg, id(1150))
			p.Arrived(ids.RootOrg, id(1150))
			settle()
			if w.counts(t, k, 1101, 0, 0, 0, 0, 0, 0); p.sent != 4 {
				t.Errorf("%d mutations for 1101 clients", p.sent)
			}
			only := w.create(t, func(c *hunts.Create) { c.Conditions.Include = []string{"x"} })
			settle()
			w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(7, 1199), []string{"x"}, nil))
			settle()
			w.counts(t, only, 1, 0, 0, 0, 0, 0, 0) // 1199 is not connected here
		})
	})
}

// Whatever a foreman is looking at when a client changes, it finds the client by what
// it is in the end.
func TestForemanMissesNoChange(t *testing.T) {
	w := newWorld(t, 1)
	w.create(t, func(c *hunts.Create) { c.Conditions.Include = []string{"x"} })
	p := newPost(w)
	for i := range 300 {
		var looking sync.WaitGroup
		for range 2 {
			looking.Go(func() { p.Match(ids.RootOrg, id(0)) })
		}
		add, remove := []string{"x"}, []string(nil)
		if i%2 == 1 {
			add, remove = remove, add
		}
		w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(0), add, remove))
		looking.Wait()
		if wanted := len(p.Match(ids.RootOrg, id(0))) == 1; wanted != (i%2 == 0) {
			t.Fatalf("after change %d wanted: %v", i, wanted)
		}
	}
}

// A client whose condition must be asked is nominated or declined by its answer, and
// asked again when it changes, also while the question is out.
func TestForemanAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		p := newPost(w, 0, 1, 2, 3)
		k := w.create(t, func(c *hunts.Create) { c.Conditions.Condition, c.Conditions.ConditionRequest = "SELECT 1", []byte{1} })
		p.running(t, func(settle func()) {
			settle()
			if len(p.questions) != 4 || p.questions[0].Conditions.Condition != "SELECT 1" || p.questions[0].Key != k {
				t.Fatalf("%d questions", len(p.questions))
			}
			byClient := map[ids.Client]hunts.Question{}
			for _, q := range p.questions {
				byClient[q.Client] = q
			}
			for i := range 4 {
				p.Arrived(ids.RootOrg, id(i)) // a question is out
			}
			p.reply(byClient[id(0)], true)
			p.reply(byClient[id(1)], false)
			p.Unanswered(byClient[id(2)])
			w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(3), []string{"x"}, nil))
			settle()
			p.reply(byClient[id(3)], false) // of before the change
			settle()
			w.counts(t, k, 1, 0, 0, 0, 1, 0, 0)
			if n := len(p.questions); n != 6 || p.questions[4].Client != id(2) || p.questions[5].Client != id(3) {
				t.Fatalf("%d questions", n)
			}
			p.reply(p.questions[5], false)
			p.Arrived(ids.RootOrg, id(2)) // a question is out again
			w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(1), []string{"x"}, nil))
			settle()
			w.counts(t, k, 1, 0, 0, 0, 1, 0, 0)
			if n := len(p.questions); n != 7 {
				t.Errorf("%d questions", n)
			}
		})
	})
}

// leader is a master's manager in a bubble.
func leader(w *world, connected func(ids.Client) bool) *hunts.Manager {
	return hunts.NewManager(hunts.ManagerOptions{
		Room: w.Room, Flows: w.flows, Propose: w.Propose, Now: w.now,
		Connected: func(_ ids.Org, c ids.Client) bool { return connected(c) },
	})
}

// lead runs a manager for some time.
func lead(t *testing.T, w *world, d time.Duration) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	if err := leader(w, func(ids.Client) bool { return true }).Run(ctx); err != nil {
		t.Error(err)
	}
}

func everybody(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// Whoever leads, and however often that changes: within any time no more are admitted
// than the rate allows, and no fewer by much.
func TestRateHoldsAcrossFailOvers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2000)
		w.now = time.Now
		const rate = 300
		k := w.create(t, func(c *hunts.Create) { c.Rate = rate })
		w.nominate(t, k, everybody(2000)...)
		begin := time.Now()
		for i := range 40 {
			lead(t, w, time.Duration(i%7+1)*time.Second)
			if i%3 == 0 {
				fresh, err := w.restored()
				if err != nil {
					t.Fatal(err)
				}
				w.node = fresh
			}
		}
		var starts []time.Time
		for f := range w.flows.HuntFlows(k.Org, k.Hunt) {
			starts = append(starts, f.Created)
		}
		slices.SortFunc(starts, time.Time.Compare)
		for i, at := range starts {
			for _, within := range []time.Duration{0, time.Second, 10 * time.Second, time.Minute} {
				n := 0
				for _, later := range starts[i:] {
					if later.Sub(at) > within {
						break
					}
					n++
				}
				if most := int(rate*(within+time.Second)/time.Minute) + 1; n > most {
					t.Fatalf("%d admitted within %s, at most %d", n, within, most)
				}
			}
		}
		if least := int(rate * time.Since(begin) / time.Minute * 9 / 10); len(starts) < least {
			t.Errorf("%d admitted in %s, expected %d", len(starts), time.Since(begin), least)
		}
		w.must(t)(w.PlanEdit(k, hunts.Edit{Rate: to(int64(0))}, "", w.now()))
		lead(t, w, 5*time.Second)
		w.counts(t, k, 0, 2000, 0, 0, 0, 0, 0)
	})
}

// An old master's plans that come late exceed neither rate nor limit.
func TestTwoMastersExceedNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 500)
		w.now = time.Now
		k := w.create(t, func(c *hunts.Create) { c.Rate, c.Limit = 6000, 250 })
		w.nominate(t, k, everybody(500)...)
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { lead(t, w, 30*time.Second) })
		}
		time.Sleep(time.Second + time.Millisecond)
		if n := w.hunt(t, k).Counts.Joined(); n > 201 {
			t.Errorf("%d admitted within a second, at 100 a second", n)
		}
		both.Wait()
		w.counts(t, k, 250, 250, 0, 0, 0, 0, 0)
		w.must(t)(w.PlanEdit(k, hunts.Edit{Limit: to(int64(300))}, "", w.now()))
		lead(t, w, 30*time.Second)
		w.counts(t, k, 200, 300, 0, 0, 0, 0, 0)
	})
}

// Only who is connected is admitted, a hunt that is over expires, and what is left of
// one that was stopped for good or deleted is cleared up, all by the manager.
func TestManagerDoesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20)
		w.now = time.Now
		k := w.create(t, func(c *hunts.Create) { c.Expires = time.Now().Add(time.Minute) })
		w.nominate(t, k, everybody(20)...)
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		if err := leader(w, func(c ids.Client) bool { return c != id(3) }).Run(ctx); err != nil {
			t.Error(err)
		}
		w.counts(t, k, 1, 19, 0, 0, 0, 0, 0)
		w.must(t)(facts(ended(k, 0, 1, endedOK, 1, 1)), nil)
		time.Sleep(time.Minute)
		lead(t, w, 10*time.Second)
		if h := w.hunt(t, k); h.State != hunts.Expired || h.Counts[hunts.RunningClients] != 18 {
			t.Errorf("%s, %v", h.State, h.Counts)
		}
		w.must(t)(w.PlanStop(k, true, "ada", w.now()))
		lead(t, w, 10*time.Second)
		w.counts(t, k, 1, 0, 1, 18, 0, 0, 1)
		f, err := w.flows.Flow(flows.Key{Client: id(2), Flow: k.Hunt.Flow(0)})
		if err != nil || f.State != flows.Cancelled || f.CancelledBy != "ada" {
			t.Errorf("%+v, %v", f, err)
		}
		w.must(t)(w.PlanDelete(k, "ada", w.now()))
		lead(t, w, 20*time.Second)
		if _, err := w.Hunt(k); !errors.Is(err, hunts.ErrNotFound) || !w.Gone(k) || len(slices.Collect(w.flows.HuntFlows(k.Org, k.Hunt))) != 0 {
			t.Errorf("a deleted hunt is left: %v", err)
		}
		if gone := w.Deletions(); len(gone) != 1 || gone[0].Key != k || gone[0].Index == 0 {
			t.Errorf("deletions: %+v", gone)
		}
	})
}
