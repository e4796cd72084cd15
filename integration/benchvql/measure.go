package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
	"www.velocidex.com/golang/vfilter"

	"raptorpack/artifacts"
	"raptorpack/vql"
)

// cost is what one run took.
type cost struct {
	cpu, wall time.Duration
	allocs    uint64
	rows      int
}

// costOf measures f in this process: processor time of user and system, of all
// threads, the collector's too.
func costOf(f func() (int, error)) (cost, error) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun, cpu := time.Now(), processorTime(syscall.RUSAGE_SELF)
	rows, err := f()
	c := cost{rows: rows, cpu: processorTime(syscall.RUSAGE_SELF) - cpu, wall: time.Since(begun)}
	runtime.ReadMemStats(&after)
	c.allocs = after.Mallocs - before.Mallocs
	return c, err
}

// processorTime is what getrusage(2) says: of this process or of its children that
// have ended.
func processorTime(who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		return 0 // only for a wrong who
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs both sides in turn.
func measure(ctx context.Context, o options, w workload, h *host, t *table) error {
	host, bare, n, err := w.sides(ctx, o, h)
	if err != nil {
		return err
	}
	var ours, theirs []cost
	for range o.runs {
		c, err := profiled(o.profile, func() (cost, error) { return costOf(host) })
		if err != nil {
			return fmt.Errorf("host: %w", err)
		}
		ours = append(ours, c)
		if c, err = costOf(bare); err != nil {
			return fmt.Errorf("bare engine: %w", err)
		}
		theirs = append(theirs, c)
		if ours[0].rows != theirs[0].rows {
			return fmt.Errorf("%d rows of the host, %d of the bare engine", ours[0].rows, theirs[0].rows)
		}
	}
	t.add(w, n, median(ours), median(theirs))
	return nil
}

// sides are what is measured: host and bare engine over n rows.
func (w workload) sides(ctx context.Context, o options, h *host) (ours, theirs func() (int, error), n int, err error) {
	if w.load != nil {
		host, bare, err := w.load()
		once := func(f func() error) func() (int, error) { return func() (int, error) { return 1, f() } }
		return once(host), once(bare), 1, err
	}
	n = max(1, int(float64(o.rows)*w.share))
	var out io.Writer
	if w.json {
		out = io.Discard
	}
	env := vql.NewDict().Set("N", int64(n))
	ours = func() (int, error) { return h.run(ctx, w.text, env, out) }
	theirs = func() (int, error) { return runBare(ctx, w.text, n, out) }
	return ours, theirs, n, nil
}

// artifactLoad reads an artifact with all checks, against what the libraries need
// for the YAML and the query alone.
func artifactLoad() (host, bare func() error, err error) {
	text := []byte(bigArtifact())
	host = func() error {
		_, err := artifacts.Parse("bench.yaml", text)
		return err
	}
	bare = func() error {
		var doc struct {
			Sources []struct{ Query string }
		}
		if err := yaml.Unmarshal(text, &doc); err != nil {
			return err
		}
		_, err := vfilter.MultiParse(doc.Sources[0].Query)
		return err
	}
	return host, bare, nil
}

// median takes the run in the middle by processor time.
func median(costs []cost) cost {
	slices.SortFunc(costs, func(a, b cost) int { return cmp.Compare(a.cpu, b.cpu) })
	return costs[len(costs)/2]
}

// profiled writes a processor profile of f when a file is named.
func profiled(path string, f func() (cost, error)) (cost, error) {
	if path == "" {
		return f()
	}
	file, err := os.Create(path)
	if err != nil {
		return cost{}, err
	}
	defer file.Close() // the profile is written whole before
	if err := pprof.StartCPUProfile(file); err != nil {
		return cost{}, err
	}
	defer pprof.StopCPUProfile()
	return f()
}
