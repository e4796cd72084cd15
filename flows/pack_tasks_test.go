package flows_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/flows"
	"raptorpack/proto/wirepb"
)

// hurry lets the node do what its goroutines have to do, without the ledger.
func (p *pack) hurry() { synctest.Wait() }

func running(key flows.Key) *wirepb.VeloMessage {
	return progress(key, status(wirepb.VeloStatus_PROGRESS, 0, ""))
}

// A client that takes a task from one node may be at another before that one has
// heard of the task at all. It would run it twice.
func TestTaskIsNotHandedOutTwiceByANodeThatIsBehind(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		at := a.attach()
		key := p.collect()
		p.must(a.follower.CatchUp())
		wantNext(t, at, "start")
		at.Close()

		moved := b.Attach(key.Org, key.Client) // b has applied nothing of this, or is just catching up
		defer moved.Close()
		asked := moved.Next()
		p.deliver()
		if kinds(asked) == "" {
			asked = moved.Next()
		}
		if got := kinds(asked); got != "ask1" {
			t.Errorf("the node says %q, want a question", got)
		}
		b.give(running(key))
		p.want(key, flows.Running)
		wantNext(t, moved, "")
		a.give(forgot(asked)...) // from before the client had it
		p.want(key, flows.Running)
	}, "a", "b")
}

func TestTaskGoesAtOnceToAConnectionThatIsOlderEverywhere(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		at := p.nodes[1].attach()
		defer at.Close()
		p.started()
		wantNext(t, at, "start")
	}, "a", "b")
}

// Nobody can say where the ledger stands: the node asks, and delivers then.
func TestTaskIsAskedAboutWhileNobodyLeads(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		away := errors.New("nobody leads")
		m := p.launch("c", func(o *flows.Options) { o.Fresh = func(context.Context) error { return away } })
		at := m.attach()
		defer at.Close()
		p.started()
		asked := wantNext(t, at, "ask1")
		m.take(forgot(asked)...) // over the connection that asked: no entry is needed
		p.hurry()
		wantNext(t, at, "start")
		wantNext(t, at, "")
	})
}

// Rows under a flow that this node does not know are neither refused nor lost
// while nobody can say whether it exists.
func TestRowsOfAnUnknownFlowWaitForTheMaster(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		away := errors.New("nobody leads")
		m := p.launch("c", func(o *flows.Options) { o.Fresh = func(context.Context) error { return away } })
		key := p.collect()
		mustErr(t, m.try(rows(key, procs, 0, 5)), flows.ErrTryAgain)
		wantLetters(t, p, "")
		p.must(m.follower.CatchUp())
		m.give(rows(key, procs, 0, 5), done(key, 5))
		p.want(key, flows.Completed)
	})
}

// Over HTTP each question ends its poll, the answer goes to any node, and the next
// poll to any other. Exactly one hands the task out.
func TestTaskOverPollsIsHandedOutOnce(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b, c := p.nodes[0], p.nodes[1], p.nodes[2]
		key := p.started()
		poll := a.attach()
		asked := wantNext(t, poll, "ask1")
		poll.Close()
		b.give(forgot(asked)...)
		next := c.attach()
		defer next.Close()
		wantNext(t, next, "")
		p.hurry()
		wantNext(t, next, "") // not before the ledger says that c may
		p.deliver()
		wantNext(t, next, "start")
		p.want(key, flows.Pending)
		b.give(forgot(asked)...) // sent again, for its answer was lost
		other := a.attach()
		defer other.Close()
		wantNext(t, other, "ask1")
		p.deliver()
		wantNext(t, other, "")
		wantNext(t, next, "")
	}, "a", "b", "c")
}

// Two nodes believe that they have the client, both may offer, one wins.
func TestTwoNodesOfferAndOneHandsOut(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b, c := p.nodes[0], p.nodes[1], p.nodes[2]
		p.started()
		poll := c.attach()
		asked := wantNext(t, poll, "ask1")
		poll.Close()
		c.give(forgot(asked)...)
		first, second := a.attach(), b.attach()
		defer first.Close()
		defer second.Close()
		wantNext(t, first, "")
		wantNext(t, second, "")
		p.hurry()
		p.deliver()
		told := []string{kinds(first.Next()), kinds(second.Next())}
		slices.Sort(told)
		if told[0] != "ask1" || told[1] != "start" {
			t.Errorf("they are told %q, want one start", told)
		}
	}, "a", "b", "c")
}

