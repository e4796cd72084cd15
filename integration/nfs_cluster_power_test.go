//go:build nfslab

package integration_test

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"raptorpack/integration"
)

// TestClusterPowerCutsLoseAndDoubleNothing cuts the power of nodes, of the NFS
// server and of both. The pack goes on without the nodes that are dead.
func TestClusterPowerCutsLoseAndDoubleNothing(t *testing.T) {
	s := newClusterStory(t, os.Getenv("RAPTORPACK_BINARY"))
	agent := s.agent()
	s.operate()
	kinds := []struct {
		name string
		cut  func()
	}{
		{"the master", func() { s.cutNode(s.lab.Master()) }},
		{"the NFS server for a moment", s.rebootNFS},
		{"the minion", func() { s.cutNode(s.lab.Nodes()[2]) }},
		{"the master and the NFS server", s.cutBoth},
		{"the NFS server until all leases have lapsed", s.cutNFS},
		{"the whole site", s.cutAll},
		{"any node", func() { s.cutNode(s.lab.Nodes()[rand.N(len(s.lab.Nodes()))]); s.lab.WaitAllReady() }},
	}
	cuts := len(kinds) - 1
	if *long {
		cuts = 3 * len(kinds)
	}
	for cut := range cuts {
		agent.progress()
		kind := kinds[cut%len(kinds)]
		s.tell("cut %d: %s, after %d acknowledgements of flow %d and %d labels", cut+1, kind.name, agent.Acknowledged(agent.last()), len(agent.flows), s.operator.Answered())
		kind.cut()
		agent.Forget()
		s.operator.Check(t)
		s.rowsSoFar("a power cut of " + kind.name)
	}
	s.tell("%d power cuts", cuts)
	s.lab.WaitAllReady()
	s.end()
}

// cutNode cuts the power of a node's machine. The pack goes on without it, and does
// not wait until it is back.
func (s *clusterStory) cutNode(n *integration.ClusterNode) {
	s.t.Helper()
	n.CutPower()
	s.rowsSoFar("a power cut of " + n.Machine)
	begin := time.Now()
	s.operator.Progress(5)
	s.agents[0].progress()
	s.tell("the pack goes on without %s, in %v", n.Machine, time.Since(begin).Round(time.Millisecond))
	n.PowerOn()
}

// cutNFS cuts the power of the NFS server for so long that every lease lapses,
// while the nodes live on. Nothing may be acknowledged without power.
func (s *clusterStory) cutNFS() {
	s.t.Helper()
	agent := s.agents[0]
	s.lab.CutNFS()
	for _, n := range s.lab.Nodes() {
		s.lab.Wait(n.Machine+" to lead no more", func() (bool, string) { return !n.Leads(), "" })
	}
	before := agent.Acknowledged(agent.last())
	for _, n := range s.lab.Nodes() {
		s.lab.Wait("the lease of "+n.Machine+" to lapse", n.Lapsed)
	}
	if after := agent.Acknowledged(agent.last()); after != before {
		s.t.Errorf("%d acknowledgements while the store had no power", after-before)
	}
	s.lab.PowerOnNFS()
	s.lab.WaitAllReady()
}

// rebootNFS brings the NFS server back at once. Its grace period may cost the master
// its lease; the nodes live on, with files that were open all the time and writes
// that the server has forgotten.
func (s *clusterStory) rebootNFS() {
	s.t.Helper()
	s.lab.CutNFS()
	s.lab.PowerOnNFS()
	for range 5 { // not only what was on its way
		s.agents[0].progress()
	}
	s.lab.WaitAllReady()
}

// cutBoth cuts the power of the master and of the NFS server.
func (s *clusterStory) cutBoth() {
	s.t.Helper()
	master := s.lab.Master()
	s.lab.CutNFS()
	master.CutPower()
	s.lab.PowerOnNFS()
	s.rowsSoFar("a power cut of " + master.Machine + " and of the NFS server")
	s.operator.Progress(5)
	s.agents[0].progress()
	master.PowerOn()
	s.lab.WaitAllReady()
}

// cutAll leaves nothing but what is on the NFS server's disk.
func (s *clusterStory) cutAll() {
	s.t.Helper()
	s.lab.CutNFS()
	for _, n := range s.lab.Nodes() {
		n.CutPower()
	}
	s.lab.PowerOnNFS()
	s.rowsSoFar("a power cut of the whole site")
	for _, n := range s.lab.Nodes() {
		n.PowerOn()
	}
	s.lab.WaitAllReady()
}

// With sync taken out of the program the checker must notice what a power cut of
// the nodes' machines takes.
func TestClusterPowerCutsAreNoticedWhenSyncIsTakenOut(t *testing.T) {
	s := newClusterStory(t, os.Getenv("RAPTORPACK_BINARY_NOSYNC"))
	agent := s.agent()
	agent.progress()
	for _, n := range s.lab.Nodes() {
		n.CutPower()
	}
	err := agent.Check(agent.acknowledgedOnly()...)
	if err == nil || !strings.Contains(err.Error(), "were acknowledged") {
		t.Fatalf("acknowledged rows survived a power cut without sync, the story shows nothing: %v", err)
	}
	t.Logf("noticed: %v", err)
}
