package replication

// Leaderless tells tests whether this node knows of no master.
func (n *Node) Leaderless() (bool, <-chan struct{}) { return n.props.leaderless() }

// Numbered tells tests how many facts have their number.
func (n *Node) Numbered() uint64 {
	n.outbox.mu.Lock()
	defer n.outbox.mu.Unlock()
	return n.outbox.seq
}
