package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// fleet measures a pack of five under a connected fleet: how soon a label is seen at
// all nodes, and how a node is drained.
func (b *bench) fleet(ctx context.Context) error {
	pack, err := b.startPack(ctx, "fleet", nodeCount)
	if err != nil {
		return err
	}
	swarms, err := b.swarmed(ctx, pack, b.settings.fleet)
	if err == nil {
		err = b.labelsSeen(ctx, pack)
	}
	if err == nil {
		err = b.drained(ctx, pack, swarms)
	}
	for _, w := range swarms {
		err = errors.Join(err, w.end())
	}
	return errors.Join(err, stopPack(pack[:nodeCount-1]))
}

// labelsSeen sets a label at one node after the other and asks all others for it.
func (b *bench) labelsSeen(ctx context.Context, pack []*server) error {
	names, err := b.ids(500)
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range 500 {
		from := pack[i%len(pack)]
		begin := time.Now()
		index, err := from.door.label(ctx, names[i], "seen")
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		for _, s := range pack {
			g.Go(func() error { return s.door.sees(ctx, names[i], "seen", index) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		time.Sleep(10 * time.Millisecond)
	}
	b.percentiles(fmt.Sprintf("label set to seen at all of %d nodes through their doors, %d clients connected", len(pack), b.settings.fleet), took, 0, 50)
	return nil
}

// drained stops the last node and waits until its clients are connected elsewhere.
func (b *bench) drained(ctx context.Context, pack []*server, swarms []*swarm) error {
	last := pack[len(pack)-1]
	var before struct{ Connected int }
	if err := last.door.call(ctx, http.MethodGet, "/status", nil, &before); err != nil {
		return err
	}
	begin := time.Now()
	if err := last.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	last.door.close()
	if err := errors.Join(last.command.Wait(), last.log.Close()); err != nil {
		return fmt.Errorf("drain (log in %s): %w", last.log.Name(), err)
	}
	stopped := time.Since(begin)
	err := until(ctx, 100*time.Millisecond, 2*time.Minute, func() (bool, error) {
		connected := 0
		for _, w := range swarms {
			connected += w.now().Connected
		}
		return connected == b.settings.fleet, nil
	})
	if err != nil {
		return err
	}
	samples := fmt.Sprintf("%d clients; all connected again after %.1f s", before.Connected, time.Since(begin).Seconds())
	b.add(figure{what: "drain of a node", aim: 20, unit: "s", measured: stopped.Seconds(), samples: samples})
	return nil
}
