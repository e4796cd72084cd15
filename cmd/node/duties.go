package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"raptorpack/api"
	"raptorpack/artifacts"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/master"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

const (
	expireEvery = 10 * time.Second // how often flows that wait for rows are looked at
	watchEvery  = 2 * time.Second  // how often incarnations are

	leaseTTL = 30 * time.Second // of an incarnation

	// patience is how many lease times beyond its own a lapsed incarnation has to
	// revive before the master buries it: a mount that hung for a minute or two then
	// costs no connection. A node that starts anew under its name does not wait so
	// long, and what died on its own machine is known to be over at once.
	patience = 4
)

// duties run while this node leads, once its ledger takes entries.
func (n *Node) duties() []master.Duty {
	plain := func(name string, run func(context.Context) error) master.Duty {
		return master.Duty{Name: name, Run: func(ctx context.Context, _ *filestore.Term) error { return run(ctx) }}
	}
	return []master.Duty{
		plain("interrogate", n.interrogate.Run),
		plain("views", n.flows.WriteViews),
		plain("expire", n.expire),
		plain("hunts", n.manageHunts().Run),
		plain("views of hunts", n.writeHunts),
		plain("remove", n.remove),
		plain("first events", n.firstEvents),
		plain("tools", n.fetchTools().Run),
		plain("timelines", n.sweepTimelines().Run),
		{Name: "collections on the server", Run: n.collectHere},
		plain("bury", n.bury),
		plain("queues", func(ctx context.Context) error { return n.queue.Run(ctx) }),
		plain("server events", func(ctx context.Context) error { return n.events.Run(ctx) }), // made with the doors
	}
}

// expire gives up flows that ended well and whose rows did not come in time.
func (n *Node) expire(ctx context.Context) error {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		mutations, err := n.flows.PlanExpire(time.Now())
		for _, m := range mutations {
			err = errors.Join(err, n.ledger.Propose(ctx, m))
		}
		if err != nil && ctx.Err() == nil {
			n.component("flows").Warn("flows could not be expired", "err", err)
		}
	}
}

// Settled is the newest entry that this node has applied and, where entries up to
// it deleted something, closed the files of. A master may remove what was deleted
// by an entry that all live nodes have settled.
func (n *Node) Settled() uint64 {
	_, applied, _ := n.ledger.Position()
	if oldest, some := n.flows.Unclosed(); some {
		applied = min(applied, oldest-1)
	}
	if oldest, some := n.huntFiles.unclosed(n.hunts.Deletions()); some {
		applied = min(applied, oldest-1)
	}
	return applied
}

// settledByAll tells whether every living node has settled an entry, as far as this
// node, which leads, has been told.
func (n *Node) settledByAll(index uint64) bool {
	living := n.living.Load()
	if living == nil || index > n.Settled() {
		return false
	}
	for _, name := range *living {
		if name != n.incarnation.Name() && n.ledger.SettledBy(name) < index {
			return false
		}
	}
	return true
}

func (n *Node) remove(ctx context.Context) error { return n.removeWhen(ctx, n.settledByAll) }

