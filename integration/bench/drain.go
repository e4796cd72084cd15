package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"
)

// drainArtifact is what clients collect while their node is drained.
const drainArtifact = "Custom.Bench.Drained"

// balancerLooks is how long a node is drained before the balancer in front of the
// agents leads nobody there any more.
const balancerLooks = time.Second

// drained stops the last node while its clients are given work, and waits until they
// are connected elsewhere and have done it.
func (f *fleet) drained(ctx context.Context) error {
	last, rest := f.pack[len(f.pack)-1], f.pack[:len(f.pack)-1]
	before, err := last.connected(ctx)
	if err != nil {
		return err
	}
	if before != f.drainable {
		return fmt.Errorf("%w: %d clients at the node that is to be drained", errSettings, before)
	}
	if err := rest[1].door.artifact(ctx, drainArtifact, "SELECT Hostname, OS FROM info()"); err != nil {
		return err
	}
	busy, stop := context.WithCancel(ctx)
	defer stop()
	work := f.giveWork(busy, rest[1].door)

	begin := time.Now()
	if err := last.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	last.door.close()
	f.pack = rest
	time.Sleep(balancerLooks)
	for _, w := range f.swarms {
		if err := w.closeHome(); err != nil {
			return err
		}
	}
	if err := errors.Join(last.command.Wait(), last.log.Close()); err != nil {
		return fmt.Errorf("drain (log in %s): %w", last.log.Name(), err)
	}
	stopped := time.Since(begin)
	err = until(ctx, 100*time.Millisecond, 2*time.Minute, func() (bool, error) {
		connected := 0
		for _, s := range rest {
			n, err := s.connected(ctx)
			if err != nil {
				return false, err
			}
			connected += n
		}
		return connected == f.settings.fleet && total(f.swarms).Connected == connected, nil
	})
	if err != nil {
		return fmt.Errorf("clients of the drained node: %w: %+v", err, total(f.swarms))
	}
	back := time.Since(begin)
	stop()
	given := <-work
	samples := fmt.Sprintf("%d clients of %d", before, f.settings.fleet)
	f.add(figure{what: "drain of a node", aim: 20, unit: "s", measured: stopped.Seconds(), samples: samples})
	f.add(figure{what: "  to all its clients connected elsewhere", unit: "s", measured: back.Seconds(), samples: samples})
	return errors.Join(given.err, f.nothingLost(ctx, rest[1].door, given.flows))
}

// workEvery is the pause between two collections that clients of a node get which
// is drained.
const workEvery = 50 * time.Millisecond

// given are collections, by client.
type given struct {
	flows map[string]string
	err   error
}

// giveWork has clients of the last node collect something, one after the other,
// until ctx ends.
func (f *fleet) giveWork(ctx context.Context, d *door) <-chan given {
	out := make(chan given, 1) // one answer
	names, err := f.ids(f.drainable)
	if err != nil {
		out <- given{err: err}
		return out
	}
	go func() {
		g := given{flows: map[string]string{}}
		for len(names) > 0 && ctx.Err() == nil && g.err == nil {
			var flow string
			if flow, g.err = d.collect(context.WithoutCancel(ctx), names[0], drainArtifact); g.err == nil {
				g.flows[names[0]] = flow
			}
			names = names[1:]
			time.Sleep(workEvery)
		}
		out <- g
	}()
	return out
}

// nothingLost waits until all flows are completed and have their row.
func (f *fleet) nothingLost(ctx context.Context, d *door, flows map[string]string) error {
	begin := time.Now()
	for client, id := range flows {
		one, err := d.ended(ctx, client, id)
		if err != nil {
			return fmt.Errorf("collection on %s during the drain: %w", client, err)
		}
		if one.Rows != 1 {
			return fmt.Errorf("%w: flow %s of %s has %d rows", errLost, id, client, one.Rows)
		}
	}
	f.note("%d collections given to the clients during the drain are complete, %.1f s after it", len(flows), time.Since(begin).Seconds())
	return nil
}

var errLost = errors.New("not all rows are there")

// connected is how many clients a node says that wait there.
func (s *server) connected(ctx context.Context) (int, error) {
	var status struct{ Connected int }
	err := s.door.call(ctx, http.MethodGet, "/status", nil, &status)
	return status.Connected, err
}
