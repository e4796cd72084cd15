package replication

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// The level of a ledger is what its entries may mean: kinds, changes and fields that
// a program of level n writes and one of level n-1 would refuse, or take otherwise.
// It begins at 1 and is raised by an entry of its own, ledger.level, once every node
// that lives says that it knows the next one; from that entry on new meaning may be
// proposed. A program that meets a higher level than it knows stops: whatever it made
// of the entries behind would be another state.

// firstLevel is that of a ledger without an entry of its level.
const firstLevel = 1

// Level is what entries may mean on this ledger now, as far as it was applied here:
// who writes anything newer than level 1 asks before.
func (n *Node) Level() uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.memory.level
}

// checkLevel stops a program that is older than the ledger.
func (n *Node) checkLevel(level uint32) error {
	if level > n.o.Level {
		return fmt.Errorf("the ledger is at level %d, this program knows levels up to %d; run a newer one: %w", level, n.o.Level, ErrLevel)
	}
	return nil
}

// levelOf reads an entry of the level.
func levelOf(e *buspb.Entry) (uint32, error) {
	var body buspb.LedgerLevel
	if err := proto.Unmarshal(e.Mutation.Body, &body); err != nil {
		return 0, fmt.Errorf("level of the ledger: %w", ErrInvalid)
	}
	return body.Level, nil
}

// raise asks for the highest level that all living nodes know, as long as this node
// leads.
func (r *reign) raise(ctx context.Context) error {
	for r.n.Level() < r.n.o.Level {
		if level := r.n.common(); level > r.n.Level() {
			body, err := proto.Marshal(&buspb.LedgerLevel{Level: level})
			if err != nil {
				return fmt.Errorf("encode level: %w", err)
			}
			it := ownItem(kindLevel, body)
			r.offer(it)
			select {
			case a := <-it.answer:
				if a.err == nil {
					r.n.log.Info("level of the ledger is raised: every node knows it", "level", level, "index", a.out.index)
				}
			case <-ctx.Done():
				return nil
			}
		}
		if !retry.Sleep(ctx, r.n.o.LevelEvery) {
			return nil
		}
	}
	return nil
}

// common is the highest level that this node and all others know; that of the ledger
// while one of them that lives is not heard.
func (n *Node) common() uint32 {
	living, known := n.o.Living()
	if !known {
		return n.Level()
	}
	level := n.o.Level
	heard := []string{n.o.Incarnation}
	if n.bus != nil {
		for _, s := range n.bus.others() {
			heard = append(heard, s.GetIncarnation())
			level = min(level, max(s.GetLevel(), firstLevel))
		}
	}
	for _, name := range living {
		if !slices.Contains(heard, name) {
			return n.Level()
		}
	}
	return level
}