// The client took the task and sent rows to a node whose facts are on their way
// still, forgot it, and comes to another node.
func TestTaskOfWhichAnyNodeTookAMessageIsNeverSentAgain(t *testing.T) {
	for _, dies := range []bool{false, true} {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			at := a.attach()
			key := p.started()
			wantNext(t, at, "start")
			a.take(rows(key, procs, 0, 5)) // durable; the fact waits in the outbox
			at.Close()
			if dies {
				p.kill(a)
			}
			moved := b.attach()
			defer moved.Close()
			b.take(forgot(wantNext(t, moved, "ask1"))...)
			p.hurry()
			time.Sleep(5 * time.Second)
			wantNext(t, moved, "")
			p.must(b.outbox.Deliver(9))
			p.must(b.follower.CatchUp())
			if dies {
				p.bury(a)
			}
			p.deliver()
			p.want(key, flows.Running)
			time.Sleep(2 * time.Minute)
			b.give(forgot(wantNext(t, moved, "ask1"))...)
			if f := p.want(key, flows.Errored); f.Rows() != 5 {
				t.Errorf("errored with %d rows, want the 5 it has", f.Rows())
			}
			wantNext(t, moved, "")
			p.rows(key, pslist, 5)
		}, "a", "b")
	}
}

// withoutUntold is a node that cannot see what others have not told yet.
func withoutUntold(o *flows.Options) { o.Untold = nil }

// What a node took itself it needs nobody to tell, and does not forget before the
// ledger knows.
func TestNodeRemembersWhatItTookUntilTheLedgerKnows(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		m := p.launch("c", withoutUntold)
		key := p.started()
		at := m.attach()
		asked := wantNext(t, at, "ask1")
		m.take(rows(key, procs, 0, 5)) // nobody leads: the fact stays in the outbox
		at.Close()
		time.Sleep(40 * time.Minute)
		again := m.attach()
		defer again.Close()
		wantNext(t, again, "") // it runs
		time.Sleep(2 * time.Minute)
		m.take(forgot(asked)...)
		m.take(forgot(wantNext(t, again, "ask1"))...)
		p.hurry()
		wantNext(t, again, "")
		p.deliver()
		p.want(key, flows.Running)
		wantNext(t, again, "")
	})
}

// The answer to the question of a poll that is over says nothing about the poll
// that is open now: the client may have been elsewhere in between.
func TestAnswerToAnEarlierPollIsNotThatOfThisOne(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.launch("c", withoutUntold), p.nodes[0]
		p.started()
		poll := a.attach()
		old := wantNext(t, poll, "ask1")
		poll.Close()
		at := b.attach()
		b.take(forgot(wantNext(t, at, "ask1"))...)
		p.hurry()
		wantNext(t, at, "start") // and the ledger hears of it later
		at.Close()
		back := a.attach()
		defer back.Close()
		wantNext(t, back, "ask1")
		a.take(forgot(old)...)
		p.hurry()
		wantNext(t, back, "")
	}, "a")
}

// The right to hand a task out is for the connections that are there when it comes.
func TestOfferIsNotForConnectionsThatComeLater(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		p.started()
		poll := b.attach()
		asked := wantNext(t, poll, "ask1")
		poll.Close()
		b.give(forgot(asked)...)
		gone := a.attach()
		wantNext(t, gone, "")
		p.hurry()
		p.deliver() // a may hand it out now
		gone.Close()
		at := b.attach()
		b.take(forgot(wantNext(t, at, "ask1"))...)
		p.hurry()
		wantNext(t, at, "start")
		at.Close()
		back := a.attach()
		defer back.Close()
		wantNext(t, back, "")
		p.hurry()
		wantNext(t, back, "") // b's offer is seen in its outbox
		p.deliver()
		wantNext(t, back, "ask1")
	}, "a", "b")
}

// poll is one poll over HTTP of a client that has the flows of known: the first
// answer ends it, and then the client says what it has to say.
func (m *member) poll(known map[string]int) {
	at := m.attach()
	var told []*wirepb.VeloMessage
	for range 3 {
		if told = at.Next(); len(told) > 0 {
			break
		}
		m.pack.hurry()
		m.pack.deliver()
	}
	at.Close()
	var says []*wirepb.VeloMessage
	for _, message := range told {
		if message.FlowRequest != nil {
			known[message.SessionId]++
			says = append(says, running(m.pack.key(message.SessionId)))
		}
	}
	for _, answer := range forgot(told) {
		if known[answer.SessionId] > 0 {
			answer = running(m.pack.key(answer.SessionId))
		}
		says = append(says, answer)
	}
	m.give(says...)
}

func (p *pack) key(flow string) flows.Key { return flows.Key{Client: p.client, Flow: mustFlow(flow)} }

// An offer that won when its poll was over already is not wasted: nobody else had
// the client since.
func TestOfferThatWonTooLateIsForTheNextPoll(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a := p.nodes[0]
		p.started()
		poll := a.attach()
		asked := wantNext(t, poll, "ask1")
		poll.Close()
		a.give(forgot(asked)...)
		gone := a.attach()
		wantNext(t, gone, "")
		p.hurry()
		gone.Close()
		p.deliver()
		next := a.attach()
		wantNext(t, next, "")
		p.hurry()
		wantNext(t, next, "start")
		next.Close()
		after := a.attach()
		defer after.Close()
		wantNext(t, after, "ask1") // it was handed out
	}, "a", "b")
}

