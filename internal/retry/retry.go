// Package retry repeats a call that may succeed next time: with jitter, a cap
// on the pause, and the caller's context.
//
// It never decides what is worth repeating: the caller does, and no lower layer
// may do so too.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Policy says how often and how patiently. The zero Policy tries once.
type Policy struct {
	Tries int           // calls in all; negative: until the context ends
	First time.Duration // the first pause; it doubles from there
	Cap   time.Duration // the longest pause; 0: no cap
}

// Pause returns how long to wait after the given failed try (1, 2, ...): the
// second half of it is chance, so that many who failed together do not return
// together.
func (p Policy) Pause(try int) time.Duration {
	pause := p.First << min(max(try-1, 0), 20)
	if p.Cap > 0 {
		pause = min(pause, p.Cap)
	}
	return pause/2 + rand.N(pause/2+1)
}

// Do calls fn until it succeeds, again says no, the tries are used up or ctx
// ends, and returns fn's last error.
func Do(ctx context.Context, p Policy, again func(error) bool, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if err == nil || try == max(p.Tries, 1) && p.Tries >= 0 || !again(err) || !Sleep(ctx, p.Pause(try)) {
			return err
		}
	}
}

// Sleep waits for d and reports whether ctx lasted as long.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
