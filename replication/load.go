package replication

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"raptorpack/proto/buspb"
)

// Load brings this node from nothing to the newest state that the filestore
// has: the newest snapshot that verifies, then the ledger up to its seals and,
// in the newest epoch, up to the end of what is valid. Call it once before
// Lead. A damaged snapshot is passed over loudly for the one before.
//
// ErrInvalid means that another run used this incarnation's name before.
// ErrDamaged and ErrGap mean that somebody must look; the node then holds an
// undefined state and must not serve.
func (n *Node) Load(ctx context.Context) error {
	end, err := n.begin("load")
	if err != nil {
		return err
	}
	defer end()
	begin := time.Now()
	if err := n.outbox.unused(ctx); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if err := n.load(ctx); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	at := n.place()
	n.log.Info("loaded", "index", at.index, "epoch", at.epoch, "took", time.Since(begin))
	return nil
}

func (n *Node) load(ctx context.Context) error {
	if err := n.restoreNewest(ctx); err != nil {
		return err
	}
	newest, err := n.newestEpoch(ctx)
	if err != nil {
		return err
	}
	for epoch := max(n.place().epoch, 1); epoch <= newest; epoch++ {
		seal, err := n.sealOf(ctx, epoch)
		if err != nil {
			return err
		}
		if seal == nil {
			// Whatever follows an epoch without a seal was never begun.
			if err := lastWritten(ctx, n.urgent, epoch); err != nil {
				return err
			}
			return n.replayLive(ctx, epoch, toTheEnd)
		}
		if err := n.replayTo(ctx, epoch, seal); err != nil {
			return err
		}
	}
	return nil
}

// newestEpoch is the newest that was ever claimed or written: an epoch may
// have a claim and no file, and a store brought back from a backup may have
// files and no claim.
func (n *Node) newestEpoch(ctx context.Context) (uint64, error) {
	newest, err := n.urgent.NewestEpoch(ctx)
	if err != nil {
		return 0, fmt.Errorf("find the newest epoch: %w", err)
	}
	written, err := listEpochs(ctx, n.urgent)
	if err != nil {
		return 0, fmt.Errorf("find the newest epoch: %w", err)
	}
	if len(written) > 0 {
		newest = max(newest, written[len(written)-1])
	}
	return newest, nil
}

// reset gives every state what it was before the first entry.
func (n *Node) reset() error {
	for _, kind := range n.kinds {
		if err := n.states[kind].Restore(bytes.NewReader(nil)); err != nil {
			return fmt.Errorf("reset %s: %w", kind, err)
		}
	}
	n.stand(place{}, digest{}, newMemory())
	return nil
}

// stand puts the node at a place that its states were restored to.
func (n *Node) stand(at place, sum digest, m *memory) {
	n.mu.Lock()
	n.at, n.reached, n.digest, n.memory = at, at.index, sum, m
	n.window.begin(at)
	n.compared.void()
	last := m.origins[origin{n.o.Incarnation, buspb.Origin_STREAM_PROPOSE}]
	n.mu.Unlock()
	n.props.passed(last, n.earlier)
	n.announce()
}
