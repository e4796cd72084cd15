package flows_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

func (w *world) attach(n *node) *flows.Attachment {
	w.t.Helper()
	return n.Attach(ids.RootOrg, w.client)
}

func wantNext(t *testing.T, a *flows.Attachment, want string) []*wirepb.VeloMessage {
	t.Helper()
	got := a.Next()
	if kinds(got) != want {
		t.Fatalf("client is told %q, want %q", kinds(got), want)
	}
	return got
}

func woken(t *testing.T, a *flows.Attachment) {
	t.Helper()
	select {
	case <-a.Wake():
	default:
		t.Fatal("connection was not woken")
	}
}

func TestTaskGoesAtOnceToWhoHoldsTheConnection(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	a := w.attach(n)
	defer a.Close()
	wantNext(t, a, "")
	key := w.start()
	woken(t, a)
	if len(n.woken) != 1 || n.woken[0] != w.client {
		t.Errorf("woken %v", n.woken)
	}
	m := wantNext(t, a, "start")[0]
	if m.SessionId != key.Flow.String() || m.RequestId != 1 || m.Urgent || len(m.FlowRequest.VqlClientActions) != 1 || m.FlowRequest.LogBatchTime != 2000 {
		t.Errorf("message %v", m)
	}
	wantNext(t, a, "")
}

func TestTaskIsAskedAboutFirst(t *testing.T) {
	t.Run("older than the connection", func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		a := w.attach(n)
		defer a.Close()
		asked := wantNext(t, a, "ask1")
		wantNext(t, a, "")
		n.send(forgot(asked)...)
		n.want(key, flows.Pending)
		n.offer()
		woken(t, a)
		wantNext(t, a, "start")
		n.send(forgot(asked)...) // the same answer, resent: it must not deliver twice
		n.offer()
		wantNext(t, a, "")
		n.want(key, flows.Pending)
	})
	t.Run("known after all", func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		a := w.attach(n)
		defer a.Close()
		wantNext(t, a, "ask1")
		n.send(progress(key, status(wirepb.VeloStatus_PROGRESS, 0, "")))
		n.want(key, flows.Running)
		wantNext(t, a, "")
	})
	t.Run("after a broken connection", func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		a := w.attach(n)
		key := w.start()
		wantNext(t, a, "start")
		a.Close()
		if got := a.Next(); got != nil {
			t.Errorf("a closed connection is told %q", kinds(got))
		}
		b := w.attach(n)
		defer b.Close()
		n.send(forgot(wantNext(t, b, "ask1"))...)
		n.want(key, flows.Pending)
		n.offer()
		wantNext(t, b, "start")
	})
	t.Run("second connection beside the first", func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		a, b := w.attach(n), w.attach(n)
		defer a.Close()
		defer b.Close()
		w.start()
		wantNext(t, a, "start")
		wantNext(t, b, "ask1")
	})
	t.Run("answer came through another node", func(t *testing.T) {
		w := newWorld(t)
		holder, other := w.node(), w.node()
		w.start()
		a := w.attach(holder)
		defer a.Close()
		other.send(forgot(wantNext(t, a, "ask1"))...)
		woken(t, a)
		wantNext(t, a, "")
		holder.offer()
		wantNext(t, a, "start")
	})
	t.Run("answer that nobody asked for", func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		a := w.attach(n)
		defer a.Close()
		wantNext(t, a, "ask1")
		n.send(unknown(key))
		n.offer()
		wantNext(t, a, "")
	})
}

func TestTakenTaskIsNeverSentAgain(t *testing.T) {
	synctest.Test(t, takenTask)
}

func takenTask(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	a := w.attach(n)
	defer a.Close()
	key := w.start()
	wantNext(t, a, "start")
	n.send(rows(key, procs, 0, 1))
	a.Close()
	time.Sleep(time.Minute)
	b := w.attach(n)
	defer b.Close()
	time.Sleep(time.Minute)
	n.send(forgot(wantNext(t, b, "ask1"))...)
	f := n.want(key, flows.Errored)
	if f.Rows() != 1 || f.Error != "Flow not known" {
		t.Errorf("%d rows, error %q", f.Rows(), f.Error)
	}
	n.offer()
	wantNext(t, b, "")
	n.send(rows(key, procs, 1, 1), done(key, 2)) // it knew the flow after all
	n.want(key, flows.Completed)
}

func TestTaskThatNeverArrivesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		key := w.start()
		for range flows.MaxOffers {
			a := w.attach(n)
			n.send(forgot(wantNext(t, a, "ask1"))...)
			synctest.Wait()
			w.deliver()
			wantNext(t, a, "start")
			a.Close()
		}
		a := w.attach(n)
		defer a.Close()
		n.send(forgot(wantNext(t, a, "ask1"))...)
		if f := n.want(key, flows.Errored); !strings.Contains(f.Error, "handed out 4 times") {
			t.Errorf("error %q", f.Error)
		}
		wantNext(t, a, "")
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestConcurrencyBoundsTasks(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	a := w.attach(n)
	defer a.Close()
	var keys []flows.Key
	for range 6 {
		keys = append(keys, w.start())
	}
	w.start(func(s *flows.Start) { s.Urgent = true })
	wantNext(t, a, "start start start start start") // 2 + 2, and the urgent one
	wantNext(t, a, "")
	n.send(done(keys[0], 0), progress(keys[1]))
	woken(t, a)
	wantNext(t, a, "") // four in flight still, the urgent one among them
	n.send(done(keys[1], 0))
	wantNext(t, a, "start")
}

func TestOldTasksAreNotAskedAboutAllAtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	for range 50 {
		w.start()
	}
	a := w.attach(n)
	defer a.Close()
	wantNext(t, a, "ask4")
	wantNext(t, a, "")
}

func TestCancelNeverRidesWithItsRequest(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	a := w.attach(n)
	defer a.Close()
	key := w.start()
	if err := w.ledger.Propose(body(cancel(key))); err != nil {
		t.Fatal(err)
	}
	wantNext(t, a, "cancel ask1") // not sent yet: only the cancel, to be safe
	wantNext(t, a, "")
}

func TestSilentFlowIsAskedAboutOncePerSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		defer func() { stop(); <-ended }()
		a := w.attach(n)
		defer a.Close()
		key := w.start()
		<-a.Wake()
		wantNext(t, a, "start")
		n.send(progress(key, status(wirepb.VeloStatus_PROGRESS, 0, "")))
		began := time.Now()
		<-a.Wake()
		if gone := time.Since(began); gone < time.Minute || gone > 80*time.Second {
			t.Errorf("woken after %v", gone)
		}
		wantNext(t, a, "ask1")
		wantNext(t, a, "")
		n.send(progress(key, status(wirepb.VeloStatus_PROGRESS, 0, "")))
		time.Sleep(30 * time.Second)
		wantNext(t, a, "")
		time.Sleep(40 * time.Second)
		wantNext(t, a, "ask1")
		time.Sleep(61 * time.Second)
		wantNext(t, a, "ask1")
	})
}

func TestRestartedNodeAsksFirst(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	a := w.attach(n)
	key := w.start()
	wantNext(t, a, "start")
	w.ledger.Leave(n.Table, n.Events)
	again := w.node()
	b := w.attach(again)
	defer b.Close()
	wantNext(t, b, "ask1")
	again.send(rows(key, procs, 0, 3), done(key, 3))
	again.want(key, flows.Completed)
	wantNext(t, b, "")
	a.Close()
}

// TestOffersOfManyClientsAreOneCommit lets a fleet come back to its tasks: each client
// is asked, knows nothing, and nobody waits for the commits of others.
func TestOffersOfManyClientsAreOneCommit(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	full := errors.New("disk full")
	var back []*flows.Attachment
	for _, text := range []string{"C.00000000000000a1", "C.00000000000000a2", "C.00000000000000a3"} {
		w.client = clientID(t, text)
		w.start()
		a := w.attach(n)
		defer a.Close()
		n.send(forgot(wantNext(t, a, "ask1"))...)
		back = append(back, a)
	}
	n.committer.Before = func(context.Context, *filestore.Commit) error { return full }
	if err := n.MakeOffers(t.Context()); !errors.Is(err, full) {
		t.Fatalf("offers with a full disk: %v", err)
	}
	for _, a := range back {
		wantNext(t, a, "")
	}
	n.committer.Before = nil
	before := w.disk.Commits()
	n.offer()
	if commits := w.disk.Commits() - before; commits != 1 {
		t.Errorf("%d commits for %d offers, want 1", commits, len(back))
	}
	for _, a := range back {
		wantNext(t, a, "start")
	}
}
