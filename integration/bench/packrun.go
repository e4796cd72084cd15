package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"flag"
	"fmt"
	"sync"
	"time"

	"raptorpack/pool"
)

// nodesOfRun is one that leads and two that do not; the second could.
const nodesOfRun = 3

// packSettings are what the command line of "bench pack" has of its own.
type packSettings struct {
	waving     int           // clients of the part with waves
	wave       time.Duration // how long one is
	bulkers    int           // clients that bring much
	bulkRows   int           // rows of each
	bulkUpload int64         // MiB of each
}

// packRun is a pack under a script of load, with clients in processes of their own.
type packRun struct {
	*bench
	packSettings

	mu     sync.Mutex
	pack   []*server // those that live; empty: not started yet
	swarms []*swarm
	empty  []usage // of the nodes, before the first client
	some   []usage // with the first quarter of the clients
}

// runPack is the program's part "pack".
func runPack(ctx context.Context, args []string) error {
	s, p := settings{}, packSettings{}
	flags := flag.NewFlagSet("bench pack", flag.ContinueOnError)
	flags.IntVar(&s.clients, "clients", 2000, "connected clients")
	flags.Float64Var(&s.ramp, "ramp", 100, "clients that start in a second, in all processes together")
	flags.DurationVar(&s.idle, "idle", 20*time.Second, "how long clients are idle")
	flags.IntVar(&s.repeats, "repeats", 3, "how often the hunt runs")
	flags.IntVar(&p.bulkers, "bulk-clients", 50, "clients that bring many rows and an upload")
	flags.IntVar(&p.bulkRows, "bulk-rows", 5000, "rows of each of those")
	flags.Int64Var(&p.bulkUpload, "bulk-upload", 4, "MiB of the upload of each")
	flags.IntVar(&p.waving, "waving", 3000, "clients of which a tenth is online at a time")
	flags.DurationVar(&p.wave, "wave", 15*time.Second, "how long each tenth is")
	flags.BoolVar(&s.tls, "tls", false, "clients connect with TLS")
	flags.StringVar(&s.out, "out", "", "folder for tables, drawings and logs; empty: a new one in the folder for temporary files")
	flags.StringVar(&s.only, "only", "enrol,idle,hunt,bulk,failover,churn,waves", "what to measure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if s.clients < 1 || s.ramp <= 0 || s.repeats < 1 || p.bulkers < 1 || p.bulkers > s.clients || p.waving < 1 || p.wave <= 0 {
		return fmt.Errorf("%w: sizes that cannot be", errSettings)
	}
	b, err := newBench(s)
	if err != nil {
		return err
	}
	if err := b.begin(ctx, max(s.clients, p.waving)); err != nil {
		return err
	}
	r := &packRun{bench: b, packSettings: p}
	return errors.Join(b.each(ctx, []part{
		{"enrol", func(ctx context.Context) error { return r.standing(ctx) }},
		{"idle", r.resting},
		{"hunt", r.oneRow},
		{"bulk", r.bulk},
		{"failover", r.failover},
		{"churn", r.churning},
		{"waves", r.waves},
	}), r.end())
}

// nodes are those that live.
func (r *packRun) nodes() []*server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*server(nil), r.pack...)
}

// put sets the nodes that live.
func (r *packRun) put(pack []*server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pack = pack
}

// stats are the clients' figures.
func (r *packRun) stats() pool.Stats {
	var sum pool.Stats
	for _, w := range r.swarms {
		sum.Add(w.Stats())
	}
	return sum
}

