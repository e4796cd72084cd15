package pool_test

import (
	"testing"
	"time"

	"raptorpack/internal/testkit"
	"raptorpack/pool"
)

func TestClientsThatComeAndGoLoseNothing(t *testing.T) {
	const clients, rows = 6, 40
	s := serve(t)
	p := s.agents(clients, func(o *pool.Options) {
		o.Churn = pool.Churn{Offline: 0.5, Wave: 1500 * time.Millisecond}
		o.Base.MaxPoll, o.Base.MaxPollStd = 200*time.Millisecond, 100*time.Millisecond
	})
	all := s.interrogated(p, clients)
	// Longer than a wave: many are cut off in the middle.
	s.numbered("Custom.Pool.Numbers", rows, 50*time.Millisecond)
	var paths []string
	for _, client := range all {
		paths = append(paths, s.collect(client.ID, "Custom.Pool.Numbers"))
	}
	testkit.Eventually(t, "somebody is away", func() (any, bool) { status := p.Status(); return status, status.Away > 0 && status.Connected < clients })
	for _, path := range paths {
		s.whole(path, "Custom.Pool.Numbers", rows)
	}
	if status := p.Status(); status.Started != clients || status.Failures != 0 {
		t.Errorf("%+v", status)
	}
}
