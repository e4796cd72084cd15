package vql

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/time/rate"

	"raptorpack/internal/throttle"
)

// queryThrottler adds the limits of a query() to the session's, and to those of
// the query() that it stands in.
type queryThrottler struct {
	session *session
	stop    context.CancelCauseFunc
	outer   *queryThrottler // nil: none
	rate    *rate.Limiter
	share   *throttle.Throttle
	ctx     context.Context //nolint:containedctx // the engine gives none
}

func newQueryThrottler(ctx context.Context, s *session, stop context.CancelCauseFunc, args *queryPluginArgs) *queryThrottler {
	t := &queryThrottler{session: s, stop: stop, outer: ownLimits(ctx), ctx: ctx}
	if args.IOPSLimit > 0 {
		t.rate = rate.NewLimiter(rate.Limit(args.IOPSLimit), 1)
	}
	t.share = throttle.New(args.CPULimit, 0, s.options.Limits.Usage)
	return t
}

// ownLimits finds the limits of the query() that ctx belongs to; nil when there is
// none.
func ownLimits(ctx context.Context) *queryThrottler {
	t, _ := ctx.Value(chargerKey{}).(*queryThrottler)
	return t
}

// hold waits for the query's own limits and those around it. A nil one has none.
func (t *queryThrottler) hold(ctx context.Context) error {
	for ; t != nil; t = t.outer {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		if t.rate != nil {
			if err := t.rate.Wait(ctx); err != nil {
				return err
			}
		}
		if err := t.share.Charge(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ChargeOp implements the engine's throttler.
func (t *queryThrottler) ChargeOp() {
	if t.hold(t.ctx) != nil {
		runtime.Goexit()
	}
	engineThrottler{session: t.session}.ChargeOp()
}

func (t *queryThrottler) chargeRow(ctx context.Context) error {
	if err := t.hold(ctx); err != nil {
		return err
	}
	return t.session.chargeRow(ctx)
}

// Close implements the engine's throttler.
func (t *queryThrottler) Close() {}

// watch ends the query when nothing happens for d.
func (t *queryThrottler) watch(d time.Duration) func() {
	stop := t.session.watchProgress(d, t.stop)
	return func() { stop() }
}
