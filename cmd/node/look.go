package node

// Incarnation names this run of the node.
func (n *Node) Incarnation() string { return n.incarnation.Name() }

// BusAddress is where other nodes reach this one, as it was bound; empty: alone.
func (n *Node) BusAddress() string {
	if n.pack == nil {
		return ""
	}
	return n.pack.listener.Addr().String()
}

// Leads is the epoch that this node leads at the moment, 0: none. It is for people
// and tests: nothing may be decided by it.
func (n *Node) Leads() uint64 {
	if n.master == nil {
		return 0
	}
	return n.master.Epoch()
}

// Digest is a hash over all entries applied here and what became of each, and the
// index that it stands for. Nodes at one index have one digest.
func (n *Node) Digest() (index uint64, sum [32]byte) { return n.ledger.Digest() }
