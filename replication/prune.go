package replication

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// prune makes m the newest verified snapshot, finds the verified one before it,
// and removes what both cover. With only one nothing is removed.
func (n *Node) prune(ctx context.Context, m *manifest) error {
	older, err := n.olderThan(ctx, m)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	n.shots.advance(m, older)
	if older == nil {
		return nil
	}
	taken, err := originsOf(ctx, n.store, older)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	steps := []func() error{
		func() error { return n.pruneSnapshots(ctx, m, older) },
		func() error { return n.pruneLedger(ctx, older) },
		func() error { return n.pruneOutboxes(ctx, taken) },
		func() error { return n.pruneBlobs(ctx, older) },
	}
	for _, step := range steps {
		err = errors.Join(err, step()) // one that fails holds up no other
	}
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	return nil
}

// olderThan finds the newest snapshot before m that verifies.
func (n *Node) olderThan(ctx context.Context, m *manifest) (*manifest, error) {
	names, _, err := listSnapshots(ctx, n.store)
	if err != nil {
		return nil, err
	}
	known := n.shots.last() // restored or verified by this process, if another master left it
	if known != nil && known.Index < m.Index && slices.Contains(names, snapshotName(known.Index, known.Epoch)) {
		return known, nil
	}
	for _, name := range names {
		if index, _, _ := parseSnapshotName(name); index >= m.Index {
			continue
		}
		older, err := verifySnapshot(ctx, n.store, name)
		if err == nil {
			return older, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		n.m.snapshots.WithLabelValues("damaged").Inc()
		n.log.Error("snapshot is passed over", "snapshot", name, "err", err)
	}
	return nil, nil
}

func (s *snapshots) last() *manifest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}

// advance makes newest the snapshot to count from; entries up to older can
// never be replayed again.
func (s *snapshots) advance(newest, older *manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = newest
	if older != nil {
		kept := slices.Clone(s.mentions)
		s.mentions = slices.DeleteFunc(kept, func(m mention) bool { return m.Index <= older.Index })
	}
}

func (n *Node) pruneSnapshots(ctx context.Context, newest, older *manifest) error {
	published, unfinished, err := listSnapshots(ctx, n.store)
	if err != nil {
		return err
	}
	for _, name := range published {
		index, _, _ := parseSnapshotName(name)
		if index >= newest.Index || name == snapshotName(older.Index, older.Epoch) {
			continue
		}
		// It loses its name first, durably: after a power cut no snapshot may
		// stand there with half of its files.
		away := unfinishedPrefix + "old-" + name
		if err := n.store.Rename(ctx, path.Join(snapshotDir, name), path.Join(snapshotDir, away)); err != nil {
			return err
		}
		unfinished = append(unfinished, away)
		n.m.pruned.WithLabelValues("snapshot").Inc()
	}
	if err := n.store.SyncDir(ctx, snapshotDir); err != nil {
		return err
	}
	for _, name := range unfinished {
		if err := n.store.RemoveAll(ctx, path.Join(snapshotDir, name)); err != nil {
			return err
		}
	}
	return nil
}

