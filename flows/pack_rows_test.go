package flows_test

import (
	"strings"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
)

const pslist = "Linux.Sys.Pslist"

// The client sends half to one node, loses it, and sends the rest and the end to
// another.
func TestRowsOfTwoNodesMakeOneFlow(t *testing.T) {
	t.Run("told when the connection leaves", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			at := a.attach()
			a.give(rows(key, procs, 0, 5))
			at.Close()
			p.deliver()
			if f := p.want(key, flows.Running); f.Rows() != 5 {
				t.Errorf("the ledger knows of %d rows when the connection has left, want 5", f.Rows())
			}
			b.give(rows(key, procs, 5, 5), done(key, 10))
			p.want(key, flows.Completed)
			p.rows(key, pslist, 10)
		}, "a", "b")
	})
	t.Run("its death is noticed late, or never", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			dead, live := a.attach(), b.attach()
			defer dead.Close()
			defer live.Close()
			a.give(rows(key, procs, 0, 5))
			b.take(rows(key, procs, 5, 5), done(key, 10))
			p.must(b.outbox.Deliver(9))
			p.want(key, flows.Waiting) // until a hears of the end
			p.deliver()
			p.want(key, flows.Completed)
			p.rows(key, pslist, 10)
		}, "a", "b")
	})
	t.Run("a node that only took posts", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			a.give(rows(key, procs, 0, 5))
			b.give(rows(key, procs, 5, 5), done(key, 10))
			p.want(key, flows.Completed)
		}, "a", "b")
	})
	t.Run("it dies instead", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			a.take(rows(key, procs, 0, 5))
			p.kill(a)
			b.give(rows(key, procs, 5, 5), done(key, 10))
			p.want(key, flows.Waiting)
			p.bury(a)
			p.deliver()
			p.want(key, flows.Completed)
			p.rows(key, pslist, 10)
		}, "a", "b")
	})
	t.Run("it dies after the client was given up", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			a.give(rows(key, procs, 0, 5))
			p.kill(a)
			at := b.attach()
			defer at.Close()
			time.Sleep(2 * time.Minute)
			b.give(forgot(wantNext(t, at, "ask1"))...)
			p.want(key, flows.Errored)
			p.bury(a)
			if f := p.want(key, flows.Errored); f.Rows() != 5 {
				t.Errorf("%d rows of a flow that its client lost, want the 5 that it sent", f.Rows())
			}
			b.give(rows(key, procs, 5, 5), done(key, 10)) // it was there after all
			p.want(key, flows.Completed)
		}, "a", "b")
	})
}

// The first node stored a batch and its answer was lost.
func TestBatchSentToTwoNodesIsShownOnce(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		key := p.started()
		a.take(rows(key, procs, 0, 5))
		b.take(rows(key, procs, 0, 5), rows(key, procs, 5, 3), done(key, 8))
		p.deliver()
		if f := p.want(key, flows.Completed); f.Rows() != 8 {
			t.Errorf("record counts %d rows, want 8", f.Rows())
		}
		if page := p.rows(key, pslist, 8); len(page.Conflicts) > 0 {
			t.Errorf("equal batches are called conflicts: %+v", page.Conflicts)
		}
		states, _, err := p.reader.Segments(t.Context(), results(key, pslist))
		p.must(err)
		if len(states) != 2 || states[0].Rows+states[1].Rows != 13 {
			t.Errorf("segments %+v, want both to have the batch", states)
		}
	}, "a", "b")
}

func TestBatchSentToTwoNodesWithOtherBytesIsFlagged(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		key := p.started()
		a.give(rows(key, procs, 0, 5))
		other := rows(key, procs, 0, 5)
		other.VqlResponse.JsonlResponse = strings.ReplaceAll(other.VqlResponse.JsonlResponse, "3", "7")
		b.give(other, done(key, 5))
		p.want(key, flows.Completed)
		page := p.rows(key, pslist, 5) // those of the first incarnation
		if len(page.Conflicts) != 1 {
			t.Fatalf("conflicts %+v", page.Conflicts)
		}
		text, err := p.reader.ConflictRows(t.Context(), results(key, pslist), page.Conflicts[0])
		if err != nil || !strings.Contains(string(text), `"n":7`) {
			t.Errorf("the other batch reads %q, %v", text, err)
		}
	}, "a", "b")
}

