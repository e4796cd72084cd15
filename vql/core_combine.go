package vql

import (
	"context"
	"errors"
	"sync"
)

func combinePlugins() []*Plugin {
	return []*Plugin{
		NewPlugin(Spec{Name: "chain", Doc: "The rows of each query in turn, or of all at once with async."}, chainPlugin),
		NewPlugin(Spec{Name: "combine", Doc: "The rows of all queries, run at the same time."}, combinePlugin),
		NewPlugin(Spec{Name: "switch", Doc: "The rows of the first query that has any."}, switchPlugin),
	}
}

type chainArgs struct {
	Async bool `vql:"async" doc:"Run all queries at the same time."`
	Rest  Rest
}

func chainPlugin(ctx context.Context, scope *Scope, args *chainArgs, emit Emit) error {
	if args.Async {
		return scope.together(ctx, args.Rest, emit)
	}
	for _, k := range args.Rest {
		if err := k.Query(ctx, scope).records(ctx, scope, emit); err != nil {
			return err
		}
	}
	return nil
}

func combinePlugin(ctx context.Context, scope *Scope, args *restArgs, emit Emit) error {
	return scope.together(ctx, args.Rest, emit)
}

// together runs all queries at the same time.
func (s *Scope) together(ctx context.Context, queries Rest, emit Emit) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	shared := serial(emit)
	var wg sync.WaitGroup
	for _, k := range queries {
		wg.Go(func() {
			defer s.session.recovered("chain")
			if err := k.Query(ctx, s).records(ctx, s, shared); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func switchPlugin(ctx context.Context, scope *Scope, args *restArgs, emit Emit) error {
	for _, k := range args.Rest {
		some := false
		err := k.Query(ctx, scope).records(ctx, scope, func(row Value) error {
			some = true
			return emit(row)
		})
		if err != nil || some {
			return err
		}
	}
	return nil
}

var errNoRunner = errors.New("org_id and runas are not available here")
