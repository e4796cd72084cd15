package wire_test

import (
	"testing"
	"time"

	"raptorpack/wire"
)

// sendFor tells how long a sender of n bytes every so often is listened to, at
// most an hour.
func sendFor(burst, n int, every time.Duration) time.Duration {
	start := time.Unix(1_700_000_000, 0)
	p := wire.NewPace(start)
	p.Took(burst, start)
	for now := start; ; {
		next := now.Add(every)
		if deadline := p.Deadline(now); next.After(deadline) {
			return deadline.Sub(start)
		}
		if next.Sub(start) > time.Hour {
			return time.Hour
		}
		now = next
		p.Took(n, now)
	}
}

func TestBodiesHaveToKeepComing(t *testing.T) {
	for name, c := range map[string]struct {
		burst, n    int
		every       time.Duration
		least, most time.Duration
	}{
		"slow and steady":         {0, 10 << 10, time.Second, time.Hour, time.Hour},
		"steady with pauses":      {0, 300 << 10, 25 * time.Second, time.Hour, time.Hour},
		"silent":                  {0, 0, time.Hour, 20 * time.Second, time.Minute},
		"a byte now and then":     {0, 1, 10 * time.Second, 30 * time.Second, 2 * time.Minute},
		"a burst, then a trickle": {30 << 20, 1, 10 * time.Second, 30 * time.Second, 2 * time.Minute},
	} {
		if got := sendFor(c.burst, c.n, c.every); got < c.least || got > c.most {
			t.Errorf("%s: listened for %v, want %v to %v", name, got, c.least, c.most)
		}
	}
}
