package yara

import (
	"context"
	"errors"
	"slices"
)

// maxIdleBytes is what an instance may hold to be kept: their memory grows with
// the blocks and never shrinks.
const maxIdleBytes = 64 << 20

// take returns an instance with the rules loaded.
func (e *Engine) take(ctx context.Context, r *Rules) (*instance, error) {
	if in := e.idleOf(r); in != nil {
		return in, nil
	}
	in, err := e.instance(ctx)
	if err != nil {
		return nil, err
	}
	c := &call{}
	if err := in.load(withCall(ctx, c), c, r); err != nil {
		return nil, errors.Join(err, in.close(ctx))
	}
	in.rules = r
	return in, nil
}

func (e *Engine) idleOf(r *Rules) *instance {
	e.idleMu.Lock()
	defer e.idleMu.Unlock()
	for i, in := range slices.Backward(e.idle) {
		if in.rules == r {
			e.idle = slices.Delete(e.idle, i, i+1)
			return in
		}
	}
	return nil
}

// give takes an instance back for the next scan with the same rules, in place of
// the one that has been idle longest; or closes it.
func (e *Engine) give(ctx context.Context, in *instance) error {
	if in.broken || in.bytes() > maxIdleBytes {
		return in.close(ctx)
	}
	out := in
	e.idleMu.Lock()
	if !e.gone && !in.rules.closed.Load() {
		e.idle, out = append(e.idle, in), nil
		if len(e.idle) > e.options.Instances {
			out = e.idle[0]
			e.idle = slices.Delete(e.idle, 0, 1)
		}
	}
	e.idleMu.Unlock()
	if out == nil {
		return nil
	}
	return out.close(ctx)
}

// Close frees what is kept for the next scan. Rules that are closed still scan, at
// the price of loading them each time.
func (r *Rules) Close(ctx context.Context) error {
	r.closed.Store(true)
	var mine []*instance
	r.engine.idleMu.Lock()
	r.engine.idle = slices.DeleteFunc(r.engine.idle, func(in *instance) bool {
		if in.rules == r {
			mine = append(mine, in)
		}
		return in.rules == r
	})
	r.engine.idleMu.Unlock()
	var errs []error
	for _, in := range mine {
		errs = append(errs, in.close(ctx))
	}
	return errors.Join(errs...)
}
