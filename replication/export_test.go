package replication

import dto "github.com/prometheus/client_model/go"

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
func (n *Node) Mismatches() float64 {
	var m dto.Metric
	if err := n.m.digestMismatches.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}
