package minion_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"raptorpack/minion"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger is followed until ctx ends, or ends by itself.
type ledger struct {
	ends error
	stop bool

	mu    sync.Mutex
	age   time.Duration
	known bool
}

func (l *ledger) Follow(ctx context.Context) error {
	if l.stop {
		return l.ends
	}
	<-ctx.Done()
	return nil
}

func (l *ledger) Age() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.age, l.known
}

func (l *ledger) set(age time.Duration, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.age, l.known = age, known
}

func TestStaleStateIsToldOnceAndAgainWhenFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := &ledger{}
		l.set(0, true)
		m := minion.New(minion.Options{Ledger: l, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		count := func() (stale, fresh int) {
			time.Sleep(3 * time.Second)
			synctest.Wait()
			return strings.Count(log.String(), "state is stale"), strings.Count(log.String(), "fresh again")
		}
		steps := []struct {
			age          time.Duration
			known        bool
			stale, fresh int
		}{
			{0, true, 0, 0},
			{6 * time.Second, true, 1, 0},
			{9 * time.Second, true, 1, 0},
			{time.Second, true, 1, 1},
			{0, false, 2, 1}, // more than 5 s after the beginning
			{0, true, 2, 2},
		}
		for _, step := range steps {
			l.set(step.age, step.known)
			if stale, fresh := count(); stale != step.stale || fresh != step.fresh {
				t.Errorf("age %v (%t): told %d and %d times, want %d and %d", step.age, step.known, stale, fresh, step.stale, step.fresh)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFollowingThatEndsByItselfEndsTheMinion(t *testing.T) {
	broken := errors.New("broken")
	if err := minion.New(minion.Options{Ledger: &ledger{stop: true, ends: broken}}).Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := minion.New(minion.Options{Ledger: &ledger{stop: true}}).Run(t.Context()); err == nil {
		t.Error("following ended and nobody was told")
	}
}