// The end comes twice, through two nodes, and "unknown" before or after it.
func TestEndsThroughTwoNodes(t *testing.T) {
	t.Run("twice the same", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			a.take(rows(key, procs, 0, 4), done(key, 6))
			b.take(rows(key, procs, 4, 2), done(key, 6))
			p.must(b.outbox.Deliver(9))
			p.want(key, flows.Waiting)
			p.deliver()
			if f := p.want(key, flows.Completed); f.Totals.Rows != 6 {
				t.Errorf("totals %+v", f.Totals)
			}
		}, "a", "b")
	})
	for _, first := range []string{"a", "b"} {
		t.Run("unknown to a, ended at b, "+first+" first", func(t *testing.T) {
			inPack(t, func(t *testing.T, p *pack) {
				a, b := p.nodes[0], p.nodes[1]
				key := p.started()
				b.give(rows(key, procs, 0, 4))
				at := a.attach()
				defer at.Close()
				time.Sleep(2 * time.Minute)
				a.take(forgot(wantNext(t, at, "ask1"))...)
				b.take(done(key, 4))
				order := []*member{a, b}
				if first == "b" {
					order = []*member{b, a}
				}
				for _, m := range order {
					p.must(m.outbox.Deliver(9))
				}
				p.deliver()
				p.want(key, flows.Completed)
			}, "a", "b")
		})
	}
	t.Run("given up while another node still receives", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			b.give(rows(key, procs, 5, 5), done(key, 10))
			p.want(key, flows.Waiting)
			time.Sleep(flows.WaitForRows)
			a.take(rows(key, procs, 0, 3))
			p.must(p.ledger.Propose(body(expire(key))))
			p.want(key, flows.Incomplete)
			a.take(rows(key, procs, 3, 2))
			time.Sleep(10 * time.Second)
			p.deliver()
			p.want(key, flows.Completed)
			p.rows(key, pslist, 10)
		}, "a", "b")
	})
}

// A node that is behind knows nothing of a flow that the client got elsewhere.
func TestRowsThatComeBeforeTheirTaskAreKept(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		at := a.attach()
		defer at.Close()
		key := p.collect()
		p.must(a.follower.CatchUp())
		wantNext(t, at, "start")
		b.take(rows(key, procs, 0, 5), done(key, 5))
		p.deliver()
		p.want(key, flows.Completed)
		p.rows(key, pslist, 5)
		wantLetters(t, p, "")

		b.take(rows(flows.Key{Flow: mustFlow("F.NEVERISSUED12")}, procs, 0, 1))
		wantLetters(t, p, "not given to this client")
	}, "a", "b")
}

func wantLetters(t *testing.T, p *pack, want string) {
	t.Helper()
	page, err := p.reader.ReadRows(t.Context(), filestore.DeadLetters(ids.RootOrg), filestore.RowsQuery{})
	p.must(err)
	var text strings.Builder
	for _, row := range page.Rows {
		text.Write(row.Line)
	}
	if got := text.String(); want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("dead letters %q, want %q", got, want)
	}
}

// A follower that reloads a snapshot owes what it would have owed by the entries.
func TestReloadedNodeTellsWhatItHolds(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		key, gone := p.started(), p.started()
		a.give(rows(key, procs, 0, 5), rows(gone, procs, 0, 5))
		b.take(rows(key, procs, 5, 5), done(key, 10), done(gone, 5))
		p.must(b.outbox.Deliver(9))
		p.must(a.follower.Restart(p.master.Table, p.master.Events))
		p.deliver()
		p.want(key, flows.Completed)
		p.want(gone, flows.Completed)
		for _, m := range p.nodes {
			got, err := flowstest.Dump(m.Table)
			p.must(err)
			want, err := flowstest.Dump(p.master.Table)
			p.must(err)
			if got != want {
				t.Errorf("%s has another state than the master", m.run)
			}
		}
	}, "a", "b")
}

func mustFlow(text string) ids.Flow {
	f, err := ids.ParseFlow(text)
	if err != nil {
		panic(err)
	}
	return f
}
