package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// snapshotRetry is how long a failed snapshot is not tried again.
const snapshotRetry = time.Minute

// snapshots decides when the state is written out, and knows what is kept.
type snapshots struct {
	jobs chan *views // one slot; offered only while no job is under way

	mu       sync.Mutex
	entries  int64 // since the newest snapshot
	bytes    int64
	running  bool
	notUntil time.Time
	newest   *manifest // nil: none known
	mentions []mention // of entries after the verified snapshot before newest, or after newest if none is known
}

func newSnapshots() *snapshots { return &snapshots{jobs: make(chan *views, 1)} }

// views is the whole replicated state between two entries.
type views struct {
	at       place
	sum      digest
	sections map[string]io.WriterTo
	origins  map[origin]uint64
	entries  int64 // counted up to here
	bytes    int64
}

// count notes what was added to the ledger.
func (s *snapshots) count(entries, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries += int64(entries)
	s.bytes += int64(bytes)
}

// mention notes that an entry has its body in a blob.
func (s *snapshots) mention(m *buspb.Mutation, index uint64) {
	if len(m.Blob) != len(hexSum{}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mentions = append(s.mentions, mention{index, hexSum(m.Blob)})
}

// due tells whether a snapshot is called for, and claims the job.
func (s *snapshots) due(o Options) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	enough := o.SnapshotEntries > 0 && s.entries >= o.SnapshotEntries
	if o.SnapshotBytes > 0 {
		least := o.SnapshotBytes
		if s.newest != nil {
			least = max(least, s.newest.bytes())
		}
		enough = enough || s.bytes >= least
	}
	if !enough || s.running || time.Now().Before(s.notUntil) {
		return false
	}
	s.running = true
	return true
}

// consider takes views of all states if a snapshot is due. It is called by the
// goroutine that applies, between two entries.
func (s *snapshots) consider(n *Node) {
	if s.due(n.o) {
		s.jobs <- n.views()
	}
}

// views is called by the goroutine that applies, between two entries.
func (n *Node) views() *views {
	v := &views{sections: map[string]io.WriterTo{}}
	for kind, state := range n.states {
		v.sections[kind] = state.View()
	}
	n.mu.Lock()
	memory := n.memory.view()
	v.at, v.sum = n.at, n.digest
	n.mu.Unlock()
	v.sections[kindSection], v.origins = memory, memory.origins
	n.shots.mu.Lock()
	defer n.shots.mu.Unlock()
	v.entries, v.bytes = n.shots.entries, n.shots.bytes
	return v
}

// run writes the snapshots that are called for until ctx ends. A snapshot that
// fails is told and tried again later: the ledger has it all.
func (s *snapshots) run(ctx context.Context, n *Node) error {
	for {
		select {
		case <-ctx.Done():
			s.abandon()
			return nil
		case v := <-s.jobs:
			m, err := n.snapshot(ctx, v)
			if err != nil && ctx.Err() == nil {
				n.m.snapshots.WithLabelValues("failed").Inc()
				n.log.Error("snapshot failed", "index", v.at.index, "err", err)
			}
			s.finished(err, v)
			if err == nil {
				err = n.prune(ctx, m)
			}
			if err != nil && m != nil && ctx.Err() == nil {
				n.log.Error("not all that snapshots cover could be removed", "index", m.Index, "err", err)
			}
		}
	}
}

// abandon takes back a job that nobody will do.
func (s *snapshots) abandon() {
	select {
	case v := <-s.jobs:
		s.finished(context.Canceled, v)
	default:
	}
}

func (s *snapshots) finished(err error, v *views) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
	switch {
	case err == nil:
		s.entries -= v.entries
		s.bytes -= v.bytes
	case !errors.Is(err, context.Canceled):
		s.notUntil = time.Now().Add(snapshotRetry)
	}
}

// snapshot writes v and reads it back.
func (n *Node) snapshot(ctx context.Context, v *views) (*manifest, error) {
	begin := time.Now()
	m, err := n.writeSnapshot(ctx, v)
	if err != nil {
		return nil, err
	}
	n.m.snapshots.WithLabelValues("verified").Inc()
	n.m.snapshotTook.Observe(time.Since(begin).Seconds())
	n.m.snapshotBytes.Set(float64(m.bytes()))
	n.m.snapshotIndex.Set(float64(m.Index))
	n.log.Info("snapshot verified", "index", m.Index, "epoch", m.Epoch, "bytes", m.bytes(), "took", time.Since(begin))
	return m, nil
}

