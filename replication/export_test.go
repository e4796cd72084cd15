package replication

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Leaderless tells tests whether this node knows of no master.
func (n *Node) Leaderless() (bool, <-chan struct{}) { return n.props.leaderless() }

// Numbered tells tests how many facts have their number.
func (n *Node) Numbered() uint64 {
	n.outbox.mu.Lock()
	defer n.outbox.mu.Unlock()
	return n.outbox.seq
}

// Corrupt makes this node's memory another than the ledger says.
func (n *Node) Corrupt() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.digest[0]++
}

// Mismatches tells tests how often this node's state was found to be another than
// the master's.
func (n *Node) Mismatches() float64 { return value(n.m.digestMismatches) }

// StateMismatches tells tests how often what this node has in memory was found to
// be another than what the master has.
func (n *Node) StateMismatches() float64 { return value(n.m.stateMismatches) }

// Agrees tells tests whether the last comparison was good.
func (n *Node) Agrees() bool {
	n.compared.mu.Lock()
	defer n.compared.mu.Unlock()
	return !n.compared.healed
}

// Reloads tells tests how often this node threw its state away.
func (n *Node) Reloads() float64 { return value(n.m.reloads) }

func value(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

// Compared tells tests how often this node has hashed its states.
func (n *Node) Compared() uint64 {
	var m dto.Metric
	if err := n.m.compareTook.Write(&m); err != nil {
		panic(err)
	}
	return m.GetHistogram().GetSampleCount()
}
