package endpoint

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime/metrics"
	"runtime/pprof"
	"runtime/trace"
	"time"

	"raptorpack/vql"
)

const (
	defaultProfileTime = 30 * time.Second
	maxProfileTime     = 10 * time.Minute
)

type profileArgs struct {
	Allocs    bool   `vql:"allocs" doc:"All allocations since the start."`
	Block     bool   `vql:"block" doc:"Where goroutines wait; of use where the process samples that."`
	Goroutine bool   `vql:"goroutine" doc:"The stacks of all goroutines."`
	Heap      bool   `vql:"heap" doc:"Memory in use."`
	Mutex     bool   `vql:"mutex" doc:"Contended locks; of use where the process samples that."`
	Profile   bool   `vql:"profile" doc:"Where processor time goes, over duration."`
	Trace     bool   `vql:"trace" doc:"What the scheduler does, over duration."`
	Debug     int64  `vql:"debug" doc:"0 writes files for go tool pprof; 1 and 2 give text, line by line, of what has such a form."`
	Logs      bool   `vql:"logs" doc:"Log lines; this process keeps none."`
	Queries   bool   `vql:"queries" doc:"Queries of late; this process keeps none."`
	Metrics   bool   `vql:"metrics" doc:"The runtime's own figures."`
	Duration  int64  `vql:"duration" doc:"Seconds that profile and trace take (30), at most 600."`
	Type      string `vql:"type" doc:"A regular expression: each kind whose name it matches counts as asked for."`
}

var profilePlugin = vql.NewPlugin(vql.Spec{
	Name: "profile", Permission: "MACHINE_STATE", Columns: []string{"Type", "Line", "OSPath"},
	Doc: "Looks into this process. Each kind gives a row with the temporary file that it was written to, or a row for each line.",
}, func(ctx context.Context, scope *vql.Scope, args *profileArgs, emit vql.Emit) error {
	wanted, err := args.kinds()
	if err != nil {
		return err
	}
	duration := defaultProfileTime
	if args.Duration != 0 {
		if duration = time.Duration(args.Duration) * time.Second; args.Duration < 0 || duration > maxProfileTime {
			return fmt.Errorf("duration %d: expected 1 to %.0f seconds", args.Duration, maxProfileTime.Seconds())
		}
	}
	if args.Logs || args.Queries {
		scope.Log(vql.LevelInfo, "profile: this process keeps neither log lines nor queries")
	}
	p := &profiling{scope: scope, emit: emit, debug: int(args.Debug), duration: duration}
	for _, kind := range wanted {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		if err := p.kind(ctx, kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
})

// kinds lists what is asked for.
func (a *profileArgs) kinds() ([]string, error) {
	all := []struct {
		name string
		is   bool
	}{
		{"allocs", a.Allocs},
		{"block", a.Block},
		{"goroutine", a.Goroutine},
		{"heap", a.Heap},
		{"mutex", a.Mutex},
		{"profile", a.Profile},
		{"trace", a.Trace},
		{"metrics", a.Metrics},
	}
	var pattern *regexp.Regexp
	if a.Type != "" {
		var err error
		if pattern, err = regexp.Compile("(?i)" + a.Type); err != nil {
			return nil, fmt.Errorf("type: %w", err)
		}
	}
	var out []string
	for _, kind := range all {
		if kind.is || pattern != nil && pattern.MatchString(kind.name) {
			out = append(out, kind.name)
		}
	}
	return out, nil
}

// profiling is one call of profile.
type profiling struct {
	scope    *vql.Scope
	emit     vql.Emit
	debug    int
	duration time.Duration
}

func (p *profiling) kind(ctx context.Context, kind string) error {
	switch kind {
	case "metrics":
		var text bytes.Buffer
		writeMetrics(&text)
		return p.lines(kind, &text)
	case "profile":
		return p.file(kind, func(w io.Writer) error {
			if err := pprof.StartCPUProfile(w); err != nil {
				return err
			}
			defer pprof.StopCPUProfile()
			return profileFor(ctx, p.duration)
		})
	case "trace":
		return p.file(kind, func(w io.Writer) error {
			if err := trace.Start(w); err != nil {
				return err
			}
			defer trace.Stop()
			return profileFor(ctx, p.duration)
		})
	}
	if p.debug <= 0 {
		return p.file(kind, func(w io.Writer) error { return pprof.Lookup(kind).WriteTo(w, 0) })
	}
	var text bytes.Buffer
	if err := pprof.Lookup(kind).WriteTo(&text, p.debug); err != nil {
		return err
	}
	return p.lines(kind, &text)
}

func profileFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// file writes a profile to a temporary file, which goes with the query.
func (p *profiling) file(kind string, write func(io.Writer) error) error {
	file, err := newTempFile(p.scope, "."+kind, true)
	if err != nil {
		return err
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return err
	}
	path := vql.ParsePath(hostSyntax(), file.Name())
	return p.emit(vql.NewDict().Set("Type", kind).Set("Line", vql.NULL).Set("OSPath", path))
}

func (p *profiling) lines(kind string, text io.Reader) error {
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if err := p.emit(vql.NewDict().Set("Type", kind).Set("Line", lines.Text()).Set("OSPath", vql.NULL)); err != nil {
			return err
		}
	}
	return lines.Err()
}

// writeMetrics writes the runtime's figures, one a line; of distributions how many
// there are.
func writeMetrics(w io.Writer) {
	var samples []metrics.Sample
	for _, d := range metrics.All() {
		samples = append(samples, metrics.Sample{Name: d.Name})
	}
	metrics.Read(samples)
	for _, s := range samples {
		switch s.Value.Kind() {
		case metrics.KindUint64:
			fmt.Fprintf(w, "%s %d\n", s.Name, s.Value.Uint64())
		case metrics.KindFloat64:
			fmt.Fprintf(w, "%s %g\n", s.Name, s.Value.Float64())
		case metrics.KindFloat64Histogram:
			total := uint64(0)
			for _, n := range s.Value.Float64Histogram().Counts {
				total += n
			}
			fmt.Fprintf(w, "%s_count %d\n", s.Name, total)
		}
	}
}
