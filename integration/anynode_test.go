package integration_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"raptorpack/integration"
)

// TestKillsOfAnyNodeLoseAndDoubleNothing kills nodes at random, masters and minions
// alike, while an agent sends rows to whichever node is there and operators write
// through all of them.
func TestKillsOfAnyNodeLoseAndDoubleNothing(t *testing.T) {
	kills, rows := 6, int64(40_000)
	if *long {
		kills = 100
	}
	o := options(t)
	o.Masters, o.Minions = 2, 1
	pack := integration.Launch(t, o)
	pack.StartAll()
	agent := pack.AddAgent()
	pack.SetArtifact(numbers)
	collect := func() string {
		return pack.Collect(agent, "Custom.Integration.Numbers", map[string]string{"Rows": strconv.FormatInt(rows, 10)})
	}
	flows := []string{collect()}
	writer := operate(pack, agent.ID, true)
	for killed := 0; killed < kills; {
		if !pack.Progress(agent, flows[len(flows)-1]) {
			flows = append(flows, collect())
			continue
		}
		n := pack.Nodes()[rand.N(len(pack.Nodes()))]
		n.Kill()
		killed++
		n.Start()
		n.WaitReady()
	}
	for _, flow := range flows {
		if f := pack.Await(agent, flow); f.State != "completed" || f.Rows != rows {
			t.Errorf("the flow is %+v, want %d rows", f, rows)
		}
	}
	writer.check(t, agent)
	for _, n := range pack.Nodes() {
		n.Stop()
	}
	t.Logf("%d kills while one of %d flows was at work", kills, len(flows))
	for _, flow := range flows {
		stored := integration.Check{
			Store: pack.Store(), Client: agent.ID, Flow: flow, Result: "Custom.Integration.Numbers", Rows: rows, History: agent.History(),
		}
		if err := stored.Run(t.Context()); err != nil {
			t.Errorf("flow %s: %v", flow, err)
		}
	}
}
