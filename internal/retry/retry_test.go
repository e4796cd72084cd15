package retry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/internal/retry"
)

var errAgain = errors.New("again")

func always(error) bool { return true }

func TestDoStopsWhenItShould(t *testing.T) {
	cases := map[string]struct {
		policy    retry.Policy
		again     func(error) bool
		succeedAt int
		calls     int
	}{
		"zero policy tries once":    {retry.Policy{}, always, 0, 1},
		"tries are used up":         {retry.Policy{Tries: 4, First: time.Second}, always, 0, 4},
		"success ends it":           {retry.Policy{Tries: 4, First: time.Second}, always, 2, 2},
		"not worth another":         {retry.Policy{Tries: 4}, func(error) bool { return false }, 0, 1},
		"for ever means to the end": {retry.Policy{Tries: -1, First: time.Second, Cap: time.Minute}, always, 30, 30},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := retry.Do(t.Context(), c.policy, c.again, func() error {
					if calls++; calls == c.succeedAt {
						return nil
					}
					return errAgain
				})
				if calls != c.calls || (err == nil) != (c.succeedAt == calls) {
					t.Errorf("%d calls, error %v, want %d calls", calls, err, c.calls)
				}
			})
		})
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		err := retry.Do(ctx, retry.Policy{Tries: -1, First: time.Second, Cap: time.Second}, always, func() error { return errAgain })
		if !errors.Is(err, errAgain) || time.Since(begin) != 10*time.Second {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
	})
}

func TestPauseDoublesUpToTheCapWithChance(t *testing.T) {
	p := retry.Policy{First: 100 * time.Millisecond, Cap: time.Second}
	for try, full := range map[int]time.Duration{0: 100, 1: 100, 2: 200, 3: 400, 4: 800, 5: 1000, 99: 1000} {
		for range 100 {
			if got := p.Pause(try); got < full*time.Millisecond/2 || got > full*time.Millisecond {
				t.Errorf("pause after try %d is %v, want half to all of %d ms", try, got, full)
			}
		}
	}
}
