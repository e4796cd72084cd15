package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"raptorpack/ids"
)

// IncarnationInfo is what is known of one incarnation.
type IncarnationInfo struct {
	Node      ids.Node
	N         uint64
	Name      string    // "<node>-<n>"
	Heartbeat Heartbeat // empty if the record is damaged
	Life      uint64    // the latest that is known to have begun
	Released  bool      // ended cleanly: its files are complete
	Sealed    bool      // the seal says how much of its files is valid
	Dead      bool      // over for good: nobody can revive it
	Lapsed    bool      // not valid, but it may revive until somebody calls Watcher.Bury
}

// Incarnations lists every incarnation that ever was, by node and number.
func (s *Store) Incarnations(ctx context.Context) ([]IncarnationInfo, error) {
	return s.Watcher(0, 0).Look(ctx)
}

// Watcher judges which foreign incarnations are over. For one goroutine.
type Watcher struct {
	observer *observer
	final    map[string]IncarnationInfo // by name: they change no more, but for a seal
}

// Watcher returns one that judges by a heartbeat's standing still for ttl (or
// what the record says, if that is longer) plus margin; zero: 30 s and 1 s.
func (s *Store) Watcher(ttl, margin time.Duration) *Watcher {
	if ttl <= 0 {
		ttl = 30 * time.Second
	}
	if margin <= 0 {
		margin = time.Second
	}
	return &Watcher{observer: s.observer(ttl, margin), final: map[string]IncarnationInfo{}}
}

// Look lists all incarnations afresh and judges them by what it saw at earlier
// looks. It has to be called every few seconds; seldom looks delay a verdict
// but never make it wrong.
func (w *Watcher) Look(ctx context.Context) ([]IncarnationInfo, error) {
	nodes, err := w.observer.store.nodes(ctx)
	if err != nil {
		return nil, err
	}
	var all []IncarnationInfo
	for _, node := range nodes {
		if all, err = w.lookNode(ctx, node, all); err != nil {
			return nil, fmt.Errorf("list incarnations of %s: %w", node, err)
		}
	}
	return all, nil
}

// nodes lists the nodes that ever ran.
func (s *Store) nodes(ctx context.Context) ([]ids.Node, error) {
	names, err := s.ReadDir(ctx, nodesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []ids.Node
	for _, name := range names {
		if node, err := ids.ParseNode(name); err == nil { // else not ours
			nodes = append(nodes, node)
		}
	}
	return nodes, nil
}

func (w *Watcher) lookNode(ctx context.Context, node ids.Node, all []IncarnationInfo) ([]IncarnationInfo, error) {
	listed, err := w.observer.store.listNode(ctx, node)
	if err != nil {
		return nil, err
	}
	for _, n := range listed.numbers {
		info, err := w.info(ctx, node, n, &listed)
		if err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	return all, nil
}

func (w *Watcher) info(ctx context.Context, node ids.Node, n uint64, listed *listing) (IncarnationInfo, error) {
	name := incarnationName(node, n)
	info, final := w.final[name]
	info.Sealed = listed.seals[n]
	if final {
		return info, nil
	}
	seen, over, err := w.observer.judge(ctx, node, n, listed)
	if err != nil {
		return info, err
	}
	info.Node, info.N, info.Name, info.Heartbeat, info.Life = node, n, name, seen.beat, seen.life
	info.Released, info.Dead, info.Lapsed = seen.verdict == released, over, seen.verdict == lapsed && !over
	if over && seen.verdict != vanished { // what only this machine knows may not be all
		w.final[name] = info
	}
	return info, nil
}

// Bury makes it final that an incarnation which this watcher found lapsed is over:
// then nobody revives it, and it may be sealed. ErrAlive: it has revived, or nothing
// says that it lapsed.
func (w *Watcher) Bury(ctx context.Context, info IncarnationInfo) error {
	if info.Dead {
		return nil
	}
	over := false
	if info.Lapsed {
		var err error
		if over, err = w.observer.bury(ctx, info.Node, info.N, info.Life); err != nil {
			return err
		}
	}
	if !over {
		return fmt.Errorf("bury %s: %w", info.Name, ErrAlive)
	}
	return nil
}
