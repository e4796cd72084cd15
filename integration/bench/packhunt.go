package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// oneRowArtifact gives a row from each client.
const oneRowArtifact = "Custom.Bench.One"

// hunt is what the door says of a hunt.
type hunt struct {
	State   string
	Clients map[string]int
	Rows    int64
	Uploads int64
	Bytes   int64 `json:"upload_bytes"`
	Folder  string
}

// over are the clients that will tell no more.
func (h hunt) over() int { return h.Clients["completed"] + h.Clients["errored"] }

// startHunt starts a hunt on all clients, or on those given.
func (d *door) startHunt(ctx context.Context, artifact string, clients ...string) (string, error) {
	var made struct {
		Hunt string `json:"hunt_id"`
	}
	err := d.call(ctx, http.MethodPost, "/hunts", map[string]any{
		"artifacts": []any{map[string]any{"name": artifact}}, "description": "bench", "start": true, "only_added": len(clients) > 0, "clients": clients,
		"limits": map[string]any{"timeout_seconds": 3600, "max_rows": 10_000_000, "max_upload_bytes": int64(10 << 30)},
	}, &made)
	return made.Hunt, err
}

// hunted is how a hunt went.
type hunted struct {
	id      string
	last    hunt
	took    time.Duration // until all clients were through
	most    time.Duration // until 95 of 100 were
	maximum int64         // bytes that the leading node had at most
}

// huntEvery is how often a hunt is asked for.
const huntEvery = 100 * time.Millisecond

// follow asks for a hunt until so many clients are through, and calls each with what
// the door says. While nodes die, another one is asked.
func (r *packRun) follow(ctx context.Context, w *watch, id string, clients int, begun time.Time, limit time.Duration, each func(hunt) error) (hunted, error) {
	out := hunted{id: id}
	err := until(ctx, huntEvery, limit, func() (bool, error) {
		var h hunt
		if err := r.door().call(ctx, http.MethodGet, "/hunts/"+id, nil, &h); err != nil {
			r.note("hunt is not to be seen: %v", err)
			return false, nil
		}
		out.last = h
		w.saw(h)
		if out.most == 0 && 100*h.over() >= 95*clients {
			out.most = time.Since(begun)
		}
		out.maximum = max(out.maximum, r.leaderMemory())
		if each != nil {
			if err := each(h); err != nil {
				return false, err
			}
		}
		return h.over() >= clients, nil
	})
	out.took = time.Since(begun)
	if err != nil {
		return out, fmt.Errorf("hunt %s: %w: %+v, clients %+v", id, err, out.last, r.stats().Status)
	}
	return out, nil
}

// leaderMemory is the resident memory of the first node, which leads unless it was
// killed; 0 where it is gone.
func (r *packRun) leaderMemory() int64 {
	nodes := r.nodes()
	rss, err := nodes[0].rss()
	if err != nil {
		return 0
	}
	return rss
}

// oneRow measures a hunt that gets one row from each client.
func (r *packRun) oneRow(ctx context.Context) error {
	if err := r.standing(ctx); err != nil {
		return err
	}
	var most, all, server, own, ops []float64
	var files int
	for n := range r.repeats {
		if err := r.settle(ctx); err != nil {
			return err
		}
		m, err := r.measured(ctx, fmt.Sprintf("hunt-%d", n+1))
		if err != nil {
			return err
		}
		most, all = append(most, m.most.Seconds()), append(all, m.took.Seconds())
		server, own, ops = append(server, m.server), append(own, m.own), append(ops, m.ops)
		files = max(files, m.files)
	}
	samples := fmt.Sprintf("%d clients, %d nodes, median of %d hunts", r.clients, nodesOfRun, r.repeats)
	r.add(figure{what: "one-row hunt, start to 95 % of rows queryable", aim: r.aimed(12, 1), unit: "s", measured: median(most), samples: samples})
	r.add(figure{what: "  to all of them", aim: r.aimed(15, 1), unit: "s", measured: median(all), samples: samples})
	r.add(figure{what: "  server CPU, all nodes", aim: r.aimed(8, 0), unit: "CPU s", measured: median(server), samples: samples})
	r.add(figure{what: "  CPU of the clients themselves", unit: "CPU s", measured: median(own), samples: samples})
	perFlow := 0.1
	if r.clients < 2000 {
		perFlow = 0 // what a hunt makes once counts for much among few
	}
	r.add(figure{what: "  filestore operations per flow, less those of an idle pack", aim: perFlow, unit: "calls", measured: median(ops), samples: samples})
	r.add(figure{what: "  files of a hunt per node, at most", unit: "files", measured: float64(files) / nodesOfRun, samples: samples})
	return nil
}