// standing starts the pack and its clients, if that was not done yet, and measures
// what the enrolment takes.
func (r *packRun) standing(ctx context.Context) error {
	if len(r.nodes()) > 0 {
		return nil
	}
	edit := func(h *herd) { h.bulk = map[string]int64{"noise.bin": r.bulkUpload << 20} }
	first := max(1, r.clients/4)
	w, err := r.raise(ctx, "pack", first, false, edit)
	if err != nil {
		return err
	}
	took, err := r.filled(ctx, first, edit)
	if err := errors.Join(err, w.end("enrol"), r.settle(ctx)); err != nil {
		return err
	}
	if err := r.door().artifact(ctx, oneRowArtifact, "SELECT Hostname, OS FROM info()"); err != nil {
		return err
	}
	used, err := r.cpu()
	if err != nil {
		return err
	}
	clients, stats := float64(r.clients), r.stats()
	samples := fmt.Sprintf("%d clients, %d nodes, %.0f s", r.clients, nodesOfRun, took.Seconds())
	r.add(figure{what: "enrol and interrogate, all nodes", unit: "CPU ms a client", measured: (used - cpuOfAll(r.empty)) * 1000 / clients, samples: samples})
	r.add(figure{what: "  of the clients themselves", unit: "CPU ms a client", measured: stats.CPU * 1000 / clients, samples: samples})
	r.add(figure{what: "  start to first acknowledged message, 99 of 100", unit: "s", measured: stats.Delivery.Quantile(0.99).Seconds(), samples: samples})
	return nil
}

// filled waits for the first clients, looks what the nodes hold for them, and lets the
// others come.
func (r *packRun) filled(ctx context.Context, first int, edit func(*herd)) (time.Duration, error) {
	took, err := r.enrolled(ctx, first)
	if err != nil {
		return took, err
	}
	if r.some, err = r.least(ctx); err != nil || first == r.clients {
		return took, err
	}
	if err := r.join(ctx, first, r.clients-first, edit); err != nil {
		return took, err
	}
	further, err := r.enrolled(ctx, r.clients)
	return took + further, err
}

// enrolled waits until so many clients have been interrogated, and tells how long.
func (r *packRun) enrolled(ctx context.Context, clients int) (time.Duration, error) {
	begun := time.Now()
	err := until(ctx, 100*time.Millisecond, 30*time.Minute, func() (bool, error) {
		s := r.stats().Status
		return s.Connected == clients && s.Delivered == clients && s.Flows >= int64(clients), nil
	})
	if err != nil {
		err = fmt.Errorf("enrol: %w: %+v", err, r.stats().Status)
	}
	return time.Since(begun), err
}

// raise starts nodes on a store that is empty or knows the clients, and count clients
// that edit may change, and begins to watch them.
func (r *packRun) raise(ctx context.Context, name string, count int, known bool, edit func(*herd)) (*watch, error) {
	start := r.startPack
	if known {
		if err := r.acquaint(ctx, name, count); err != nil {
			return nil, err
		}
		start = r.startPackOn
	}
	pack, err := start(ctx, name, nodesOfRun)
	if err != nil {
		return nil, err
	}
	r.put(pack)
	if r.empty, err = r.least(ctx); err != nil {
		return nil, err
	}
	w := r.watch(ctx)
	if err := r.join(ctx, 0, count, edit); err != nil {
		return nil, errors.Join(err, w.end(name))
	}
	return w, nil
}

// join lets count clients come, from first on.
func (r *packRun) join(ctx context.Context, first, count int, edit func(*herd)) error {
	for last := first + count; first < last; first += perProcess {
		h := herd{first: first, count: min(perProcess, last-first), nodes: r.nodes()}
		edit(&h)
		one, err := r.swarm(ctx, h, r.ramp*float64(h.count)/float64(count))
		if err != nil {
			return err
		}
		r.swarms = append(r.swarms, one)
	}
	return nil
}

// acquaint writes a store that knows the clients from before.
func (r *packRun) acquaint(ctx context.Context, name string, count int) error {
	begin := time.Now()
	p, err := r.newLedger(ctx, name)
	if err != nil {
		return err
	}
	err = p.settle(ctx, count, func(n int) (*rsa.PublicKey, error) {
		identity, err := r.identities.At(n)
		if err != nil {
			return nil, err
		}
		return &identity.Key.PublicKey, nil
	})
	if err := errors.Join(err, p.end()); err != nil {
		return err
	}
	r.note("%s: ledger of %d clients written in %.0f s", name, count, time.Since(begin).Seconds())
	return nil
}

