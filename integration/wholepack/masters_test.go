package wholepack_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"raptorpack/cmd/node"
	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/integration/history"
	"raptorpack/integration/wholepack"
	"raptorpack/replication"
)

// below matches the paths of one folder of the disk.
func below(dir string) func(string) bool {
	return func(path string) bool { return strings.HasPrefix(path, dir+"/") }
}

// hangs waits until a call hangs in a fault.
func hangs(p *wholepack.Pack, i *filestoretest.Injection) {
	p.Wait("a call to hang", func() (bool, string) { return i.Hanging() > 0, "" })
}

// leads waits until a node leads.
func leads(p *wholepack.Pack, n *wholepack.Node) {
	p.Wait(n.Name+" to lead", func() (bool, string) { return n.Leads() != 0, n.Log.Tail(1000) })
}

func TestTwoMastersAreAHotStandbyPair(t *testing.T) {
	p := launch(t, wholepack.Options{Candidates: 2})
	leader := p.Master()
	standby := p.Others(leader)[0]
	op, a := p.NewOperator("ann"), p.Agents()[0]
	if first := op.Label(standby, a, history.Token(1, "ann")); first.Tries[0].Answer != history.Acknowledged {
		t.Fatalf("through the standby: %s", &first)
	}
	epoch := leader.Leads()
	leader.Kill()
	leads(p, standby)
	if second := op.Label(standby, a, history.Token(2, "ann")); second.Tries[0].Answer != history.Acknowledged {
		t.Fatalf("after the fail-over: %s", &second)
	}
	if !standby.Log.Has("ledger of epoch is sealed", fmt.Sprintf("epoch=%d ", epoch)) {
		t.Errorf("epoch %d was not sealed", epoch)
	}
	leader.Start()
	p.WaitReady()
	if leader.Leads() != 0 {
		t.Error("who comes back leads")
	}
	if third := op.Label(leader, a, history.Token(3, "ann")); third.Tries[0].Answer != history.Acknowledged {
		t.Fatalf("through who came back: %s", &third)
	}
	p.Finish()
}

func TestSecondNodeOfANameIsRefused(t *testing.T) {
	p := wholepack.New(t, wholepack.Options{})
	p.Start()
	err := p.Nodes[0].Twin(t.Context())
	var running *filestore.NodeRunningError
	if !errors.As(err, &running) {
		t.Fatalf("the second node of the name says: %v", err)
	}
	if host, _ := os.Hostname(); running.PID != os.Getpid() || running.Host != host || running.Node != "a" {
		t.Errorf("it names node %s, host %s and pid %d", running.Node, running.Host, running.PID)
	}
	if err := p.Nodes[0].Ready(); err != nil {
		t.Errorf("the first is disturbed: %v", err)
	}
}

// sleepers are a pack whose nodes may lose their mastership in their sleep, but not
// their name.
var sleepers = wholepack.Options{Candidates: 2, Minions: 1, Tune: func(u *node.Tuning) { u.IncarnationTTL = 20 * time.Second }}

// zombie brings a master into the state in which it does most harm: a change is on
// its way to the ledger's file, and then nothing of it moves any more, while another
// takes over. sealed returns when that one has sealed the epoch. Then the zombie wakes
// up; when its late record has landed, landed is called. zombie returns when the
// operator of the change has an answer.
func zombie(t *testing.T, p *wholepack.Pack, sealed, landed func(after *wholepack.Node)) (asleep, after *wholepack.Node) {
	t.Helper()
	asleep = p.Master()
	for _, n := range p.Others(asleep) {
		if n.Candidate {
			after = n
		}
	}
	late := asleep.FS().Inject(filestoretest.Fault{Op: filestoretest.Write, Match: below("ledger"), Hang: true, Times: filestoretest.Always})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		p.NewOperator("zoe").Label(asleep, p.Agents()[0], history.Token(1, "zoe"))
	}()
	hangs(p, late)
	frozen := asleep.FS().Inject(filestoretest.Fault{Hang: true, Times: filestoretest.Always})
	p.Pause(asleep)
	sealed(after)
	frozen.Lift()
	late.Lift()
	p.Rejoin(asleep)
	store := p.Store()
	p.Wait("the late record to land", func() (bool, string) {
		report, err := replication.Verify(t.Context(), store)
		return report.BeyondSeal > 0, fmt.Sprint(report, err)
	})
	if err := store.Close(t.Context()); err != nil {
		t.Error(err)
	}
	landed(after)
	<-answered
	return asleep, after
}

func TestZombieMasterChangesNothing(t *testing.T) {
	p := launch(t, sleepers)
	op := p.NewOperator("ann")
	asleep, after := zombie(t, p, func(after *wholepack.Node) { leads(p, after) }, func(after *wholepack.Node) {
		op.Label(after, p.Agents()[0], history.Token(1, "ann"))
	})
	p.Wait("the zombie to notice", func() (bool, string) { return asleep.Leads() == 0, asleep.Log.Tail(500) })
	if after.Leads() == 0 {
		t.Error("the new master leads no more")
	}
	// A node that reads the files counts what lies beyond the seal.
	minion := p.Nodes[2]
	minion.Stop()
	minion.Start()
	p.WaitReady()
	bytes, err := minion.Metric("raptorpack_replication_beyond_seal_bytes")
	if err != nil || bytes == 0 {
		t.Errorf("%v bytes beyond seals are counted, %v", bytes, err)
	}
	p.Finish()
}

// The late record lands when the new master knows where the epoch ends and has not
// read it to there.
func TestRecordsBetweenSealAndReplayChangeNothing(t *testing.T) {
	p := launch(t, sleepers)
	var between *filestoretest.Injection
	first := p.Master()
	for _, n := range p.Others(first) {
		if n.Candidate {
			between = n.FS().Inject(filestoretest.Fault{Op: filestoretest.Link, Path: "lease/seal-*", After: true, Hang: true})
		}
	}
	op := p.NewOperator("ann")
	zombie(t, p, func(*wholepack.Node) { hangs(p, between) }, func(after *wholepack.Node) {
		between.Lift()
		for i := range 5 {
			op.Label(after, p.Agents()[0], history.Token(i, "ann"))
		}
	})
	p.Finish()
}

func TestFaultsOfTheMastersLedgerLoseNothing(t *testing.T) {
	p := launch(t, wholepack.Options{Candidates: 2, Minions: 1})
	p.Work(wholepack.WorkOptions{Seed: chance(t)})
	for _, fault := range []filestoretest.Fault{
		{Op: filestoretest.Write, Err: syscall.ENOSPC},
		{Op: filestoretest.Write, Err: syscall.EIO, Torn: 40},
		{Op: filestoretest.Write, Err: syscall.ESTALE, After: true},
		{Op: filestoretest.Sync, Err: syscall.EIO, Drop: true},
		{Op: filestoretest.Sync, Err: syscall.ESTALE, After: true},
	} {
		n := p.Master()
		epoch := n.Leads()
		fault.Match = below("ledger")
		struck := n.FS().Inject(fault)
		p.Wait("a new epoch after "+fault.Err.Error()+" of a "+string(fault.Op), func() (bool, string) {
			for _, n := range p.Nodes {
				if n.Leads() > epoch {
					return struck.Struck() > 0, ""
				}
			}
			return false, n.Log.Tail(1000)
		})
		acked := p.History.Acknowledged()
		p.Wait("changes to be acknowledged", func() (bool, string) { return p.History.Acknowledged() > acked+3, "" })
	}
	p.Finish()
}