// removeWhen takes away the files of deleted flows and hunts that no live node has open
// any more, once in each term: what an earlier master left is seen again. settled tells
// whether all live nodes have done with an entry.
func (n *Node) removeWhen(ctx context.Context, settled func(index uint64) bool) error {
	removed := map[flows.Key]bool{}
	removedHunts := map[hunts.Key]bool{}
	removedEvents := map[flows.EventDeletion]bool{}
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		n.removeFlows(ctx, settled, removed)
		n.removeHunts(ctx, settled, removedHunts)
		n.removeEvents(ctx, settled, removedEvents)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (n *Node) removeFlows(ctx context.Context, settled func(index uint64) bool, removed map[flows.Key]bool) {
	for _, gone := range n.flows.Deletions() {
		if removed[gone.Key] || !settled(gone.Index) {
			continue
		}
		if err := n.flows.RemoveTree(ctx, gone.Key); err != nil {
			if ctx.Err() == nil {
				n.component("flows").Warn("files of a deleted flow are still there", "client", gone.Client.String(), "flow", gone.Flow.String(), "err", err)
			}
			continue
		}
		removed[gone.Key] = true
	}
}

// removeEvents takes away the days of which nothing is left. Nobody writes them any
// more, so no node has to close them; but each should leave them out before.
func (n *Node) removeEvents(ctx context.Context, settled func(index uint64) bool, removed map[flows.EventDeletion]bool) {
	for _, gone := range n.flows.Erased.All() {
		if removed[gone] || !settled(gone.Index) {
			continue
		}
		if err := n.flows.RemoveEvents(ctx, gone); err != nil {
			if ctx.Err() == nil {
				n.component("flows").Warn("files of deleted events are still there", "artifact", gone.Name, "client", gone.Client.String(), "err", err)
			}
			continue
		}
		removed[gone] = true
	}
}

// firstEvents gives a new deployment the event tables that its file names.
func (n *Node) firstEvents(ctx context.Context) error {
	f := n.o.Config.Frontend
	if len(f.DefaultClientMonitoring) > 0 && !n.flows.Events.Known(ids.RootOrg) {
		n.setFirst(ctx, func() (*buspb.Mutation, error) { return n.firstClientEvents(f.DefaultClientMonitoring) })
	}
	if _, version := n.flows.Server.Artifacts(ids.RootOrg); len(f.DefaultServerMonitoring) > 0 && version == 0 {
		n.setFirst(ctx, func() (*buspb.Mutation, error) { return n.firstServerEvents(f.DefaultServerMonitoring) })
	}
	return nil
}

func (n *Node) setFirst(ctx context.Context, plan func() (*buspb.Mutation, error)) {
	m, err := plan()
	if err == nil {
		err = n.ledger.Propose(ctx, m)
	}
	if err != nil && ctx.Err() == nil {
		n.component("flows").Warn("first event table is not set", "err", err)
	}
}

// firstOf compiles an event artifact that the file names; nil if it is none.
func (n *Node) firstOf(name string, kind artifacts.Type) *artifacts.Request {
	request, err := n.artifacts.Repository(ids.RootOrg).Compile(artifacts.Collect{
		Artifacts: []artifacts.Spec{{Name: name}}, AllowCustom: true, ClearNames: n.o.Config.Frontend.DoNotCompressArtifacts,
		Tools: n.toolVariables, Metadata: n.clients.ServerMetadata(ids.RootOrg),
	})
	if err == nil && request.Definitions[0].Type != kind {
		err = fmt.Errorf("it is of type %s, not %s", request.Definitions[0].Type, kind)
	}
	if err != nil {
		n.component("flows").Warn("event artifact of the file is left out", "artifact", name, "err", err)
		return nil
	}
	return request
}

func (n *Node) firstClientEvents(names []string) (*buspb.Mutation, error) {
	var group flows.EventGroup
	for _, name := range names {
		request := n.firstOf(name, artifacts.ClientEvent)
		if request == nil {
			continue
		}
		group.Artifacts = append(group.Artifacts, flows.Artifact{Name: request.Definitions[0].Name})
		for _, query := range request.Queries {
			if query.MaxWait == 0 {
				query.MaxWait = n.eventWait()
			}
			group.Queries = append(group.Queries, flows.EventQuery{Args: query, Names: namesOf(query, request.Names)})
		}
	}
	return flows.PlanEvents(ids.RootOrg, "", []flows.EventGroup{group})
}

// fileKeeper is in whose name server events of the file run: whoever can write that
// file may do anything.
const fileKeeper = api.LocalPrefix + "configuration"

func (n *Node) firstServerEvents(names []string) (*buspb.Mutation, error) {
	var all []flows.Artifact
	for _, name := range names {
		if request := n.firstOf(name, artifacts.ServerEvent); request != nil {
			all = append(all, flows.Artifact{Name: request.Definitions[0].Name})
		}
	}
	return flows.PlanServerEvents(ids.RootOrg, fileKeeper, all, nil)
}

// namesOf picks the names that one query reports under.
func namesOf(query *wirepb.VQLCollectorArgs, all map[string]string) map[string]string {
	out := map[string]string{}
	for _, statement := range query.GetQuery() {
		if name, ok := all[statement.GetName()]; ok {
			out[statement.GetName()] = name
		}
	}
	return out
}

func (n *Node) watchEvery() time.Duration { return cmp.Or(n.o.Tune.WatchEvery, watchEvery) }

// bury seals incarnations that are surely over and tells the ledger what they
// held of flows that have not ended: what they knew in memory only lies in their
// segments still.
func (n *Node) bury(ctx context.Context) error {
	log := n.component("master")
	ttl := cmp.Or(n.o.Tune.IncarnationTTL, leaseTTL)
	watcher := n.store.Watcher(ttl, patience*ttl)
	tick := time.NewTicker(n.watchEvery())
	defer tick.Stop()
	buried := map[string]bool{n.incarnation.Name(): true}
	for {
		all, err := watcher.Look(ctx)
		if err == nil {
			n.noteLiving(all)
			err = n.buryAll(ctx, watcher, all, buried)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("dead incarnations are not buried yet", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// livingNodes are the incarnations that have not ended, as the last look of this node,
// while it leads, has them.
func (n *Node) livingNodes() ([]string, bool) {
	living := n.living.Load()
	if living == nil {
		return nil, false
	}
	return *living, true
}

func (n *Node) noteLiving(all []filestore.IncarnationInfo) {
	living := []string{}
	for _, info := range all {
		if !info.Dead && !info.Released {
			living = append(living, info.Name)
		}
	}
	n.living.Store(&living)
}

// buryAll makes final what has lapsed, so that nobody revives it. It seals what is
// newly dead, once its outbox has told of all flows that it has rows of: a flow that
// is not known to run would be passed over. The segments of all are read at once
// afterwards, however many there are.
func (n *Node) buryAll(ctx context.Context, watcher *filestore.Watcher, all []filestore.IncarnationInfo, buried map[string]bool) error {
	var fresh []string
	var errs []error
	for _, info := range all {
		if info.Lapsed && !buried[info.Name] { // the next look shows what became of it
			if err := watcher.Bury(ctx, info); err != nil && !errors.Is(err, filestore.ErrAlive) {
				errs = append(errs, err)
			}
		}
		if buried[info.Name] || !info.Dead || !n.ledger.Adopted(info.Name) {
			continue
		}
		if err := n.seal(ctx, info); err != nil { // one that cannot be sealed holds up no other
			errs = append(errs, fmt.Errorf("seal %s: %w", info.Name, err))
			continue
		}
		fresh = append(fresh, info.Name)
	}
	if len(fresh) == 0 {
		return errors.Join(errs...)
	}
	mutations, err := n.flows.RecoverCoverage(ctx, fresh...)
	for _, m := range mutations {
		err = errors.Join(err, n.ledger.Propose(ctx, m))
	}
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("recover coverage: %w", err))...)
	}
	for _, name := range fresh {
		buried[name] = true
	}
	return errors.Join(errs...)
}

// seal fixes how much of a dead incarnation's files counts. One that ended by
// itself needs none: it writes no more.
func (n *Node) seal(ctx context.Context, info filestore.IncarnationInfo) error {
	if info.Released {
		return nil
	}
	if !info.Sealed {
		lengths, err := n.lengthsOf(ctx, info.Name)
		if err != nil {
			return err
		}
		err = n.store.SealIncarnation(ctx, info.Name, lengths)
		if err != nil && !errors.Is(err, filestore.ErrExists) {
			return err
		}
	}
	seal, err := n.store.ReadSeal(ctx, info.Name)
	if err != nil {
		return err
	}
	n.seals.learn(info.Name, seal)
	return nil
}

// lengthsOf measures the valid prefix of each file that a dead incarnation wrote
// for flows that have not ended. Files of flows that have are complete: their
// coverage stands in the ledger.
func (n *Node) lengthsOf(ctx context.Context, incarnation string) (map[string]int64, error) {
	lengths := map[string]int64{}
	looked := map[filestore.Set]bool{} // flows of a hunt share theirs
	for _, flow := range n.flows.Unfinished() {
		for _, set := range flow.Sets() {
			if looked[set] {
				continue
			}
			looked[set] = true
			segments, _, err := n.reader.Segments(ctx, set)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("measure %s: %w", set, err)
			}
			for _, s := range segments {
				if filestore.SegmentIncarnation(s.Path) != incarnation {
					continue
				}
				// What a killed process wrote may lie in this machine's page cache only;
				// before the ledger says that it is there, it has to be.
				if err := n.syncFile(ctx, s.Path); err != nil {
					return nil, fmt.Errorf("sync %s: %w", s.Path, err)
				}
				lengths[s.Path] = s.Valid
			}
		}
	}
	return lengths, nil
}

func (n *Node) syncFile(ctx context.Context, path string) error {
	file, err := n.store.OpenFile(ctx, path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(ctx), file.Close(ctx))
}

// seals answers readers from the seals of dead incarnations, each read once.
type seals struct {
	store *filestore.Store
	every time.Duration
	log   *slog.Logger

	mu    sync.RWMutex
	known map[string]*filestore.Seal
}

func newSeals(store *filestore.Store, every time.Duration, log *slog.Logger) *seals {
	return &seals{store: store, every: every, log: log, known: map[string]*filestore.Seal{}}
}

// watch learns the seals that others make, until ctx ends. Until then their readers
// take the valid prefix, which may show what nobody was told of.
func (s *seals) watch(ctx context.Context) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	ailing := false
	for {
		fresh, err := s.store.Seals(ctx, s.knows)
		for _, seal := range fresh {
			s.learn(seal.Incarnation, seal)
		}
		if err != nil && !ailing && ctx.Err() == nil {
			s.log.Warn("seals of dead incarnations cannot be looked for", "err", err)
		}
		ailing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *seals) knows(incarnation string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.known[incarnation] != nil
}

// learn takes over a seal.
func (s *seals) learn(incarnation string, seal *filestore.Seal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[incarnation] = seal
}

// length says how much of a file counts. A file that its incarnation's seal does
// not name belongs to a flow that had ended: all of its valid prefix counts.
func (s *seals) length(path string) (int64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	seal := s.known[filestore.SegmentIncarnation(path)]
	if seal == nil {
		return 0, false
	}
	length, named := seal.Lengths[path]
	return length, named
}