// end stops clients and nodes, if there are any.
func (r *packRun) end() error {
	var errs []error
	for _, w := range r.swarms {
		errs = append(errs, w.end())
	}
	r.swarms = nil
	errs = append(errs, stopPack(r.nodes()))
	r.put(nil)
	return errors.Join(errs...)
}

// settle waits until all nodes have nothing to do.
func (r *packRun) settle(ctx context.Context) error {
	for _, s := range r.nodes() {
		if err := s.quiet(ctx); err != nil {
			return err
		}
	}
	return nil
}

// door is that of the last node that lives: it never leads at first, and is asked as
// operators would ask any.
func (r *packRun) door() *door {
	nodes := r.nodes()
	return nodes[len(nodes)-1].door
}

// cpu is the processor time in seconds that the living nodes have used so far.
func (r *packRun) cpu() (float64, error) {
	var sum float64
	for _, s := range r.nodes() {
		used, err := s.cpu()
		if err != nil {
			return 0, err
		}
		sum += used.Seconds()
	}
	return sum, nil
}

func cpuOfAll(all []usage) float64 {
	var sum float64
	for _, u := range all {
		sum += u.cpu.Seconds()
	}
	return sum
}

// held tells what the nodes hold for their clients, when free memory was given back.
func (r *packRun) held(all []usage, samples string) {
	way, aim := "plain", 20.0
	if r.tls {
		way, aim = "TLS", 45
	}
	var whole, more, sockets float64
	for i, u := range all {
		whole += float64(u.rss - r.empty[i].rss)
		more += float64(u.rss - r.some[i].rss)
		sockets += u.sockets() - r.some[i].sockets()
	}
	// Each client is connected to one node, and all nodes know it: what is told of one
	// client has its record at the others in it.
	r.add(figure{what: "resident memory of all nodes per client of the fleet, with what comes once, " + way, unit: "KiB", measured: whole / float64(r.clients) / 1024, samples: samples})
	if sockets > 0 {
		r.add(figure{what: "  of one client more at its node, with its records at the others, " + way, aim: aim, unit: "KiB", measured: more / (sockets / 2) / 1024, samples: samples})
	}
}

// least is usages when the nodes are calm and hold no more than they need.
func (r *packRun) least(ctx context.Context) ([]usage, error) {
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	for _, s := range r.nodes() {
		if err := s.giveBack(); err != nil {
			return nil, err
		}
	}
	return r.usages(ctx)
}

// usages reads all nodes.
func (r *packRun) usages(ctx context.Context) ([]usage, error) {
	var out []usage
	for _, s := range r.nodes() {
		u, err := s.usage(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// resting is the time when nothing happens but pings.
func (r *packRun) resting(ctx context.Context) error {
	if err := r.standing(ctx); err != nil {
		return err
	}
	before, err := r.least(ctx)
	if err != nil {
		return err
	}
	w, agents := r.watch(ctx), r.stats()
	select {
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), w.end("idle"))
	case <-time.After(r.idle):
	}
	after, err := r.usages(ctx)
	if err := errors.Join(err, w.end("idle")); err != nil {
		return err
	}
	now, seconds := r.stats(), after[0].at.Sub(before[0].at).Seconds()
	samples := fmt.Sprintf("%d clients, %d sockets, %d nodes, %v", r.clients, now.Sockets, nodesOfRun, r.idle)
	r.held(before, samples)
	r.add(figure{what: "CPU of idle clients, all nodes", unit: "% of a core", measured: (cpuOfAll(after) - cpuOfAll(before)) / seconds * 100, samples: samples})
	r.add(figure{what: "  of the clients themselves", unit: "% of a core", measured: (now.CPU - agents.CPU) / seconds * 100, samples: samples})
	r.add(figure{what: "  memory of the clients themselves", unit: "KiB a client", measured: float64(now.Memory) / float64(r.clients) / 1024, samples: samples})
	return nil
}
