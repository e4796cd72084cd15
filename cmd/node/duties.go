package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/master"
)

const (
	expireEvery = 10 * time.Second // how often flows that wait for rows are looked at
	watchEvery  = 2 * time.Second  // how often incarnations are
)

// duties run while this node leads, once its ledger takes entries.
func (n *Node) duties() []master.Duty {
	plain := func(name string, run func(context.Context) error) master.Duty {
		return master.Duty{Name: name, Run: func(ctx context.Context, _ *filestore.Term) error { return run(ctx) }}
	}
	return []master.Duty{
		{Name: "term", Run: n.holdTerm},
		plain("interrogate", n.interrogate.Run),
		plain("views", n.flows.WriteViews),
		plain("expire", n.expire),
		plain("bury", n.bury),
	}
}

// holdTerm lets adapters see the term that this node leads in.
func (n *Node) holdTerm(ctx context.Context, term *filestore.Term) error {
	n.term.Store(term)
	defer n.term.Store(nil)
	<-ctx.Done()
	return nil
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

// bury seals incarnations that are surely over and tells the ledger what they
// held of flows that have not ended: what they knew in memory only lies in their
// segments still.
func (n *Node) bury(ctx context.Context) error {
	log := n.component("master")
	watcher := n.store.Watcher(n.o.Tune.IncarnationTTL, 0)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	buried := map[string]bool{n.incarnation.Name(): true}
	for {
		all, err := watcher.Look(ctx)
		if err == nil {
			err = n.buryAll(ctx, all, buried)
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

// buryAll seals what is newly dead. The segments of all are read at once
// afterwards, however many there are.
func (n *Node) buryAll(ctx context.Context, all []filestore.IncarnationInfo, buried map[string]bool) error {
	var fresh []string
	for _, info := range all {
		if buried[info.Name] || !info.Dead && !info.Released {
			continue
		}
		if err := n.seal(ctx, info); err != nil {
			return fmt.Errorf("seal %s: %w", info.Name, err)
		}
		fresh = append(fresh, info.Name)
	}
	if len(fresh) == 0 {
		return nil
	}
	mutations, err := n.flows.RecoverCoverage(ctx, fresh[len(fresh)-1])
	for _, m := range mutations {
		err = errors.Join(err, n.ledger.Propose(ctx, m))
	}
	if err != nil {
		return fmt.Errorf("recover coverage: %w", err)
	}
	for _, name := range fresh {
		buried[name] = true
	}
	return nil
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
	for _, flow := range n.flows.Unfinished() {
		for _, set := range flow.Sets() {
			segments, _, err := n.reader.Segments(ctx, set)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("measure %s: %w", set, err)
			}
			for _, s := range segments {
				if filestore.SegmentIncarnation(s.Path) == incarnation {
					lengths[s.Path] = s.Valid
				}
			}
		}
	}
	return lengths, nil
}

// seals answers readers from the seals of dead incarnations, each read once.
type seals struct {
	store *filestore.Store

	mu    sync.RWMutex
	known map[string]*filestore.Seal
}

func newSeals(store *filestore.Store) *seals {
	return &seals{store: store, known: map[string]*filestore.Seal{}}
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
