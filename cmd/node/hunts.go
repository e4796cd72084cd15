package node

import (
	"context"
	"iter"
	"os"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/vql"
)

// wireHunts makes the room of hunts over that of clients, before either knows an
// entry, and the foreman, who tells through the outbox.
func (n *Node) wireHunts() error {
	engine, err := vql.NewEngine(nil, nil)
	if err != nil {
		return err
	}
	n.hunts = hunts.New(hunts.Options{Clients: n.clients, Created: n.queues.HuntCreated, Registerer: n.registry, Logger: n.component("hunts")})
	n.clients.Follow(n.hunts.ClientChanged)
	n.foreman = hunts.NewForeman(hunts.ForemanOptions{
		Room: n.hunts, Here: n.clientsHere, IsHere: n.board.Connected,
		Tell: func(ctx context.Context, facts []*buspb.Mutation) error {
			return n.ledger.Outbox().AppendSync(ctx, facts)
		},
		Ask: func(q hunts.Question) { n.asker.Ask(q) }, Index: func() uint64 { return n.ledger.Reached() },
	})
	n.asker = hunts.NewAsker(hunts.AskerOptions{
		Room: n.hunts, Foreman: n.foreman, Engine: engine.Counted(n.counted), Inquire: func(q flows.Inquiry) { n.flows.Inquire(q) },
	})
	return nil
}

// clientsHere lists the clients of an org that are connected to this node.
func (n *Node) clientsHere(org ids.Org) iter.Seq[ids.Client] {
	return func(yield func(ids.Client) bool) {
		for key := range n.board.All() {
			if key.Org == org && !yield(key.Client) {
				return
			}
		}
	}
}

// manageHunts admits clients while this node leads.
func (n *Node) manageHunts() *hunts.Manager {
	return hunts.NewManager(hunts.ManagerOptions{
		Room: n.hunts, Flows: n.flows, Connected: n.online, Now: time.Now,
		Propose: func(ctx context.Context, m *buspb.Mutation) error { return n.ledger.Propose(ctx, m) },
	})
}

// huntTables shows the rows of hunts. What it sorts lies in the system's folder for
// temporary files.
func (n *Node) huntTables() *hunts.Results {
	return hunts.NewResults(hunts.ResultsOptions{
		Hunts: n.hunts, Flows: n.flows, Clients: n.clients, Reader: n.reader, Store: n.store, Scratch: os.TempDir(),
		Registerer: n.registry, Logger: n.component("hunts"),
	})
}

// huntImports takes in hunts from elsewhere. A zip lies in the system's folder for
// temporary files while it is read.
func (n *Node) huntImports() *hunts.Importer {
	return hunts.NewImporter(hunts.ImporterOptions{
		Writer: n.committer, Files: n.huntStore(), Forget: n.committer.Forget, Scratch: os.TempDir(),
	})
}

// huntCopies adds collections that were made by hand to hunts.
func (n *Node) huntCopies() *hunts.Copier {
	return hunts.NewCopier(hunts.CopierOptions{
		Hunts: n.hunts, Flows: n.flows, Writer: n.committer, Incarnation: n.incarnation.Name(), Files: n.huntStore(), Forget: n.committer.Forget,
	})
}

func (n *Node) huntStore() hunts.Files { return hunts.Files{Store: n.store, Reader: n.reader} }

func (n *Node) writeHunts(ctx context.Context) error {
	return n.hunts.WriteViews(ctx, n.huntStore(), n.ledger.Reached)
}

// huntFiles knows which deleted hunts' files this node has closed.
type huntFiles struct {
	mu     sync.Mutex
	closed map[hunts.Key]bool
}

// unclosed is the oldest of some deletions of which files may be open here.
func (h *huntFiles) unclosed(all []hunts.Deletion) (index uint64, some bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, gone := range all {
		if !h.closed[gone.Key] && (!some || gone.Index < index) {
			index, some = gone.Index, true
		}
	}
	return index, some
}

// fresh lists the deletions that are not closed, and forgets about those that the
// ledger has forgotten.
func (h *huntFiles) fresh(all []hunts.Deletion) []hunts.Deletion {
	h.mu.Lock()
	defer h.mu.Unlock()
	closed := make(map[hunts.Key]bool, len(all))
	var out []hunts.Deletion
	for _, gone := range all {
		if h.closed[gone.Key] {
			closed[gone.Key] = true
		} else {
			out = append(out, gone)
		}
	}
	h.closed = closed
	return out
}

func (h *huntFiles) close(key hunts.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed[key] = true
}

// closeHunts closes the shared files of deleted hunts, once nothing of their flows is
// on its way, until ctx ends.
func (n *Node) closeHunts(ctx context.Context) error {
	tick := time.NewTicker(n.watchEvery())
	defer tick.Stop()
	for {
		for _, gone := range n.huntFiles.fresh(n.hunts.Deletions()) {
			if oldest, some := n.flows.Unclosed(); some && oldest <= gone.Index {
				continue
			}
			n.committer.Forget(ctx, filestore.HuntDir(gone.Org, gone.Hunt))
			n.huntFiles.close(gone.Key)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (n *Node) removeHunts(ctx context.Context, settled func(index uint64) bool, removed map[hunts.Key]bool) {
	for _, gone := range n.hunts.Deletions() {
		if removed[gone.Key] || !settled(gone.Index) {
			continue
		}
		if err := n.hunts.RemoveTree(ctx, n.huntStore(), gone.Key); err != nil {
			if ctx.Err() == nil {
				n.component("hunts").Warn("files of a deleted hunt are still there", "hunt", gone.Hunt.String(), "err", err)
			}
			continue
		}
		removed[gone.Key] = true
	}
}