// pruneLedger removes the files all of whose entries older covers.
func (n *Node) pruneLedger(ctx context.Context, older *manifest) error {
	epochs, err := listEpochs(ctx, n.store)
	if err != nil {
		return err
	}
	for _, epoch := range epochs {
		if epoch > older.Epoch {
			break
		}
		if err := n.pruneEpoch(ctx, epoch, older); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) pruneEpoch(ctx context.Context, epoch uint64, older *manifest) error {
	firsts, err := listNumbers(ctx, n.store, epochDir(epoch))
	if err != nil {
		return err
	}
	for i, first := range firsts {
		covered := epoch < older.Epoch || i+1 < len(firsts) && firsts[i+1] <= older.Index+1
		if !covered {
			return nil
		}
		if err := n.store.Remove(ctx, ledgerFile(epoch, first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// One after the other, durably: what is left has no holes, whenever the
		// power goes.
		if err := n.store.SyncDir(ctx, epochDir(epoch)); err != nil {
			return err
		}
		n.m.pruned.WithLabelValues("ledger").Inc()
	}
	if epoch < older.Epoch {
		return n.removeDir(ctx, epochDir(epoch))
	}
	return nil
}

// removeDir removes a directory durably.
func (n *Node) removeDir(ctx context.Context, dir string) error {
	if err := n.store.RemoveAll(ctx, dir); err != nil {
		return err
	}
	return n.store.SyncDir(ctx, path.Dir(dir))
}

// pruneOutboxes removes the outbox files all of whose facts the older snapshot
// has, and then forgets incarnations that have ended and have none left.
func (n *Node) pruneOutboxes(ctx context.Context, taken map[origin]uint64) error {
	over, err := n.ended(ctx)
	if err != nil {
		return err
	}
	names, err := listOutboxes(ctx, n.store)
	if err != nil {
		return err
	}
	for _, name := range names {
		last := taken[origin{name, buspb.Origin_STREAM_OUTBOX}]
		err = errors.Join(err, n.pruneOutbox(ctx, name, last, over[name]))
	}
	return errors.Join(err, n.retireEnded(ctx, taken, over))
}

// ended tells which incarnations are surely over: by their own word, by a
// seal, or because their node runs under a later number.
func (n *Node) ended(ctx context.Context) (map[string]bool, error) {
	all, err := n.store.Incarnations(ctx)
	if err != nil {
		return nil, fmt.Errorf("list incarnations: %w", err)
	}
	newest := map[string]uint64{}
	for _, i := range all {
		newest[i.Node.String()] = max(newest[i.Node.String()], i.N)
	}
	over := map[string]bool{}
	for _, i := range all {
		if i.Released || i.Sealed || i.Dead || i.N < newest[i.Node.String()] {
			over[i.Name] = true
		}
	}
	delete(over, n.o.Incarnation)
	return over, nil
}

func (n *Node) pruneOutbox(ctx context.Context, name string, taken uint64, over bool) error {
	files, err := listOutbox(ctx, n.store, name)
	if err != nil {
		return err
	}
	for i, f := range files {
		covered := i+1 < len(files) && files[i+1].first <= taken+1
		if !covered && i+1 == len(files) && over {
			last, err := lastFact(ctx, n.store, name, f)
			if err != nil {
				return err
			}
			covered = last <= taken
		}
		if !covered {
			return nil
		}
		if err := n.store.Remove(ctx, f.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		n.m.pruned.WithLabelValues("outbox").Inc()
	}
	if over {
		// Durably: were it to come back after its stream is forgotten, its facts
		// would be taken again.
		return n.removeDir(ctx, path.Join(outboxDir, name))
	}
	return nil
}

// retireEnded proposes to forget the streams of incarnations that are over and
// whose outbox is gone: nothing can come from them any more.
func (n *Node) retireEnded(ctx context.Context, taken map[origin]uint64, over map[string]bool) error {
	left, err := listOutboxes(ctx, n.store)
	if err != nil {
		return err
	}
	var body buspb.OriginsRetired
	for o := range taken {
		if over[o.incarnation] && !slices.Contains(left, o.incarnation) {
			body.Incarnations = append(body.Incarnations, o.incarnation)
		}
	}
	if len(body.Incarnations) == 0 {
		return nil
	}
	slices.Sort(body.Incarnations)
	body.Incarnations = slices.Compact(body.Incarnations)
	raw, err := proto.Marshal(&body)
	if err != nil {
		return fmt.Errorf("retire origins: %w", err)
	}
	// Without a reign the next snapshot's pruning asks again.
	if r := n.reign(); r != nil {
		r.offer(ownItem(kindRetire, raw))
	}
	return nil
}

// reign is the epoch that this node leads, nil: none.
func (n *Node) reign() *reign {
	r, _ := n.props.leader().(*reign)
	return r
}

func (p *proposals) leader() leader {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lead
}

// pruneBlobs removes the blobs that no entry after older names.
func (n *Node) pruneBlobs(ctx context.Context, older *manifest) error {
	n.shots.mu.Lock()
	mentions := slices.Clone(n.shots.mentions)
	n.shots.mu.Unlock()
	used := map[chainHash]bool{}
	for _, m := range mentions {
		if m.Index > older.Index {
			used[chainHash(m.Blob)] = true
		}
	}
	removed, err := n.blobs.sweep(ctx, func(hash chainHash) bool { return used[hash] })
	n.m.pruned.WithLabelValues("blob").Add(float64(removed))
	return err
}

// lastFact returns the number of the last fact in an outbox file, 0 if none.
func lastFact(ctx context.Context, s *filestore.Store, name string, f outboxFile) (uint64, error) {
	data, err := s.ReadFile(ctx, f.path(name), maxFileBytes)
	if err != nil {
		return 0, fmt.Errorf("read outbox of %s: %w", name, err)
	}
	if _, err := parseOutboxHeader(data); err != nil && !errors.Is(err, errTorn) {
		return 0, fmt.Errorf("read outbox of %s: %w", name, err)
	}
	last, at := uint64(0), min(outboxHeader, len(data))
	for at < len(data) { // what a bad header is before counts as well, as for those who read it
		fact, size, err := parseFact(data[at:])
		if err != nil {
			break
		}
		last = max(last, fact.Seq)
		at += size
	}
	if err := checkFactTail(data[at:], int64(at)); err != nil {
		return 0, fmt.Errorf("read outbox of %s: %w", name, err)
	}
	return last, nil
}
