package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
)

// shelf is one place that a node's resident memory lies in.
type shelf struct {
	what  string
	bytes func(u usage) float64
}

// shelves add up to the resident memory, but for pages that the runtime holds and
// never touched.
var shelves = []shelf{
	{"live objects", func(u usage) float64 { return u.metrics["go_memstats_heap_alloc_bytes"] }},
	{"gaps between them", func(u usage) float64 {
		return u.metrics["go_memstats_heap_inuse_bytes"] - u.metrics["go_memstats_heap_alloc_bytes"]
	}},
	{"free and not given back", func(u usage) float64 {
		return u.metrics["go_memstats_heap_idle_bytes"] - u.metrics["go_memstats_heap_released_bytes"]
	}},
	{"stacks", func(u usage) float64 { return u.metrics["go_memstats_stack_inuse_bytes"] }},
	{"the runtime's own", func(u usage) float64 {
		return u.metrics["go_memstats_mspan_sys_bytes"] + u.metrics["go_memstats_mcache_sys_bytes"] + u.metrics["go_memstats_gc_sys_bytes"] +
			u.metrics["go_memstats_buck_hash_sys_bytes"] + u.metrics["go_memstats_other_sys_bytes"]
	}},
	{"program and mapped files", func(u usage) float64 { return float64(u.files) }},
}

// resident measures what one node holds for each client that is connected to it and
// does nothing: once with a quarter of the clients and once with all, so that what
// comes once (pages of the program, tables that are made when first used) is told
// from what comes with each client. Garbage is collected and free memory given back
// before each look, as the node itself does after a calm minute.
func (b *bench) resident(ctx context.Context, way string) error {
	s, err := b.start(ctx, "resident-"+way, way == "TLS")
	if err != nil {
		return err
	}
	empty, err := s.least(ctx)
	if err != nil {
		return errors.Join(err, s.stop())
	}
	r := residence{bench: b, server: s, way: way, empty: empty}
	some, err := r.reach(ctx, max(1, b.clients/4))
	if err == nil && b.clients > 1 {
		var all usage
		if all, err = r.reach(ctx, b.clients); err == nil {
			r.slope(some, all)
		}
	}
	for _, a := range r.agents {
		err = errors.Join(err, a.end())
	}
	return errors.Join(err, s.stop())
}

// residence is one node that fills with clients.
type residence struct {
	*bench
	server *server
	way    string
	empty  usage
	agents []*agents
	count  int
}

func (r *residence) aim() float64 {
	if r.way == "TLS" {
		return 45
	}
	return 20
}

// reach lets clients come until there are count, and looks when all is quiet.
func (r *residence) reach(ctx context.Context, count int) (usage, error) {
	a, err := r.bench.agents(ctx, r.server, herd{first: r.count, count: count - r.count}, r.ramp)
	if err != nil {
		return usage{}, err
	}
	r.agents, r.count = append(r.agents, a), count
	if err := a.enrolled(ctx, r.server); err != nil {
		return usage{}, err
	}
	full, err := r.server.least(ctx)
	if err != nil {
		return full, err
	}
	samples := fmt.Sprintf("%d clients, %d sockets", count, int(full.sockets()))
	per := func(now, before float64) float64 { return (now - before) / float64(count) / 1024 }
	r.add(figure{
		what: "resident memory of a node per client connected to it, " + r.way, aim: r.aim(), unit: "KiB",
		measured: per(float64(full.rss), float64(r.empty.rss)), samples: samples,
	})
	for _, one := range shelves {
		r.add(figure{what: "  of it " + one.what, unit: "KiB", measured: per(one.bytes(full), one.bytes(r.empty)), samples: samples})
	}
	return full, r.server.keep(ctx, fmt.Sprintf("resident-%s-%d.heap", r.way, count))
}

// slope is what one client more takes.
func (r *residence) slope(some, all usage) {
	more := float64(all.sockets()-some.sockets()) / 2
	samples := fmt.Sprintf("%d to %d sockets, %d clients at the end", int(some.sockets()), int(all.sockets()), r.count)
	r.add(figure{what: "  of one client more, " + r.way, aim: r.aim(), unit: "KiB", measured: float64(all.rss-some.rss) / more / 1024, samples: samples})
	for _, one := range shelves {
		r.add(figure{what: "    of it " + one.what, unit: "KiB", measured: (one.bytes(all) - one.bytes(some)) / more / 1024, samples: samples})
	}
}

// least is the server's usage when it holds no more than it needs.
func (s *server) least(ctx context.Context) (usage, error) {
	if err := s.quiet(ctx); err != nil {
		return usage{}, err
	}
	if err := s.giveBack(); err != nil {
		return usage{}, err
	}
	return s.usage(ctx)
}

// keep writes a profile of the server's heap beside the raw output.
func (s *server) keep(ctx context.Context, name string) error {
	text, err := s.ask(ctx, "/debug/pprof/heap")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.bench.out, name), text, 0o644)
}

// giveBack has the server collect its garbage and give free memory to the system.
func (s *server) giveBack() error {
	for range 3 { // stacks shrink by half with each collection
		if _, err := io.WriteString(s.orders, "\n"); err != nil {
			return fmt.Errorf("order %s to give memory back: %w", s.name, err)
		}
		if _, err := s.answers.ReadString('\n'); err != nil {
			return fmt.Errorf("wait for %s to give memory back: %w", s.name, err)
		}
	}
	return nil
}

// obey is the server's side of giveBack: it answers each line when it has done so.
func obey(in io.Reader, out io.Writer) {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		debug.FreeOSMemory()
		fmt.Fprintln(out, "given back") // who asked has gone otherwise
	}
}
