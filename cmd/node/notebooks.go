package node

import (
	"context"

	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
)

// wireTimelines makes what reads and writes the rows of timelines.
func (n *Node) wireTimelines() {
	n.timelines = notebooks.NewFiles(notebooks.FilesOptions{
		Store: n.store, Reader: n.reader, Committer: n.committer, Registerer: n.registry,
	})
}

// sweepTimelines removes rows that no timeline names any more, while this node leads.
func (n *Node) sweepTimelines() *notebooks.Sweeper {
	return notebooks.NewSweeper(notebooks.SweeperOptions{
		Room: n.notebooks, Files: n.timelines, Settled: n.settledByAll, Logger: n.component("notebooks"),
		Propose: func(ctx context.Context, m *buspb.Mutation) error { return n.ledger.Propose(ctx, m) },
	})
}
