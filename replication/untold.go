package replication

import (
	"context"
	"fmt"

	"raptorpack/proto/buspb"
)

// Untold returns the facts that any incarnation, living or dead, had made durable
// in its outbox when the call began and that are not applied here, with whole
// bodies. It reads the tail of every outbox: dear, and for what is rare.
func (n *Node) Untold(ctx context.Context) ([]*buspb.Mutation, error) {
	names, err := listOutboxes(ctx, n.store)
	if err != nil {
		return nil, fmt.Errorf("untold facts: %w", err)
	}
	var all []*buspb.Mutation
	for _, name := range names {
		if all, err = n.untoldOf(ctx, name, all); err != nil {
			return nil, fmt.Errorf("untold facts: %w", err)
		}
	}
	return all, nil
}

func (n *Node) untoldOf(ctx context.Context, name string, all []*buspb.Mutation) ([]*buspb.Mutation, error) {
	c := &cursor{store: n.store, name: name, next: n.taken(origin{name, buspb.Origin_STREAM_OUTBOX}) + 1}
	for {
		facts, err := c.read(ctx)
		if err != nil || len(facts) == 0 {
			return all, err
		}
		for _, f := range facts {
			whole, err := n.blobs.whole(ctx, f.Mutation)
			if err != nil {
				return all, fmt.Errorf("fact %d of %s: %w", f.Seq, name, err)
			}
			all = append(all, whole)
		}
	}
}