// aimed is an aim for 10,000 clients in proportion, but not below what any hunt takes.
func (r *packRun) aimed(full, least float64) float64 {
	return max(least, full*float64(r.clients)/10_000)
}

// measurement is what one hunt cost.
type measurement struct {
	hunted
	server, own float64 // CPU s
	ops         float64 // a flow
	files       int
}

// measured runs a hunt over all clients and counts everything twice.
func (r *packRun) measured(ctx context.Context, name string) (measurement, error) {
	var m measurement
	background, err := r.background(ctx)
	if err != nil {
		return m, err
	}
	before, err := r.usages(ctx)
	if err != nil {
		return m, err
	}
	profiles := r.profiles(ctx, name)
	w, own := r.watch(ctx), r.stats().CPU
	begun := time.Now()
	id, err := r.door().startHunt(ctx, oneRowArtifact)
	if err == nil {
		m.hunted, err = r.follow(ctx, w, id, r.clients, begun, 10*time.Minute, nil)
	}
	after, wrong := r.usages(ctx)
	if err := errors.Join(err, wrong, w.end(name)); err != nil {
		return m, err
	}
	time.Sleep(time.Second) // clients tell their processor time once a second
	m.server, m.own = cpuOfAll(after)-cpuOfAll(before), r.stats().CPU-own
	m.ops = r.operationsPerFlow(before, after, background)
	if err := r.endProfiles(ctx, profiles, m.server > r.aimed(8, 0)); err != nil {
		return m, err
	}
	if m.files, err = r.files(m.last.Folder); err != nil {
		return m, err
	}
	return m, r.recount(ctx, m.hunted, oneRowArtifact, r.clients, 1)
}

func (r *packRun) profiles(ctx context.Context, name string) []*profile {
	var out []*profile
	for _, s := range r.nodes() {
		out = append(out, s.profile(ctx, name+"-"+s.node))
	}
	return out
}

func (r *packRun) endProfiles(ctx context.Context, all []*profile, missed bool) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.end(ctx, missed))
	}
	return errors.Join(errs...)
}

// background is how many filestore operations a second an idle pack makes, by kind.
func (r *packRun) background(ctx context.Context) (map[string]float64, error) {
	before, err := r.usages(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(5 * time.Second):
	}
	after, err := r.usages(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for i := range after {
		for op, n := range operations(before[i], after[i]) {
			out[op] += n / after[i].at.Sub(before[i].at).Seconds()
		}
	}
	return out, nil
}

func (r *packRun) operationsPerFlow(before, after []usage, background map[string]float64) float64 {
	all := map[string]float64{}
	for i := range after {
		for op, n := range operations(before[i], after[i]) {
			all[op] += n
		}
	}
	seconds := after[0].at.Sub(before[0].at).Seconds()
	var sum float64
	var parts []string
	for _, op := range slices.Sorted(maps.Keys(all)) {
		n := max(0, all[op]-background[op]*seconds) / float64(r.clients)
		sum += n
		if n >= 0.0005 {
			parts = append(parts, fmt.Sprintf("%s %.4f", op, n))
		}
	}
	r.note("filestore operations per flow: %s", strings.Join(parts, ", "))
	return sum
}

// files counts those below a folder of the store.
func (r *packRun) files(folder string) (int, error) {
	count := 0
	err := filepath.WalkDir(filepath.Join(r.nodes()[0].store(), filepath.FromSlash(folder)), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			count++
		}
		return err
	})
	return count, err
}
