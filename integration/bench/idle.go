package main

import (
	"context"
	"fmt"
	"time"
)

// idleClients enrols agents, then leaves them alone with both sockets open.
func (b *bench) idleClients(ctx context.Context, tls bool) error {
	name, memoryAim := "plain ws", 20.0
	if tls {
		name, memoryAim = "TLS wss", 45
	}
	s, err := b.start(ctx, map[bool]string{false: "plain", true: "tls"}[tls], tls)
	if err != nil {
		return err
	}
	if err := s.collect(ctx); err != nil {
		return err
	}
	empty, err := s.usage(ctx)
	if err != nil {
		return err
	}
	profiled := s.profile(ctx, s.name+"-enrol")
	a, err := b.agents(ctx, s, herd{count: b.clients}, b.ramp)
	if err != nil {
		return err
	}
	if err := a.enrolled(ctx, s); err != nil {
		return err
	}
	full, err := s.usage(ctx)
	if err != nil {
		return err
	}
	count := float64(b.clients)
	enrol := figure{
		what: "enrol and interrogate, " + name, aim: 5, unit: "CPU ms", measured: (full.cpu - empty.cpu).Seconds() * 1000 / count,
		samples: fmt.Sprintf("%d clients in %.0f s", b.clients, full.at.Sub(empty.at).Seconds()),
	}
	b.add(enrol)
	if err := profiled.end(ctx, enrol.misses()); err != nil {
		return err
	}
	b.note("%s: %v", s.name, a.Stats().Delivery.Latency())
	if err := b.idle1(ctx, s, a, name, memoryAim, empty); err != nil {
		return err
	}
	return endBoth(a, s)
}

func endBoth(a *agents, s *server) error {
	if err := a.end(); err != nil {
		return err
	}
	return s.stop()
}

// idle1 is the time when nothing happens but pings.
func (b *bench) idle1(ctx context.Context, s *server, a *agents, name string, aim float64, empty usage) error {
	if err := s.collect(ctx); err != nil { // what the ramp left
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	before, err := s.usage(ctx)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(b.idle):
	}
	after, err := s.usage(ctx)
	if err != nil {
		return err
	}
	if err := s.collect(ctx); err != nil {
		return err
	}
	left, err := s.usage(ctx)
	if err != nil {
		return err
	}
	status := a.Status()
	count, kib := float64(b.clients), float64(1<<10)
	samples := fmt.Sprintf("%d clients, %d sockets, %v", b.clients, status.Sockets, b.idle)
	b.add(figure{what: "memory per idle client (RSS), " + name, aim: aim, unit: "KiB", measured: float64(after.rss-empty.rss) / count / kib, samples: samples})
	for _, part := range []struct{ what, metric string }{
		{"heap in use", "go_memstats_heap_inuse_bytes"}, {"heap objects", "go_memstats_heap_alloc_bytes"}, {"stacks", "go_memstats_stack_inuse_bytes"},
	} {
		grown := left.metrics[part.metric] - empty.metrics[part.metric]
		b.add(figure{what: "  of it " + part.what + " after a collection, " + name, unit: "KiB", measured: grown / count / kib, samples: samples})
	}
	used := (after.cpu - before.cpu).Seconds() / after.at.Sub(before.at).Seconds() * 100
	b.add(figure{what: "CPU of idle clients, " + name, aim: 3, unit: "% of a core", measured: used, samples: samples})
	pings := after.metrics[`raptorpack_frontend_pings_total{outcome="sent"}`] - before.metrics[`raptorpack_frontend_pings_total{outcome="sent"}`]
	b.note("%s: RSS empty %d, idle %d; %v pings; %+v", s.name, empty.rss, after.rss, pings, status)
	return nil
}
