package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"raptorpack/filestore"
)

// maxParts is no less than a node has.
const maxParts = 24

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
	for _, p := range parts {
		if p != n.keeper {
			p.start(life, n.failed)
		}
	}
	n.log.Info("node runs", "incarnation", n.incarnation.Name(), "frontend", n.frontendAt, "took", time.Since(n.started))
	var failure error
	select {
	case <-ctx.Done():
	case <-n.told.Done():
	case failure = <-n.failed:
	}
	n.draining.Store(true)
	n.log.Info("node stops", "err", failure)
	grace, cancel := context.WithTimeout(life, n.grace())
	defer cancel()
	errs := []error{failure}
	over := true
	for _, p := range slices.Backward(parts) {
		if p.name == "outbox" {
			n.sendRest(grace)
		}
		err := p.end(grace)
		over = over && !errors.Is(err, errLate)
		errs = append(errs, err)
	}
	if over { // else something may write yet, and others have to seal our files
		errs = append(errs, n.incarnation.Release(grace))
	}
	errs = append(errs, n.store.Close(grace))
	return errors.Join(errs...)
}

// grace is how long a stop may take.
func (n *Node) grace() time.Duration { return time.Duration(n.o.Config.Pack.DrainSeconds) * time.Second }

// tend renews the incarnation's lease. If it is lost because the filestore did
// not answer for so long, everybody stays connected and nothing is acknowledged
// until the filestore answers again. Then the node ends: what comes after needs a
// new incarnation, since others may have sealed the files of this one.
func (n *Node) tend(ctx context.Context) error {
	err := n.incarnation.Run(ctx)
	if errors.Is(err, filestore.ErrLeaseLost) {
		close(n.lapsed)
		n.log.Error("the filestore did not answer for longer than this node's lease: nothing is acknowledged, "+
			"and once it answers the process ends, to be started anew", "err", err)
		n.incarnation.Await(ctx)
	}
	return err
}

// lead runs the candidate until ctx ends; without an incarnation it leads no more.
func (n *Node) lead(ctx context.Context) error {
	able, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-n.lapsed:
			cancel()
		case <-able.Done():
		}
	}()
	err := n.master.Run(able)
	if able.Err() != nil {
		<-ctx.Done() // a part that ends by itself ends the node
	}
	return err
}

// parts in the order of starting: what others rely on first.
func (n *Node) parts() []*part {
	parts := []*part{
		{name: "filestore", run: n.store.Run},
		n.keeper,
	}
	if n.pack != nil {
		parts = append(parts,
			&part{name: "gossip", run: n.pack.run},
			&part{name: "bus", run: n.ledger.RunBus},
			&part{name: "presence", run: n.presence.run},
		)
	}
	if n.master != nil {
		parts = append(parts, &part{name: "master", run: n.lead})
	} else {
		parts = append(parts, &part{name: "minion", run: n.minion.Run})
	}
	return append(parts,
		&part{name: "seals", run: n.seals.watch},
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
		return fmt.Errorf("%s: %w", p.name, errLate)
	}
}

var errLate = errors.New("did not stop in time")

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
