package flows_test

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// inquirer is a node and the answers that came to it.
type inquirer struct {
	*node
	heard []flows.Heard
}

func (w *world) inquirer(change ...func(*flows.Options)) *inquirer {
	w.t.Helper()
	q := &inquirer{}
	q.node = w.node(append(change, func(o *flows.Options) {
		o.Heard = func(h flows.Heard) { q.heard = append(q.heard, h) }
	})...)
	return q
}

func (q *inquirer) inquire(asked uint64, expired func()) ids.Hunt {
	q.world.t.Helper()
	request, err := flows.PackRequest(&wirepb.FlowRequest{VqlClientActions: []*wirepb.VQLCollectorArgs{{Query: []*wirepb.VQLRequest{{Vql: "SELECT 1", Name: procs}}}}})
	if err != nil {
		q.world.t.Fatal(err)
	}
	hunt := ids.NewHunt(time.Unix(1_700_000_000, 0))
	q.Inquire(flows.Inquiry{Client: q.world.client, Hunt: hunt, Asked: asked, Request: request, Expired: expired})
	return hunt
}

// heardOne is the only answer that came.
func (q *inquirer) heardOne() flows.Heard {
	q.world.t.Helper()
	if len(q.heard) != 1 {
		q.world.t.Fatalf("%d answers came, want one", len(q.heard))
	}
	return q.heard[0]
}

func TestInquiryIsHandedOutOnceAndItsAnswerPassedOn(t *testing.T) {
	w := newWorld(t)
	n := w.inquirer()
	a := w.attach(n.node)
	defer a.Close()
	hunt := n.inquire(77, func() { t.Error("expired") })
	woken(t, a)
	told := a.Next()
	if len(told) != 1 || told[0].FlowRequest == nil || told[0].Urgent {
		t.Fatalf("the client was told %v", told)
	}
	if again := a.Next(); len(again) != 0 {
		t.Fatalf("told again: %v", again)
	}
	key := flows.Key{Client: w.client, Flow: flowOf(t, told[0])}
	if h, asked, ok := key.Flow.Question(); !ok || h != hunt || asked != 77 {
		t.Fatalf("%s asks for %s at %d", key.Flow, h, asked)
	}
	n.send(rows(key, procs, 0, 2), logLines(key, 0, "working"))
	n.send(rows(key, procs, 0, 2)) // again
	n.send(rows(key, procs, 2, 1), done(key, 3))
	h := n.heardOne()
	if got := string(bytes.Join(h.Rows, []byte("|"))); got != `{"n":0}|{"n":1}|{"n":2}` || !h.Whole || h.Count != 3 || h.Error != "" || h.Hunt != hunt || h.Asked != 77 {
		t.Errorf("heard %+v: %s", h, got)
	}
	if sets := w.disk.Sets(); len(sets) != 0 {
		t.Errorf("of an answer there is stored: %v", sets)
	}
}

func TestAnswerMayComeToAnotherNode(t *testing.T) {
	w := newWorld(t)
	n, other, third := w.inquirer(), w.inquirer(), w.inquirer()
	a := w.attach(n.node)
	defer a.Close()
	n.inquire(5, func() {})
	key := flows.Key{Client: w.client, Flow: flowOf(t, a.Next()[0])}
	other.send(rows(key, procs, 0, 1), done(key, 1))
	if h := other.heardOne(); !h.Whole || len(h.Rows) != 1 || len(n.heard) != 0 {
		t.Errorf("heard %+v", h)
	}
	other.send(rows(key, procs, 0, 4))
	third.send(done(key, 4))
	if h := third.heardOne(); h.Whole || h.Count != 4 || len(h.Rows) != 0 {
		t.Errorf("an answer in two pieces was heard as %+v", h)
	}
}

func TestAnswersHaveBounds(t *testing.T) {
	w := newWorld(t)
	n := w.inquirer()
	a := w.attach(n.node)
	defer a.Close()
	n.inquire(5, func() {})
	key := flows.Key{Client: w.client, Flow: flowOf(t, a.Next()[0])}
	big := rows(key, procs, 0, 1)
	big.VqlResponse.JsonlResponse = `{"n":"` + strings.Repeat("x", 70<<10) + "\"}\n"
	n.send(big, done(key, 1))
	if h := n.heardOne(); h.Count != 1 || len(h.Rows) != 0 || !strings.Contains(h.Error, "64 KiB") {
		t.Errorf("heard %+v", h)
	}
	n.heard = nil
	broken := rows(key, procs, 0, 1)
	broken.VqlResponse.JsonlResponse = "[1]\n"
	n.send(broken, complete(key, status(wirepb.VeloStatus_GENERIC_ERROR, 0, "no such plugin")))
	if h := n.heardOne(); h.Error != "no such plugin" {
		t.Errorf("heard %+v", h)
	}
}

func TestInquiryThatNobodyAnswersExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.inquirer()
		var expired atomic.Int32
		n.inquire(5, func() { expired.Add(1) })
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1) // one answer
		go func() { ended <- n.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if expired.Load() != 0 {
			t.Error("expired at once")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := expired.Load(); n != 1 {
			t.Errorf("expired %d times", n)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// What a person asks for goes before what hunts want, also where the client has as many
// flows as it may.
func TestCollectionsOvertakeHunts(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	a := w.attach(n)
	defer a.Close()
	for range 4 {
		w.start(func(s *flows.Start) { s.Hunt = ids.NewHunt(time.Now()) })
	}
	if got := len(a.Next()); got != 2 {
		t.Fatalf("%d flows of hunts were handed out to a client that runs 2 at a time", got)
	}
	mine := w.start()
	told := a.Next()
	if len(told) != 1 || told[0].SessionId != mine.Flow.String() {
		t.Errorf("told %v, want the collection", told)
	}
}

func flowOf(t *testing.T, m *wirepb.VeloMessage) ids.Flow {
	t.Helper()
	flow, err := ids.ParseFlow(m.SessionId)
	if err != nil {
		t.Fatal(err)
	}
	return flow
}
