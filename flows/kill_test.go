package flows_test

import (
	"errors"
	"testing"

	"raptorpack/flows"
	"raptorpack/ids"
)

// The order reaches the client over the connection that it has, wherever that is, and
// never the agent that is started after it.
func TestKillReachesTheConnectionThatIsOpen(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		at := p.nodes[1].attach()
		p.deliver()
		m, err := flows.PlanKill(ids.RootOrg, p.client)
		p.must(err)
		p.must(p.ledger.Propose(m))
		p.deliver()
		wantNext(t, at, "kill")
		wantNext(t, at, "")
		at.Close()
		for _, n := range p.nodes {
			again := n.attach()
			wantNext(t, again, "")
			again.Close()
		}
	}, "a", "b")
}

func TestKillOfAClientThatIsAwayIsForgotten(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		m, err := flows.PlanKill(ids.RootOrg, p.client)
		p.must(err)
		p.must(p.ledger.Propose(m))
		p.deliver()
		at := p.nodes[0].attach()
		defer at.Close()
		p.deliver()
		wantNext(t, at, "")
	}, "a", "b")
}

func TestTheServerIsNotKilled(t *testing.T) {
	for _, client := range []ids.Client{ids.Server, {}} {
		if _, err := flows.PlanKill(ids.RootOrg, client); !errors.Is(err, flows.ErrInvalid) {
			t.Errorf("kill %q: %v", client, err)
		}
	}
}
