package replication

import "context"

// leader is whoever brings mutations into the ledger: this node's own reign, or
// the bus to the node that leads.
type leader interface {
	// offer takes numbered items in their order; false when it takes no more.
	offer(items ...*item) bool

	// deliver offers facts of one outbox and returns when all are applied at the
	// master: nil, or an error after which they are offered again.
	deliver(ctx context.Context, incarnation string, batch []*numbered) error

	// stand returns an index that is no lower than that of any mutation which was
	// acknowledged before the call.
	stand(ctx context.Context) (uint64, error)
}

// Stand returns an index that covers every mutation acknowledged anywhere before
// the call: a read after WaitApplied of it misses none of them. ErrNoMaster means
// that nobody can tell at the moment.
func (n *Node) Stand(ctx context.Context) (uint64, error) {
	l := n.props.leader()
	if l == nil {
		return 0, ErrNoMaster
	}
	return l.stand(ctx)
}

func (r *reign) stand(context.Context) (uint64, error) {
	index := r.n.place().index
	if !r.term.Valid() { // asked after the look: nobody else led meanwhile
		return 0, ErrDeposed
	}
	return index, nil
}
