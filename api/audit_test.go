package api_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"raptorpack/api"
	"raptorpack/internal/testkit"
)

// slowTrail keeps a line when it is let, or not at all when its writer may not wait any
// longer.
type slowTrail struct {
	trail
	let  chan struct{}
	left chan error // why a line was not kept; room for all of a test
}

func (s *slowTrail) Record(ctx context.Context, event api.AuditEvent) error {
	select {
	case <-s.let:
		return s.trail.Record(ctx, event)
	case <-ctx.Done():
		s.left <- ctx.Err()
		return ctx.Err()
	}
}

func slowly(s *slowTrail) func(*api.Options) {
	return func(o *api.Options) { o.Audit, o.AuditWait = s, time.Millisecond }
}

// A change is answered though the filestore hangs that the audit trail lies on; the line
// is kept when it is back.
func TestAnAnswerDoesNotWaitForEverForItsAuditLine(t *testing.T) {
	s := &slowTrail{let: make(chan struct{}), left: make(chan error, 10)}
	w := newWorld(t, slowly(s))
	path := w.hunt(nil)
	if got := s.operations(); got != "" {
		t.Errorf("kept already: %s", got)
	}
	if h := w.showHunt(path); h.State != "running" {
		t.Errorf("%+v", h)
	}
	close(s.let)
	testkit.Eventually(t, "the line to be kept", func() (any, bool) {
		got := s.operations()
		return got, got == "administrator:hunt.create"
	})
}

// A server that ends does not wait for a filestore that never comes back.
func TestAServerEndsThoughAnAuditLineIsNotKept(t *testing.T) {
	s := &slowTrail{let: make(chan struct{}), left: make(chan error, 10)}
	w := newWorld(t, slowly(s))
	w.hunt(nil)
	w.stop()
	if err := <-s.left; !errors.Is(err, context.Canceled) {
		t.Errorf("the line was given up for %v", err)
	}
}
