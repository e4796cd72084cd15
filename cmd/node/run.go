package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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
func (n *Node) grace() time.Duration {
	return time.Duration(n.o.Config.Pack.DrainSeconds) * time.Second
}

// tend keeps the incarnation's lease. If it is lost because the filestore did not
// answer for so long, everybody stays connected and nothing is acknowledged until
// the filestore answers again. Then the node goes on under its name, unless others
// have buried it meanwhile: what comes after that needs a new incarnation.
func (n *Node) tend(ctx context.Context) error {
	for {
		err := n.incarnation.Run(ctx)
		if !errors.Is(err, filestore.ErrLeaseLost) {
			return err
		}
		begin := time.Now()
		n.lease.set(false)
		n.log.Error("the filestore did not answer for longer than this node's lease: nothing is acknowledged until it does", "err", err)
		if err := n.incarnation.Revive(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		n.lease.set(true)
		n.log.Info("this node's lease holds again, under its old name", "life", n.incarnation.Life(), "after", time.Since(begin))
	}
}

// lease tells parts of the node whether the incarnation's lease lasts. Nothing may
// be acknowledged by it: only filestore.Incarnation.Valid says that.
type lease struct {
	mu      sync.Mutex
	lost    bool
	changed chan struct{} // closed at the next change
}

func newLease() *lease { return &lease{changed: make(chan struct{})} }

func (l *lease) set(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = !held
	close(l.changed)
	l.changed = make(chan struct{})
}

// now says whether the lease lasts, and what is closed when that changes.
func (l *lease) now() (held bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.lost, l.changed
}

// lead is a candidate until ctx ends, but only follows while the incarnation's lease
// is lost: what such a node proposes may be cut off any time.
func (n *Node) lead(ctx context.Context) error {
	for ctx.Err() == nil {
		held, changed := n.lease.now()
		run := n.master.Run
		if !held {
			run = n.minion.Run
		}
		if err := runUntil(ctx, changed, run); err != nil {
			return err
		}
	}
	return nil
}

// runUntil runs something until ctx ends or changed is closed.
func runUntil(ctx context.Context, changed <-chan struct{}, run func(context.Context) error) error {
	able, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-changed:
			cancel()
		case <-able.Done():
		}
	})
	err := run(able)
	told := able.Err() != nil
	cancel()
	watch.Wait()
	if err == nil && !told {
		err = errEnded
	}
	return err
}

// errEnded means that a candidate, or a follower, ended although nobody told it to.
var errEnded = errors.New("ended by itself")

// parts in the order of starting: what others rely on first.
func (n *Node) parts() []*part {
	parts := []*part{
		{name: "filestore", run: n.store.Run},
		n.keeper,
		{name: "clients", run: n.clients.Run},
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
	if n.o.Config.Frontend.ArtifactDefinitionsFolder != "" {
		parts = append(parts, &part{name: "artifact folder", run: n.watchArtifacts})
	}
	return append(parts,
		&part{name: "seals", run: n.seals.watch},
		&part{name: "outbox", run: n.ledger.Run},
		&part{name: "committer", run: n.committer.Run},
		&part{name: "flows", run: n.flows.Run},
		&part{name: "foreman", run: n.foreman.Run},
		&part{name: "conditions of hunts", run: n.asker.Run},
		&part{name: "files of hunts", run: n.closeHunts},
		&part{name: "tables of hunts", run: n.tables.Run},
		&part{name: "downloads", run: n.downloads.Run},
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
