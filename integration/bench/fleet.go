package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/pool"
)

// fleet measures a pack of five under a connected fleet: what it costs when nothing
// happens, how soon a label is seen at all nodes, and how a node is drained.
func (b *bench) fleet(ctx context.Context) error {
	if b.drainable > b.settings.fleet {
		return fmt.Errorf("%w: %d clients of %d at the node that is drained", errSettings, b.drainable, b.settings.fleet)
	}
	var err error
	// All processes read the same file: none of them may have to make keys.
	if b.identities, err = pool.LoadIdentities(ctx, filepath.Join(b.out, "identities"), max(b.clients, b.settings.fleet)); err != nil {
		return err
	}
	pack, err := b.startPack(ctx, "fleet", nodeCount)
	if err != nil {
		return err
	}
	f := &fleet{bench: b, pack: pack}
	if f.swarms, err = b.swarmed(ctx, b.herds(pack)); err != nil {
		err = fmt.Errorf("%w: %+v", err, total(f.swarms))
	}
	for _, measure := range []func(context.Context) error{f.restful, f.labelsSeen, f.drained} {
		if err == nil {
			err = measure(ctx)
		}
	}
	for _, w := range f.swarms {
		err = errors.Join(err, w.end())
	}
	return errors.Join(err, stopPack(f.pack))
}

// fleet is a pack with its clients.
type fleet struct {
	*bench
	pack   []*server
	swarms []*swarm
}

// herds are the fleet in processes. Those first in the list are at home at the last
// node.
func (b *bench) herds(pack []*server) []herd {
	rest, last := pack[:len(pack)-1], pack[len(pack)-1]
	var all []herd
	for first := 0; first < b.settings.fleet; {
		h := herd{first: first, count: min(perProcess, b.settings.fleet-first), nodes: rest}
		if first < b.drainable {
			h.count, h.home = min(h.count, b.drainable-first), last
		}
		all = append(all, h)
		first += h.count
	}
	return all
}

// restful measures the processor time of a fleet that does nothing, at both ends.
func (f *fleet) restful(ctx context.Context) error {
	for _, s := range f.pack {
		if err := s.quiet(ctx); err != nil {
			return err
		}
	}
	servers, agents, err := f.cpu()
	if err != nil {
		return err
	}
	begun := time.Now()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(f.idle):
	}
	elapsed := time.Since(begun)
	serversNow, agentsNow, err := f.cpu()
	if err != nil {
		return err
	}
	samples := fmt.Sprintf("%d clients, %v", f.settings.fleet, f.idle)
	f.add(figure{what: fmt.Sprintf("CPU of %d nodes with an idle fleet", len(f.pack)), unit: "% of a core", measured: (serversNow - servers).Seconds() / elapsed.Seconds() * 100, samples: samples})
	f.add(figure{what: "CPU of the idle fleet's agents", unit: "% of a core", measured: (agentsNow - agents).Seconds() / elapsed.Seconds() * 100, samples: samples})
	return nil
}

// cpu is the processor time used so far by all nodes, and by all agents.
func (f *fleet) cpu() (servers, agents time.Duration, err error) {
	for _, s := range f.pack {
		used, wrong := s.cpu()
		servers, err = servers+used, errors.Join(err, wrong)
	}
	for _, w := range f.swarms {
		agents += time.Duration(w.Stats().CPU * float64(time.Second))
	}
	return servers, agents, err
}

// labelsSeen sets a label at one node after the other and asks all for it.
func (f *fleet) labelsSeen(ctx context.Context) error {
	names, err := f.ids(min(500, f.settings.fleet))
	if err != nil {
		return err
	}
	profiled := f.pack[0].profile(ctx, "fleet-labels")
	var took []time.Duration
	for i, name := range names {
		from := f.pack[i%len(f.pack)]
		begin := time.Now()
		index, err := from.door.label(ctx, name, "seen")
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		for _, s := range f.pack {
			g.Go(func() error { return s.door.sees(ctx, name, "seen", index) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		time.Sleep(10 * time.Millisecond)
	}
	f.percentiles(fmt.Sprintf("label set to seen at all of %d nodes through their doors, %d clients connected", len(f.pack), f.settings.fleet), took, 0, 50)
	return profiled.end(ctx, f.table[len(f.table)-1].misses())
}
