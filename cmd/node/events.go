package node

import (
	"math/rand/v2"

	"raptorpack/ids"
)

// eventWait is how long a client gathers event rows whose artifact does not say, in
// seconds; each table gets another number, so that clients do not send together.
func (n *Node) eventWait() uint64 {
	d := n.o.Config.Defaults
	return uint64(max(d.EventMaxWaitSeconds+rand.N(max(d.EventMaxWaitJitterSeconds, 1)), 1))
}

// storedEvents tells the other nodes that this one stored rows of an event artifact.
func (n *Node) storedEvents(org ids.Org, name string) {
	if n.presence != nil {
		n.presence.grown(org, name)
	}
}

// heardOfEvents wakes who follows what another node stored.
func (n *Node) heardOfEvents(org ids.Org, name string) { n.flows.HeardOfEvents(org, name) }