// Each question ends a poll. Of several tasks none may keep the others from being
// handed out by asking all the time, wherever the polls go.
func TestManyTasksOverPollsAreAllHandedOut(t *testing.T) {
	for _, nodes := range [][]string{{"a"}, {"a", "b", "c"}} {
		inPack(t, func(t *testing.T, p *pack) {
			known := map[string]int{}
			keys := []flows.Key{p.started()}
			p.nodes[0].poll(known) // it is asked about the first
			keys = append(keys, p.started(), p.started())
			for i := range 12 {
				p.nodes[(i+1)%len(p.nodes)].poll(known)
			}
			for _, key := range keys {
				if n := known[key.Flow.String()]; n != 1 {
					t.Errorf("a flow was handed out %d times, want once", n)
				}
			}
		}, nodes...)
	}
}

// The node that has the reader hears by the ledger of what others take.
func TestFlowThatTalksToAnotherNodeIsNotAskedAbout(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		at := a.attach()
		defer at.Close()
		key := p.started()
		wantNext(t, at, "start")
		time.Sleep(50 * time.Second)
		b.give(rows(key, procs, 0, 1))
		time.Sleep(20 * time.Second)
		wantNext(t, at, "")
		time.Sleep(50 * time.Second)
		wantNext(t, at, "ask1")
	}, "a", "b")
}

// An answer to an older question does not say that a flow is lost which the client
// got since.
func TestOldAnswerDoesNotEndAFlow(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		key := p.started()
		poll := a.attach()
		asked := wantNext(t, poll, "ask1")
		poll.Close()
		again := b.attach()
		defer again.Close()
		b.give(forgot(wantNext(t, again, "ask1"))...)
		wantNext(t, again, "start")
		b.give(running(key))
		a.take(forgot(asked)...) // its post hung at this node all the time
		if n := a.outbox.Len(); n > 0 {
			t.Errorf("an old answer makes %d entries", n)
		}
		p.must(p.ledger.Propose(body(lost(key, 1, "a")))) // nor would it count
		p.want(key, flows.Running)

		m, err := p.master.PlanCancel(key, "ada")
		p.must(err)
		p.must(p.ledger.Propose(m))
		a.give(forgot(asked)...)
		if f := p.want(key, flows.Cancelled); !f.CancelDue {
			t.Error("an old answer counts as the confirmation of a cancel")
		}
		p.deliver()
		b.give(forgot(wantNext(t, again, "cancel ask1"))...)
		if f := p.want(key, flows.Cancelled); f.CancelDue {
			t.Error("the cancel is still due")
		}
	}, "a", "b")
}

// Packets are cut anywhere: the answer counts with either of the ids around it.
func TestAnswersAreFoundInPacketsThatAreCutAnywhere(t *testing.T) {
	for _, cut := range []struct{ from, to int }{{0, 3}, {0, 2}, {1, 3}} {
		inPack(t, func(t *testing.T, p *pack) {
			a := p.nodes[0]
			p.started()
			at := a.attach()
			defer at.Close()
			answers := forgot(wantNext(t, at, "ask1"))
			a.take(answers[cut.from:cut.to]...)
			a.take(append(answers[:cut.from:cut.from], answers[cut.to:]...)...)
			p.deliver()
			wantNext(t, at, "start")
			wantLetters(t, p, "")
		}, "a")
	}
}

// What is said to a client goes with it.
func TestNothingIsRememberedOfClientsThatLeft(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		_, key, other := p.started(), p.started(), p.started()
		at := a.attach()
		asked := wantNext(t, at, "ask3")
		a.give(rows(key, procs, 0, 5), running(other))
		a.give(forgot(asked)...)
		at.Close()
		p.deliver()
		time.Sleep(21 * time.Minute)
		p.deliver()
		time.Sleep(11 * time.Minute)
		p.deliver()
		if visits, errands, locals := a.Soft(); visits+errands+locals != 0 {
			t.Errorf("a client that left half an hour ago has %d visits, %d errands, %d flows in memory", visits, errands, locals)
		}
		// What was stored here is stored here again, and shown once.
		a.give(rows(key, procs, 0, 5))
		b.give(rows(key, procs, 5, 5), done(key, 10))
		p.want(key, flows.Completed)
		p.rows(key, pslist, 10)
	}, "a", "b")
}

// A limit on rows holds for the pack, and a resend to another node breaks none.
func TestRowLimitHoldsForThePack(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		limit := func(s *flows.Start) { s.Limits.Rows = 10 }
		fair, greedy := p.started(limit), p.started(limit)
		at := a.attach()
		a.give(rows(fair, procs, 0, 8), rows(greedy, procs, 0, 8))
		at.Close()
		p.deliver()
		b.give(rows(fair, procs, 5, 5), rows(greedy, procs, 8, 5))
		b.give(done(fair, 10))
		p.want(fair, flows.Completed)
		if f := p.want(greedy, flows.Errored); f.Error != "limit of 10 rows exceeded" {
			t.Errorf("error %q", f.Error)
		}
	}, "a", "b")
}
