package wholepack_test

import (
	"fmt"
	"testing"
	"time"

	"raptorpack/cmd/node"
	"raptorpack/filestore/filestoretest"
	"raptorpack/integration/history"
	"raptorpack/integration/wholepack"
)

// cutBus cuts a node off from the other nodes; agents and operators reach it.
func cutBus(p *wholepack.Pack, n *wholepack.Node) {
	for _, other := range p.Others(n) {
		p.Net.Cut(n.Name, other.Name)
	}
}

// atMinion is a pack of two candidates and a minion, with an agent that knows the
// minion alone.
func atMinion(t *testing.T, tune func(*node.Tuning)) (p *wholepack.Pack, minion *wholepack.Node, a *wholepack.Agent) {
	t.Helper()
	p = wholepack.New(t, wholepack.Options{Candidates: 2, Minions: 1, Tune: tune})
	p.Start()
	minion = p.Nodes[2]
	a = p.AddAgent(wholepack.AgentOptions{Nodes: p.Nodes[2:], Wait: 30 * time.Second})
	p.Enrolled()
	p.SetNumbers()
	return p, minion, a
}

func TestMinionWithoutABusTakesDataOnlyOnce(t *testing.T) {
	p, minion, a := atMinion(t, nil)
	master := p.Master()
	c := p.CollectHalf(master, a, 2000, 50)
	cutBus(p, minion)
	c.GoOn()
	c.WaitTold()
	p.Wait("the master to learn of it through the disk", func() (bool, string) {
		state := c.StateAt(master)
		return state == "completed", state
	})
	p.HealAll()
	p.Finish()
}

func TestOutboxOfADeadMinionHoldsTheOnlyCopy(t *testing.T) {
	p, minion, a := atMinion(t, nil)
	master := p.Master()
	c := p.CollectHalf(master, a, 500, 50)
	cutBus(p, minion)
	// Nor does the master come to look into the minion's outbox before it dies.
	var unseen []*filestoretest.Injection
	for _, n := range p.Others(minion) {
		unseen = append(unseen, n.FS().Inject(filestoretest.Fault{Op: filestoretest.ReadDir, Match: func(path string) bool { return path == "outbox" }, Hang: true, Times: filestoretest.Always}))
	}
	c.GoOn()
	c.WaitTold()
	minion.Kill()
	if state := c.StateAt(master); state == "completed" {
		t.Error("the master knew of the end before: the story shows nothing")
	}
	for _, i := range unseen {
		i.Lift()
	}
	p.Wait("the master to read the outbox", func() (bool, string) {
		state := c.StateAt(master)
		return state == "completed", state
	})
	p.Finish()
}

// What a minion told its master and heard no answer to, it tells the next one again.
func TestRepeatedFactsAreTakenOnce(t *testing.T) {
	p, minion, a := atMinion(t, nil)
	master := p.Master()
	var next *wholepack.Node
	for _, n := range p.Others(master, minion) {
		next = n
	}
	c := p.CollectHalf(master, a, 1000, 50)
	p.Net.SilenceWay(master.Name, minion.Name)
	c.GoOn()
	c.WaitTold()
	p.Wait("the standby to know of the end", func() (bool, string) {
		state := c.StateAt(next)
		return state == "completed", state
	})
	master.Kill()
	leads(p, next)
	p.HealAll()
	op := p.NewOperator("ann")
	for i := range 3 {
		op.Label(minion, a, history.Token(i, "ann"))
	}
	p.Finish()
}

func TestFollowerFarBehindReadsFiles(t *testing.T) {
	p, minion, a := atMinion(t, func(u *node.Tuning) { u.SnapshotEntries = 40 })
	op := p.NewOperator("ann")
	cutBus(p, minion)
	p.Others(minion)[1].Stop() // so that what starts below has read a snapshot
	for i := range 100 {
		if one := op.Label(p.Master(), a, history.Token(i, "ann")); one.Tries[0].Answer != history.Acknowledged {
			t.Fatal(&one)
		}
	}
	store := p.Store()
	p.Wait("two snapshots", func() (bool, string) {
		names, err := store.ReadDir(t.Context(), "snapshots")
		return err == nil && len(names) >= 2, fmt.Sprint(names, err)
	})
	if err := store.Close(t.Context()); err != nil {
		t.Error(err)
	}
	old := p.Master()
	fresh := p.Others(minion, old)[0]
	fresh.Start()
	p.Wait("the fresh candidate to be ready", func() (bool, string) { return fresh.Ready() == nil, fresh.Log.Tail(500) })
	old.Stop()
	leads(p, fresh)
	p.HealAll()
	p.Wait("the minion to read files", func() (bool, string) {
		return minion.Log.Has("caught up from files"), minion.Log.Tail(1000)
	})
	p.Finish()
}

func TestSnapshotDuringAFailOverHarmsNobody(t *testing.T) {
	p := launch(t, wholepack.Options{Candidates: 2, Minions: 1})
	p.Work(wholepack.WorkOptions{Seed: chance(t)})
	for _, op := range []filestoretest.Op{filestoretest.Write, filestoretest.Sync, filestoretest.Rename} {
		n := p.Master()
		half := n.FS().Inject(filestoretest.Fault{Op: op, Match: below("snapshots"), Hang: true})
		hangs(p, half)
		n.KillHanging()
		p.Wait("another to lead", func() (bool, string) {
			for _, other := range p.Others(n) {
				if other.Leads() != 0 {
					return true, ""
				}
			}
			return false, ""
		})
		n.Start()
		p.WaitReady()
	}
	p.Finish()
}

func TestOneClientAtTwoNodesIsOneClient(t *testing.T) {
	p := wholepack.New(t, wholepack.Options{Candidates: 1, Minions: 1})
	p.Start()
	one := p.AddAgent(wholepack.AgentOptions{Nodes: p.Nodes[:1]})
	p.AddAgent(wholepack.AgentOptions{Nodes: p.Nodes[1:]}) // with the same key
	p.Enrolled()
	p.SetNumbers()
	for range 3 {
		c := p.Collect(p.Master(), one, 300)
		p.Wait("the flow to complete", func() (bool, string) {
			state := c.StateAt(p.Master())
			return state == "completed", state
		})
	}
	p.Finish()
}

// A minion that never comes back leaves rows behind that are acknowledged and of
// which nobody else knows. They count as soon as its lease has lapsed.
func TestRowsOfAMinionThatNeverComesBackCount(t *testing.T) {
	p := wholepack.New(t, wholepack.Options{Candidates: 2, Minions: 1})
	p.Start()
	minion := p.Nodes[2]
	a := p.AddAgent(wholepack.AgentOptions{})
	p.Enrolled()
	p.SetNumbers()
	for _, n := range p.Others(minion) {
		p.Net.Cut(n.Name, wholepack.Agents) // so that the agent comes to the minion
	}
	c := p.CollectHalf(p.Master(), a, 3000, 200)
	minion.Kill()
	p.HealAll()
	c.GoOn()
	p.Wait("the flow to complete", func() (bool, string) {
		state := c.StateAt(p.Master())
		return state == "completed", state
	})
	if minion.Wanted() {
		t.Error("the minion came back: the story shows nothing")
	}
	p.Finish()
}
