package hunts

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// sweep ends hunts whose time is over, cancels flows of those that were stopped for
// good, and removes what is left of the deleted. What fails is tried again the next
// time.
func (m *Manager) sweep(ctx context.Context, now time.Time) error {
	expired, err := m.room.PlanExpire(now)
	for _, mutation := range expired {
		err = errors.Join(err, m.o.Propose(ctx, mutation))
	}
	for _, h := range m.room.all(Stopped, Archived) {
		if h.CancelFlows && h.Counts[RunningClients] > 0 {
			err = errors.Join(err, m.cancel(ctx, h, m.o.Flows.HuntFlows(h.Org, h.Hunt)))
		}
	}
	for _, h := range m.room.all(Deleted) {
		err = errors.Join(err, m.clear(ctx, h))
	}
	return err
}

// cancel cancels those of a hunt's flows that are open.
func (m *Manager) cancel(ctx context.Context, h *Hunt, all iter.Seq[*flows.Flow]) error {
	return m.each(ctx, h, all, func(f *flows.Flow) bool { return !f.State.Final() }, flows.PlanCancelOpen)
}

// clear deletes all flows of a deleted hunt, then the hunt.
func (m *Manager) clear(ctx context.Context, h *Hunt) error {
	if h.Sums.Flows == 0 || h.Origin != nil {
		forget, err := mutation(h.Key, h.MovedBy, &buspb.HuntChange{Change: &buspb.HuntChange_Forget{Forget: &buspb.HuntForget{}}})
		if err != nil {
			return err
		}
		return m.o.Propose(ctx, forget)
	}
	if err := m.cancel(ctx, h, m.o.Flows.HuntFlows(h.Org, h.Hunt)); err != nil {
		return err
	}
	final := func(f *flows.Flow) bool { return f.State.Final() }
	return m.each(ctx, h, m.o.Flows.HuntFlows(h.Org, h.Hunt), final, flows.PlanDeleteAll)
}

// each proposes what is planned for some of a hunt's flows, in batches.
func (m *Manager) each(
	ctx context.Context, h *Hunt, all iter.Seq[*flows.Flow], which func(*flows.Flow) bool,
	plan func(ids.Org, []flows.Key, string) (*buspb.Mutation, error),
) error {
	var keys []flows.Key
	for f := range all {
		if which(f) {
			keys = append(keys, f.Key)
		}
	}
	for some := range slices.Chunk(keys, maxBatch) {
		mutation, err := plan(h.Org, some, h.MovedBy)
		if err == nil {
			err = m.o.Propose(ctx, mutation)
		}
		if err != nil {
			return fmt.Errorf("clear up after hunt %s: %w", h.Hunt, err)
		}
	}
	return nil
}
