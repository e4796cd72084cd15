package flows_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/proto/wirepb"
)

// deleted lets an operator delete a flow; no node has heard of it yet.
func (p *pack) deleted(key flows.Key) uint64 {
	p.t.Helper()
	m, err := p.master.PlanDelete(key, "ada")
	p.must(err)
	p.must(p.ledger.Propose(m))
	for _, d := range p.master.Deletions() {
		if d.Key == key {
			return d.Index
		}
	}
	p.t.Fatal("the deletion is not remembered")
	return 0
}

// settled is what a node tells the master of itself.
func (m *member) settled(index uint64) bool {
	oldest, some := m.Unclosed()
	return m.Deleted(m.pack.lastDeleted(index)) && (!some || oldest > index)
}

func (p *pack) lastDeleted(index uint64) flows.Key {
	for _, d := range p.master.Deletions() {
		if d.Index == index {
			return d.Key
		}
	}
	return flows.Key{}
}

func (p *pack) exists(dir string) bool {
	_, err := os.Stat(filepath.Join(p.dir, dir))
	return err == nil
}

func counted(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// A node that writes rows of a flow while it is deleted closes its files when the
// write has ended; until then nobody removes the tree under it, and nothing comes
// back afterwards.
func TestDeletedFlowIsGoneOnAllNodesBeforeItsTreeIs(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		reg := prometheus.NewRegistry()
		a, b := p.nodes[0], p.launch("c", func(o *flows.Options) { o.Registerer = reg })
		key := p.started()
		a.give(rows(key, procs, 0, 5), complete(key, status(wirepb.VeloStatus_GENERIC_ERROR, 5, "x"))) // errored
		b.give(rows(key, mounts, 0, 5), buffer(key, 0, 0, "abc"))

		hold := make(chan struct{})
		b.committer.before = func(*filestore.Commit) error { <-hold; return nil }
		slow := make(chan error, 1)
		go func() { slow <- b.try(rows(key, mounts, 5, 5)) }()
		synctest.Wait()
		index := p.deleted(key)
		p.deliver()
		if !a.settled(index) || b.settled(index) {
			t.Fatalf("settled: a %v, b %v; b still writes", a.settled(index), b.settled(index))
		}
		close(hold)
		if err := <-slow; err != nil {
			t.Fatal(err)
		}
		b.committer.before = nil
		synctest.Wait()
		if !b.settled(index) {
			t.Fatal("b has ended its write, but not closed its files")
		}
		p.must(p.master.RemoveTree(context.Background(), key))
		before := counted(t, reg, "raptorpack_flows_late_total")
		b.give(rows(key, mounts, 10, 5), buffer(key, 0, 3, "def"), eof(key, 0, 6), done(key, 99), logLines(key, 0, "x"))
		if got := counted(t, reg, "raptorpack_flows_late_total") - before; got != 5 {
			t.Errorf("%v late messages are counted, want 5", got)
		}
		for _, dir := range []string{filestore.FlowDir(key.Org, key.Client, key.Flow), filestore.FlowUploadsDir(key.Org, key.Client, key.Flow)} {
			if p.exists(dir) {
				t.Errorf("%s is there again", dir)
			}
		}
		wantLetters(t, p, "")
	}, "a")
}

// The deletion comes between a node's look at the flow and its write.
func TestPacketThatMeetsADeletionIsDropped(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a := p.nodes[0]
		key := p.started()
		a.give(rows(key, procs, 0, 5), complete(key, status(wirepb.VeloStatus_GENERIC_ERROR, 5, "x")))
		hold := make(chan struct{})
		a.committer.before = func(*filestore.Commit) error { <-hold; return nil }
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- a.try(rows(key, procs, 5, 5)) }()
		synctest.Wait()
		go func() { second <- a.try(rows(key, procs, 5, 5), rows(key, procs, 10, 5)) }() // waits for the first
		synctest.Wait()
		index := p.deleted(key)
		p.deliver()
		close(hold)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		a.committer.before = nil
		synctest.Wait()
		if !a.settled(index) {
			t.Fatal("files are still open")
		}
		p.must(p.master.RemoveTree(context.Background(), key))
		synctest.Wait()
		if dir := filestore.FlowDir(key.Org, key.Client, key.Flow); p.exists(dir) {
			t.Errorf("%s is there again", dir)
		}
	}, "a")
}

// A node that was away and reloads a snapshot never saw the entry that deleted.
func TestReloadedNodeClosesWhatWasDeleted(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a := p.nodes[0]
		key := p.started()
		a.give(rows(key, procs, 0, 5), complete(key, status(wirepb.VeloStatus_GENERIC_ERROR, 5, "x")))
		hold := make(chan struct{})
		a.committer.before = func(*filestore.Commit) error { <-hold; return nil }
		slow := make(chan error, 1)
		go func() { slow <- a.try(rows(key, procs, 5, 5)) }()
		synctest.Wait()
		index := p.deleted(key)
		p.must(a.follower.Restart(p.master.Table, p.master.Events))
		synctest.Wait()
		if a.settled(index) {
			t.Fatal("a write is under way")
		}
		close(hold)
		if err := <-slow; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, _, locals := a.Soft(); !a.settled(index) || locals != 0 {
			t.Errorf("settled %v, %d flows in memory", a.settled(index), locals)
		}
	}, "a")
}

// An operator's cancel reaches whoever has the client; rows are taken meanwhile.
func TestCancelWhileAnotherNodeTakesRows(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		key := p.started()
		at := a.attach()
		defer at.Close()
		b.give(rows(key, procs, 0, 5))
		m, err := p.master.PlanCancel(key, "ada")
		p.must(err)
		p.must(p.ledger.Propose(m))
		b.take(rows(key, procs, 5, 5)) // b does not know yet
		p.deliver()
		b.give(rows(key, procs, 10, 5))
		wantNext(t, at, "cancel ask1")
		b.give(complete(key, status(wirepb.VeloStatus_GENERIC_ERROR, 15, "Cancelled")))
		if f := p.want(key, flows.Cancelled); f.Rows() != 15 || f.CancelDue {
			t.Errorf("%d rows, cancel due %v", f.Rows(), f.CancelDue)
		}
		p.rows(key, pslist, 15)
	}, "a", "b")
}
