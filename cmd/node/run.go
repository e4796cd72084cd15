package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// part is something that runs while the node does.
type part struct {
	name string
	run  func(ctx context.Context) error

	stop context.CancelFunc
	done chan error // one value: what run returned
}

// Run starts every part in order, waits for ctx or for the first failure, then
// stops the parts in the reverse of their order. nil means told to stop.
func (n *Node) Run(ctx context.Context) error {
	life := context.WithoutCancel(ctx)
	parts := n.parts()
	failed := make(chan error, len(parts)) // one value each
	for _, p := range parts {
		p.start(life, failed)
	}
	n.log.Info("node runs", "incarnation", n.incarnation.Name(), "frontend", n.frontendAt, "took", time.Since(n.started))
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-failed:
	}
	n.draining.Store(true)
	n.log.Info("node stops", "err", failure)
	grace, cancel := context.WithTimeout(life, time.Duration(n.o.Config.Pack.DrainSeconds)*time.Second)
	defer cancel()
	errs := []error{failure}
	for _, p := range slices.Backward(parts) {
		if p.name == "outbox" {
			n.sendRest(grace)
		}
		errs = append(errs, p.end(grace))
	}
	errs = append(errs, n.incarnation.Release(grace), n.store.Close(grace))
	return errors.Join(errs...)
}

// parts in the order of starting: what others rely on first.
func (n *Node) parts() []*part {
	parts := []*part{
		{name: "filestore", run: n.store.Run},
		{name: "incarnation", run: n.incarnation.Run},
	}
	if n.master != nil {
		parts = append(parts, &part{name: "master", run: n.master.Run})
	}
	return append(parts,
		&part{name: "outbox", run: n.ledger.Run},
		&part{name: "committer", run: n.committer.Run},
		&part{name: "flows", run: n.flows.Run},
		&part{name: "doors", run: n.doors.run},
		&part{name: "memory", run: n.thrift},
		&part{name: "frontend", run: n.frontend.Run},
	)
}

func (p *part) start(life context.Context, failed chan<- error) {
	ctx, cancel := context.WithCancel(life)
	p.stop, p.done = cancel, make(chan error, 1)
	go func() {
		err := p.run(ctx)
		if ctx.Err() == nil { // ended by itself
			failed <- errors.Join(fmt.Errorf("%s ended", p.name), err)
		}
		p.done <- err
	}()
}

// end tells a part to stop and waits for it, as long as the grace lasts.
func (p *part) end(grace context.Context) error {
	p.stop()
	select {
	case err := <-p.done:
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		return nil
	case <-grace.Done():
		return fmt.Errorf("%s did not stop in time", p.name)
	}
}

// sendRest waits until the master has what this node's outbox holds. Without a
// master the file keeps it for the next one.
func (n *Node) sendRest(grace context.Context) {
	ctx, cancel := context.WithTimeout(grace, 2*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n.ledger.Outbox().Lag() > 0 {
		select {
		case <-ctx.Done():
			n.log.Warn("facts stay in the outbox file for the next master")
			return
		case <-tick.C:
		}
	}
}
