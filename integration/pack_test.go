package integration_test

import (
	"testing"

	"raptorpack/integration"
)

func TestPackOfThreeServesAnAgentAtAnyNode(t *testing.T) {
	pack := integration.Launch(t, integration.Options{Masters: 2, Minions: 1})
	pack.StartAll()
	agent := pack.AddAgent()
	pack.SetArtifact(numbers)
	flow := pack.Collect(agent, "Custom.Integration.Numbers", map[string]string{"Rows": "1000"})
	if f := pack.Await(agent, flow); f.State != "completed" || f.Rows != 1000 {
		t.Errorf("%+v", f)
	}
}
