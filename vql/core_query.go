package vql

import (
	"context"
	"errors"
	"fmt"
	"time"
)

func queryPlugins() []*Plugin {
	return []*Plugin{
		NewPlugin(Spec{Name: "query", Doc: "Runs a text or a query in a scope of its own, under limits.", Permission: "IMPERSONATION"}, queryPlugin),
	}
}

// QueryRunner is a service for hosts with several orgs and users.
type QueryRunner interface {
	// RunAs returns a scope for an org and a user, either "" for the present one.
	// The caller closes it.
	RunAs(ctx context.Context, scope *Scope, org, user string, env *Dict) (*Scope, error)
}

type queryPluginArgs struct {
	Query           Value    `vql:"query,required" doc:"A text or a query."`
	Env             *Dict    `vql:"env" doc:"Variables for it."`
	CopyEnv         []string `vql:"copy_env" doc:"Names of variables to take along."`
	CPULimit        float64  `vql:"cpu_limit" doc:"Per cent of the machine's processors that the process may use meanwhile."`
	IOPSLimit       float64  `vql:"iops_limit" doc:"Ops per second."`
	Timeout         float64  `vql:"timeout" doc:"Seconds."`
	ProgressTimeout float64  `vql:"progress_timeout" doc:"Seconds without progress."`
	OrgID           string   `vql:"org_id" doc:"Another org."`
	RunAs           string   `vql:"runas" doc:"Another user."`
	Inherit         bool     `vql:"inherit" doc:"Keep the present scope."`
	Exit            Lambda   `vql:"exit" doc:"A lambda over each row that ends it when true."`
}

func queryPlugin(ctx context.Context, scope *Scope, args *queryPluginArgs, emit Emit) error {
	if args.CPULimit < 0 || args.IOPSLimit < 0 {
		return errors.New("cpu_limit and iops_limit should be 0 or more")
	}
	var program *Program
	if text, ok := args.Query.(string); ok {
		var err error
		if program, err = Parse(text); err != nil {
			return err
		}
	}
	run, err := scope.queryScope(ctx, args)
	if err != nil {
		return err
	}
	defer run.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if args.Timeout > 0 {
		timer := time.AfterFunc(seconds(args.Timeout), func() { cancel(ErrTimeout) })
		defer timer.Stop()
	}
	limit := newQueryThrottler(ctx, scope.session, cancel, args)
	run.inner.SetThrottler(limit) // for what is left to the engine
	ctx = context.WithValue(ctx, chargerKey{}, limit)
	if args.ProgressTimeout > 0 {
		defer limit.watch(seconds(args.ProgressTimeout))()
	}
	each := func(row Value) error {
		if err := emit(run.Row(ctx, row)); err != nil {
			return err
		}
		if args.Exit.Given() && scope.Truth(args.Exit.Call(ctx, run, row)) {
			return ErrStop
		}
		return nil
	}
	if program != nil {
		err = run.runText(ctx, program, each)
	} else {
		err = scope.Query(ctx, args.Query).Run(ctx, run, each)
	}
	return endOfQuery(scope, ctx, err)
}

// endOfQuery logs a limit of this query alone; it does not end the outer one.
func endOfQuery(scope *Scope, ctx context.Context, err error) error { //nolint:revive // ctx is only asked for its cause
	if errors.Is(err, ErrStop) {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && isLimit(cause) {
		scope.Log(LevelError, "query: %v", cause)
		return nil
	}
	return err
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func (s *Scope) queryScope(ctx context.Context, args *queryPluginArgs) (*Scope, error) {
	env := NewDict()
	for _, name := range args.CopyEnv {
		if v, ok := s.Lookup(name); ok {
			env.Set(name, v)
		}
	}
	if args.Env != nil {
		for _, item := range args.Env.Items() {
			env.Set(item.Key, s.Real(ctx, item.Value))
		}
	}
	switch {
	case args.OrgID != "" || args.RunAs != "":
		runner, ok := Service[QueryRunner](s)
		if !ok {
			return nil, errNoRunner
		}
		run, err := runner.RunAs(ctx, s, args.OrgID, args.RunAs, env)
		if err != nil {
			return nil, fmt.Errorf("run as %s in %s: %w", args.RunAs, args.OrgID, err)
		}
		return run, nil
	case args.Inherit:
		return s.Child(env), nil
	}
	if s.depth >= maxArtifactDepth {
		return nil, fmt.Errorf("queries call each other more than %d deep", maxArtifactDepth)
	}
	return s.Clean(env), nil
}
