package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/artifacts"
	"raptorpack/container"
	"raptorpack/internal/throttle"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// Options say how a compiled request runs on this machine.
type Options struct {
	Engine      *vql.Engine
	Accessors   map[string]vql.Accessor
	Permissions vql.Permissions // nil: everything
	Services    []any
	Config      *vql.Dict     // the variable config; nil: none
	Session     string        // its id
	Concurrency int           // queries at the same time; 0: one after the other
	Remapping   string        // for remap(), before each query; empty: none
	Progress    time.Duration // how long a query may do nothing at all; 0: no limit

	// What is told, perhaps by several queries at once.
	Log   func(level, message string)
	Begin func(result string) error                             // a result is about to come
	Row   func(result string, row *vql.Dict, line []byte) error // line is its JSON
}

// run is a request under way.
type run struct {
	o       Options
	request *artifacts.Request

	mu   sync.Mutex
	rows map[string]int64
	left int64 // of the limit on rows; below 1 and limited: none
}

// Run runs all queries of a request, and returns how many rows each result has. One
// query that fails does not keep the others from running.
func Run(ctx context.Context, request *artifacts.Request, o Options) (map[string]int64, error) {
	r := &run{o: o, request: request, rows: map[string]int64{}, left: int64(request.MaxRows)}
	errs := make([]error, len(request.Queries))
	var g errgroup.Group
	g.SetLimit(max(o.Concurrency, 1))
	for i, args := range request.Queries {
		g.Go(func() error {
			if ctx.Err() == nil && r.mayBegin() {
				errs[i] = r.query(ctx, args)
			}
			return nil
		})
	}
	err := errors.Join(g.Wait(), errors.Join(errs...))
	return r.rows, err
}

// mayBegin reports whether the limit on rows leaves any.
func (r *run) mayBegin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.request.MaxRows == 0 || r.left > 0 {
		return true
	}
	if r.left == 0 {
		r.left = -1 // told once
		r.o.Log(vql.LevelWarn, "row limit reached; the remaining queries were not run")
	}
	return false
}

// query runs one request in a scope of its own.
func (r *run) query(ctx context.Context, args *wirepb.VQLCollectorArgs) error {
	scope, err := r.scope(args)
	if err != nil {
		return err
	}
	defer scope.Close()
	if r.o.Remapping != "" {
		if _, err := scope.Call(ctx, "remap", vql.NewDict().Set("config", r.o.Remapping)); err != nil {
			return fmt.Errorf("remapping: %w", err)
		}
	}
	skip, err := skipped(ctx, scope, args.GetPrecondition())
	if err != nil {
		return err
	}
	for _, statement := range args.GetQuery() {
		name := ""
		if statement.GetName() != "" {
			name = r.request.Names[statement.GetName()]
			if err := r.o.Begin(name); err != nil {
				return err
			}
		}
		if skip {
			continue
		}
		if err := r.statement(ctx, scope, name, statement.GetVql()); err != nil {
			return err
		}
	}
	if skip {
		r.o.Log(vql.LevelInfo, "skipped: the precondition gave no row")
	}
	return nil
}

func (r *run) statement(ctx context.Context, scope *vql.Scope, name, text string) error {
	program, err := vql.Parse(text)
	if err != nil {
		return fmt.Errorf("compiled query: %w", err)
	}
	return scope.RunProgram(vql.InArtifact(ctx, name), program, func(row *vql.Dict) error {
		if name == "" {
			return nil
		}
		r.mu.Lock()
		r.rows[name]++
		if r.left > 0 {
			r.left--
		}
		r.mu.Unlock()
		return r.o.Row(name, row, scope.AppendJSON(nil, row))
	})
}

func (r *run) scope(args *wirepb.VQLCollectorArgs) (*vql.Scope, error) {
	env := vql.NewDict()
	for _, e := range args.GetEnv() {
		env.Set(e.GetKey(), e.GetValue())
	}
	env.Set("_SessionId", r.o.Session)
	if r.o.Config != nil {
		env.Set("config", r.o.Config)
	}
	bundled, err := artifacts.FromWire(args.GetArtifacts())
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	left := r.left
	r.mu.Unlock()
	l := limits(args)
	l.ProgressTimeout, l.MaxRows = r.o.Progress, max(left, 0)
	return r.o.Engine.NewScope(vql.SessionOptions{
		Env: env, Log: r.o.Log, Artifacts: bundled, Accessors: r.o.Accessors, Permissions: r.o.Permissions, Services: r.o.Services,
		Limits: l,
	}), nil
}

// limits are those that a request asks for.
func limits(args *wirepb.VQLCollectorArgs) vql.Limits {
	l := vql.Limits{Timeout: time.Duration(args.GetTimeout()) * time.Second, OpsPerSecond: float64(args.GetOpsPerSecond())}
	if t := throttle.New(float64(args.GetCpuLimit()), float64(args.GetIopsLimit()), nil); t != nil {
		l.Throttle = t
	}
	return l
}

// skipped reports whether a precondition forbids a request.
func skipped(ctx context.Context, scope *vql.Scope, text string) (bool, error) {
	if text == "" {
		return false, nil
	}
	program, err := vql.Parse(text)
	if err != nil {
		return false, fmt.Errorf("precondition: %w", err)
	}
	rows := 0
	err = scope.RunProgram(ctx, program, func(*vql.Dict) error {
		rows++
		return vql.ErrStop
	})
	if err != nil {
		return false, fmt.Errorf("precondition: %w", err)
	}
	return rows == 0, nil
}

// Describe writes what is known of this machine, for who brings the bundle in.
func (b *Bundle) Describe(ctx context.Context, o Options) (hostname string, err error) {
	hostname, err = os.Hostname()
	if err != nil {
		o.Log(vql.LevelWarn, "the name of this host is not known: "+err.Error())
	}
	info := vql.NewDict().Set("Hostname", hostname)
	scope := o.Engine.NewScope(vql.SessionOptions{Accessors: o.Accessors, Permissions: o.Permissions, Log: o.Log})
	defer scope.Close()
	program, err := vql.Parse("SELECT * FROM info()")
	if err != nil {
		return hostname, err
	}
	if err := scope.RunProgram(ctx, program, func(row *vql.Dict) error { info = row; return vql.ErrStop }); err != nil {
		o.Log(vql.LevelWarn, "what this host is: "+err.Error())
	}
	return hostname, b.line(container.Member{Path: container.ClientName, Kind: container.KindClient}, scope.AppendJSON(nil, info))
}
