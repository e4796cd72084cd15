package artifacts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"raptorpack/vql"
)

// maxDepth bounds artifacts that call artifacts.
const maxDepth = 10

// everywhere are the variables that each query sees, however deep it is called.
var everywhere = []string{"config", "_SessionId", "TZ"}

// errCall is what a wrong call answers; the text becomes one line of the log.
var errCall = errors.New("artifact call")

// Known implements vql.Artifacts.
func (r *Repository) Known(name string) (exact, prefix bool) {
	for ; r != nil; r = r.parent {
		r.mu.RLock()
		for known := range r.definitions {
			exact = exact || known == name
			prefix = prefix || strings.HasPrefix(known, name+".")
		}
		r.mu.RUnlock()
	}
	return exact, prefix
}

// CallArtifact implements vql.Artifacts: it runs an artifact's sources in a scope
// of their own and emits their rows, each with the column _Source.
func (r *Repository) CallArtifact(ctx context.Context, scope *vql.Scope, call vql.ArtifactCall, emit vql.Emit) error {
	if call.Depth >= maxDepth {
		return fmt.Errorf("%s: more than %d artifacts call each other: %w", call.Name, maxDepth, errCall)
	}
	e, err := r.entry(call.Name)
	if err != nil {
		return err
	}
	code, err := e.compile()
	if err != nil {
		return err
	}
	env, options, err := bind(ctx, scope, e.Definition, call.Args)
	if err != nil {
		return err
	}
	sources := code.sources
	if options.source != "" {
		sources = slices.DeleteFunc(slices.Clone(sources), func(s compiledSource) bool { return s.source.Name != options.source })
		if len(sources) == 0 {
			return fmt.Errorf("%s: no source %.60q: %w", e.Name, options.source, errCall)
		}
	}
	run := &artifactRun{repository: r, e: e, code: code, env: env, scope: scope, preconditions: options.preconditions}
	if e.Event() {
		return run.together(ctx, sources, emit)
	}
	for _, group := range groups(e.Definition, sources) {
		if err := run.group(ctx, group, emit); err != nil {
			return err
		}
	}
	return nil
}

type callOptions struct {
	source        string
	preconditions bool
}

// bind lays a call's arguments over the defaults; an unknown one is an error.
func bind(ctx context.Context, scope *vql.Scope, d *Definition, args *vql.Dict) (*vql.Dict, callOptions, error) {
	env, options := vql.NewDict(), callOptions{}
	for _, name := range everywhere {
		if value, ok := scope.Lookup(name); ok {
			env.Set(name, value)
		}
	}
	for _, p := range d.Parameters {
		env.Set(p.Name, p.Default)
	}
	if args == nil {
		return env, options, nil
	}
	for _, name := range args.Keys() {
		value, _ := args.Get(name)
		_, known := d.Parameter(name)
		switch {
		case known:
			env.Update(name, value)
		case name == "source":
			options.source = scope.String(ctx, value)
		case name == "preconditions":
			options.preconditions = scope.Truth(value)
		default:
			return nil, options, fmt.Errorf("%s: unknown parameter %.60q: %w", d.Name, name, errCall)
		}
	}
	return env, options, nil
}

// artifactRun is one call under way.
type artifactRun struct {
	repository    *Repository
	e             *entry
	code          *compiled
	env           *vql.Dict
	scope         *vql.Scope
	preconditions bool
}

// together runs event sources at the same time; rows come as they are there.
func (a *artifactRun) together(ctx context.Context, sources []compiledSource, emit vql.Emit) error {
	rows := make(chan vql.Value) // no buffer: a source waits until its row is wanted
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, source := range sources {
		g.Go(func() error {
			return a.group(ctx, []compiledSource{source}, func(row vql.Value) error {
				select {
				case rows <- row:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		})
	}
	done := make(chan error, 1) // one value, sent when the last source ended
	go func() {
		done <- g.Wait()
		close(rows)
	}()
	var stopped error
	for row := range rows {
		if stopped == nil {
			if stopped = emit(row); stopped != nil {
				cancel() // not by one goroutine more: the last may just have ended
			}
		}
	}
	if err := <-done; stopped == nil {
		return err
	}
	return stopped
}

// group runs sources in one clean scope, one after the other.
func (a *artifactRun) group(ctx context.Context, sources []compiledSource, emit vql.Emit) error {
	scope := a.scope.Clean(a.env)
	defer scope.Close()
	prelude, err := a.repository.prelude(a.e, a.code)
	if err != nil {
		return err
	}
	for _, s := range prelude {
		if err := scope.Run(ctx, s, discard); err != nil {
			return err
		}
	}
	for _, source := range sources {
		if a.preconditions {
			met, err := a.met(ctx, scope, source)
			if err != nil {
				return err
			}
			if !met {
				continue
			}
		}
		for _, s := range source.lets {
			if err := scope.Run(ctx, s, discard); err != nil {
				return err
			}
		}
		err := scope.Run(ctx, source.final, func(row *vql.Dict) error {
			return emit(row.Set("_Source", source.result))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *artifactRun) met(ctx context.Context, scope *vql.Scope, source compiledSource) (bool, error) {
	statements := a.code.precondition
	if len(source.precondition) > 0 {
		statements = source.precondition
	}
	if len(statements) == 0 {
		return true, nil
	}
	found := false
	for _, s := range statements {
		err := scope.Run(ctx, s, func(*vql.Dict) error { found = true; return vql.ErrStop })
		if err != nil && !errors.Is(err, vql.ErrStop) {
			return false, err
		}
	}
	return found, nil
}

func discard(*vql.Dict) error { return nil }
