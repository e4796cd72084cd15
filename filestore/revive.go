package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"raptorpack/internal/retry"
)

// reviveTries is how often a filestore that takes files may refuse the two of a
// revival, a sixteenth of the TTL apart, before the process had better start anew.
const reviveTries = 16

// revival is a lapsed incarnation's way into its next life. It outlasts a call of
// Revive: what one could not finish counts in the next.
type revival struct {
	begin  instant // before the first try to link the last life's end; zero: none yet
	linked bool    // the link is ours; the new life has begun, not yet its lease
}

// Revive goes on after Run has told that the lease was lost: under the same name,
// unless others have buried this incarnation meanwhile. It waits until the
// filestore takes files again, for as long as that may be, and returns nil once the
// lease holds again; then Run has to be called again.
//
// ErrSealed: this incarnation is over. ErrLeaseLost: the filestore takes files, but
// not those of a revival; a new start makes others. In both cases the process must
// exit. With ctx its cause.
func (i *Incarnation) Revive(ctx context.Context) error {
	told := ""
	for tries := 1; ; tries++ {
		i.Await(ctx)
		err := i.rise(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("revive %s: %w", i.Name(), context.Cause(ctx))
		case errors.Is(err, errSlow):
			tries = 0
		case errors.Is(err, ErrSealed):
			return fmt.Errorf("revive %s: %w", i.Name(), err)
		case tries >= reviveTries:
			return fmt.Errorf("revive %s: %w: %w", i.Name(), ErrLeaseLost, err)
		}
		if told != err.Error() {
			told = err.Error()
			i.claim.store.log.WarnContext(ctx, "incarnation is not revived yet", "incarnation", i.Name(), "err", err)
		}
		retry.Sleep(ctx, i.claim.ttl/16)
	}
}

// errSlow means that the next life's lease was over before its heartbeat was
// written. There is another life after it.
var errSlow = errors.New("the filestore is slower than the lease is long")

// rise tries to begin the next life: decide the end of the last one, write the
// heartbeat, and all that within the TTL since before the link. Whoever watches
// counts from the link at the earliest. No step is abandoned but with ctx: each
// would leave a write behind that may still land.
func (i *Incarnation) rise(ctx context.Context) error {
	r, c := &i.revival, i.claim
	if r.begin == (instant{}) {
		r.begin = now()
	}
	if !r.linked {
		if err := i.outlive(ctx); err != nil {
			return err
		}
		c.nextLife()
		r.linked = true
	}
	from := now()
	err := c.rewrite(ctx, false)
	switch {
	case errors.Is(err, ErrLeaseLost), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("claim file is not ours any more: %w: %w", ErrSealed, err)
	case err != nil:
		return err
	}
	begin := r.begin
	r.begin, r.linked = instant{}, false
	if !c.resume(begin, from) {
		return fmt.Errorf("life %d of %s: %w", i.Life(), i.Name(), errSlow)
	}
	return nil
}

// outlive links the end of the present life as revived. ErrSealed: others decided
// otherwise.
func (i *Incarnation) outlive(ctx context.Context) error {
	if err := i.superseded(ctx); err != nil {
		return err
	}
	stands, err := i.claim.store.publishEnding(ctx, i.node, i.n, ending{Life: i.Life(), State: endRevived, Run: i.claim.beat.Run})
	if err != nil && !errors.Is(err, ErrBadRecord) {
		return err
	}
	return i.ours(stands, err)
}

// ours tells our own ending of the present life, perhaps of a try whose answer was
// lost, from one of others.
func (i *Incarnation) ours(e ending, damage error) error {
	switch {
	case damage != nil:
		return fmt.Errorf("%w: %w", ErrSealed, damage)
	case e.State == endRevived && e.Run == i.claim.beat.Run:
		return nil
	}
	return fmt.Errorf("life %d was %s by %s: %w", e.Life, e.State, e.By, ErrSealed)
}