// writeSnapshot publishes v by a rename and verifies what was published.
func (n *Node) writeSnapshot(ctx context.Context, v *views) (*manifest, error) {
	name := snapshotName(v.at.index, v.at.epoch)
	temp := path.Join(snapshotDir, unfinishedPrefix+n.o.Incarnation)
	if err := n.store.RemoveAll(ctx, temp); err != nil {
		return nil, fmt.Errorf("write snapshot %s: %w", name, err)
	}
	if err := n.fillSnapshot(ctx, temp, v); err != nil {
		return nil, fmt.Errorf("write snapshot %s: %w", name, err)
	}
	if err := n.store.Rename(ctx, temp, path.Join(snapshotDir, name)); err != nil {
		// Another master may have published the same; then that one must verify.
		if m, verr := verifySnapshot(ctx, n.store, name); verr == nil {
			return m, nil
		}
		return nil, fmt.Errorf("publish snapshot %s: %w", name, err)
	}
	if err := n.store.SyncDir(ctx, snapshotDir); err != nil {
		return nil, fmt.Errorf("publish snapshot %s: %w", name, err)
	}
	return verifySnapshot(ctx, n.store, name)
}

func (n *Node) fillSnapshot(ctx context.Context, dir string, v *views) error {
	m := &manifest{
		Version: manifestVersion, Index: v.at.index, Epoch: v.at.epoch, Time: v.at.time,
		Chain: hexSum(v.at.chain), Digest: hexSum(v.sum), Sections: []section{}, Blobs: n.shots.mentionsTo(v.at.index),
	}
	for _, kind := range append([]string{kindSection}, n.kinds...) {
		sec, err := writeSection(ctx, n.store, dir, kind, v.sections[kind])
		if err != nil {
			return err
		}
		m.Sections = append(m.Sections, sec)
	}
	data, err := m.encode()
	if err != nil {
		return err
	}
	if err := n.store.ReplaceFile(ctx, path.Join(dir, manifestName), data); err != nil {
		return err
	}
	return n.store.SyncDir(ctx, dir)
}

// mentionsTo returns the blobs named since the newest snapshot, up to index.
func (s *snapshots) mentionsTo(index uint64) []mention {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := uint64(0)
	if s.newest != nil {
		since = s.newest.Index
	}
	all := []mention{}
	for _, m := range s.mentions {
		if m.Index > since && m.Index <= index {
			all = append(all, m)
		}
	}
	return all
}

// restoreNewest puts the states at the newest snapshot that verifies, or at
// the beginning if there is none.
func (n *Node) restoreNewest(ctx context.Context) error {
	names, _, err := listSnapshots(ctx, n.store)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := n.restore(ctx, name)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || hopeless(err) {
			return err
		}
		n.m.snapshots.WithLabelValues("damaged").Inc()
		n.log.Error("snapshot is passed over", "snapshot", name, "err", err)
	}
	n.shots.begin(nil)
	return n.reset()
}

// restore puts the states at one snapshot. After an error they are undefined.
func (n *Node) restore(ctx context.Context, name string) error {
	m, err := readManifest(ctx, n.store, name)
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", name, err)
	}
	memory := newMemory()
	if err := n.reset(); err != nil {
		return err
	}
	for _, sec := range memoryFirst(m.Sections) {
		err := readSection(ctx, n.store, name, sec, func(r io.Reader) (err error) {
			if sec.Kind == kindSection {
				if memory, err = restoreMemory(r); err == nil {
					err = n.checkLevel(memory.level)
				}
				return err
			}
			state := n.states[sec.Kind]
			if state == nil {
				return fmt.Errorf("kind %s: %w", sec.Kind, ErrUnknownKind)
			}
			return state.Restore(r)
		})
		if err != nil {
			return fmt.Errorf("restore snapshot %s: %w", name, err)
		}
	}
	n.shots.begin(m)
	n.stand(m.place(), digest(m.Digest), memory)
	return nil
}

// memoryFirst lists sections so that a program that is too old for a snapshot knows it
// before it reads what it does not understand.
func memoryFirst(all []section) []section {
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b section) int {
		switch {
		case a.Kind == kindSection:
			return -1
		case b.Kind == kindSection:
			return 1
		}
		return 0
	})
	return out
}

// begin starts counting from a snapshot, nil: from the first entry.
func (s *snapshots) begin(m *manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest, s.entries, s.bytes, s.mentions = m, 0, 0, nil
	if m != nil {
		s.mentions = m.Blobs
	}
}

// originsOf reads how far each stream was taken in a snapshot.
func originsOf(ctx context.Context, s *filestore.Store, m *manifest) (map[origin]uint64, error) {
	name := snapshotName(m.Index, m.Epoch)
	for _, sec := range m.Sections {
		if sec.Kind != kindSection {
			continue
		}
		var data bytes.Buffer
		err := readSection(ctx, s, name, sec, func(r io.Reader) error {
			_, err := data.ReadFrom(r)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read snapshot %s: %w", name, err)
		}
		memory, err := restoreMemory(&data)
		if err != nil {
			return nil, fmt.Errorf("read snapshot %s: %w", name, err)
		}
		return memory.origins, nil
	}
	return nil, fmt.Errorf("read snapshot %s: it has no %s: %w", name, kindSection, ErrDamaged)
}
