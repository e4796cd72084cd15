package integration_test

import (
	"fmt"
	"slices"
	"testing"

	"raptorpack/integration"
)

// TestPausedMasterChangesNothingWhenItWakes stops the master's process for longer
// than its lease, lets another lead, and wakes it.
func TestPausedMasterChangesNothingWhenItWakes(t *testing.T) {
	o := options(t)
	o.Masters, o.Minions = 2, 1
	pack := integration.Launch(t, o)
	pack.StartAll()
	agent := pack.AddAgent()
	minion, old := pack.Nodes()[2], pack.Master()
	old.Pause()
	pack.WaitFor("a write at the minion", func() (bool, string) {
		err := minion.Label(agent.ID, "meanwhile", "meanwhile")
		return err == nil, fmt.Sprint(err)
	})
	before, err := minion.Status()
	if err != nil {
		t.Fatal(err)
	}
	if before.Epoch < 2 {
		t.Errorf("epoch %d: nobody else led", before.Epoch)
	}
	old.Resume()
	pack.WaitFor("the old master to follow", func() (bool, string) {
		s, err := old.Status()
		return err == nil && s.Role == "candidate" && s.Epoch == before.Epoch && s.Index >= before.Index, fmt.Sprintf("%+v, %v", s, err)
	})
	if err := old.Label(agent.ID, "through the old one", "old"); err != nil {
		t.Errorf("the old master does not pass writes on: %v", err)
	}
	labels := pack.Labels(agent)
	for _, want := range []string{"meanwhile", "through the old one"} {
		if !slices.Contains(labels, want) {
			t.Errorf("the acknowledged label %q is lost: %v", want, labels)
		}
	}
	for _, n := range pack.Nodes() {
		n.Stop()
	}
	pack.Command("ledger", "verify")
}

func TestTwoNodesWithOneNameAreRefused(t *testing.T) {
	o := options(t)
	o.Masters, o.Minions = 1, 1
	pack := integration.Launch(t, o)
	pack.StartAll()
	second := pack.Nodes()[1]
	second.Stop()
	second.Rename(pack.Nodes()[0].Name) // they share a log then
	second.Start()
	pack.WaitFor("the second to be refused", func() (bool, string) { return !second.Running(), "it runs" })
	if !pack.Says(second.Name, "node name is in use", "as pid") {
		t.Error("the second node does not say why it did not start")
	}
}
