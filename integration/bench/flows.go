package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// flowClients is how many agents share the small collections, flowCallers how many
// operators start them at a time.
const (
	flowClients = 1000
	flowCallers = 32
)

// smallFlows gives many clients one tiny collection after the other.
func (b *bench) smallFlows(ctx context.Context) error {
	s, err := b.start(ctx, "flows", false)
	if err != nil {
		return err
	}
	clients := min(flowClients, b.clients)
	a, err := b.agents(ctx, s, herd{count: clients}, b.ramp)
	if err != nil {
		return err
	}
	if err := a.enrolled(ctx, s); err != nil {
		return err
	}
	names, err := b.ids(clients)
	if err != nil {
		return err
	}
	if err := s.door.artifact(ctx, "Custom.Bench.Tiny", "SELECT Hostname, OS FROM info()"); err != nil {
		return err
	}
	if err := s.startFlows(ctx, names, clients); err != nil { // warm
		return err
	}
	if err := a.flowsDone(ctx, int64(2*clients)); err != nil {
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	if err := b.flowsAtOnce(ctx, s, a, names); err != nil {
		return err
	}
	if err := a.end(); err != nil {
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	before, err := s.usage(ctx)
	if err != nil {
		return err
	}
	if err := s.startFlows(ctx, names, clients); err != nil {
		return err
	}
	after, err := s.usage(ctx)
	if err != nil {
		return err
	}
	b.add(figure{
		what: "  of it starting one through the JSON door (clients offline)", unit: "CPU ms", samples: fmt.Sprintf("%d flows", clients),
		measured: (after.cpu - before.cpu).Seconds() * 1000 / float64(clients),
	})
	return s.stop()
}

// flowsAtOnce measures collections from their start to their durable end.
func (b *bench) flowsAtOnce(ctx context.Context, s *server, a *agents, names []string) error {
	background, err := s.background(ctx)
	if err != nil {
		return err
	}
	done := a.Status().Flows
	before, err := s.usage(ctx)
	if err != nil {
		return err
	}
	profiled := s.profile(ctx, "flows")
	if err := s.startFlows(ctx, names, b.flows); err != nil {
		return err
	}
	if err := a.flowsDone(ctx, done+int64(b.flows)); err != nil {
		return err
	}
	after, err := s.usage(ctx)
	if err != nil {
		return err
	}
	took, count := after.at.Sub(before.at).Seconds(), float64(b.flows)
	samples := fmt.Sprintf("%d flows, %d clients, %.1f s", b.flows, len(names), took)
	rate := figure{what: "durable direct flows", aim: 300, more: true, unit: "1/s", measured: count / took, samples: samples}
	cost := figure{what: "server CPU per flow, with its start", aim: 0.4, unit: "CPU ms", measured: (after.cpu - before.cpu).Seconds() * 1000 / count, samples: samples}
	b.add(rate)
	b.add(cost)
	b.filestoreOps(before, after, background, count, samples)
	b.note("flows: %v", a.Stats().Flow.Latency())
	return profiled.end(ctx, rate.misses() || cost.misses())
}

// startFlows starts count collections, one client after the other.
func (s *server) startFlows(ctx context.Context, names []string, count int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(flowCallers)
	for n := range count {
		group.Go(func() error {
			_, err := s.door.collect(ctx, names[n%len(names)], "Custom.Bench.Tiny")
			return err
		})
	}
	return group.Wait()
}

func (a *agents) flowsDone(ctx context.Context, count int64) error {
	err := until(ctx, 20*time.Millisecond, 10*time.Minute, func() (bool, error) { return a.Status().Flows >= count, nil })
	if err != nil {
		return fmt.Errorf("wait for %d flows: %w: %+v", count, err, a.Status())
	}
	return nil
}

const opsMetric = "raptorpack_filestore_ops_total{"

// background is how many filestore operations a second there are without work.
func (s *server) background(ctx context.Context) (map[string]float64, error) {
	before, err := s.usage(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(10 * time.Second):
	}
	after, err := s.usage(ctx)
	out := map[string]float64{}
	for op, n := range operations(before, after) {
		out[op] = n / after.at.Sub(before.at).Seconds()
	}
	return out, err
}

// operations are those between two moments, by kind.
func operations(before, after usage) map[string]float64 {
	out := map[string]float64{}
	for name, n := range after.metrics {
		if rest, ok := strings.CutPrefix(name, opsMetric); ok {
			op, _, _ := strings.Cut(strings.TrimPrefix(rest, `op="`), `"`)
			out[op] += n - before.metrics[name]
		}
	}
	return out
}

func (b *bench) filestoreOps(before, after usage, background map[string]float64, count float64, samples string) {
	seconds := after.at.Sub(before.at).Seconds()
	all := operations(before, after)
	var sum float64
	var parts []string
	for _, op := range slices.Sorted(maps.Keys(all)) {
		n := max(0, all[op]-background[op]*seconds) / count
		sum += n
		if n >= 0.005 {
			parts = append(parts, fmt.Sprintf("%s %.2f", op, n))
		}
	}
	b.add(figure{what: "filestore operations per flow", unit: "calls", measured: sum, samples: samples})
	b.note("filestore operations per flow, less those of an idle node: %s", strings.Join(parts, ", "))
}
