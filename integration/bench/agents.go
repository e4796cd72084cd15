package main

import (
	"context"
	"fmt"
	"time"

	"raptorpack/cmd/agent"
	"raptorpack/pool"
)

// agents is a pool at work.
type agents struct {
	*pool.Pool
	stop  context.CancelFunc
	ended chan error // one value
}

// agents starts a herd in this process, which knows one server.
func (b *bench) agents(ctx context.Context, s *server, h herd, ramp float64) (*agents, error) {
	base, err := agent.Options(s.loaded.Client, agent.Settings{Version: "bench", MinBackOff: time.Second})
	if err != nil {
		return nil, err
	}
	p, err := pool.New(pool.Options{
		First: h.first, Clients: h.count, Identities: b.identities, Base: base, Wire: agent.TransportOptions(s.loaded.Client), Ramp: ramp, Bulk: h.bulk,
	})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	a := &agents{Pool: p, stop: stop, ended: make(chan error, 1)}
	go func() { a.ended <- p.Run(ctx) }()
	return a, nil
}

func (a *agents) end() error {
	a.stop()
	return <-a.ended
}

// enrolled waits until all agents have been interrogated and the server rests.
func (a *agents) enrolled(ctx context.Context, s *server) error {
	last := time.Now()
	err := until(ctx, 200*time.Millisecond, 30*time.Minute, func() (bool, error) {
		status := a.Status()
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			s.bench.note("%s: %+v", s.name, status)
		}
		return status.Delivered == status.Clients && status.Flows >= int64(status.Clients) && status.Connected == status.Clients, nil
	})
	if err != nil {
		return fmt.Errorf("enrol: %w: %+v", err, a.Status())
	}
	return s.quiet(ctx)
}

// ids are the clients' names at the server.
func (b *bench) ids(count int) ([]string, error) {
	out := make([]string, count)
	for n := range out {
		identity, err := b.identities.At(n)
		if err != nil {
			return nil, err
		}
		out[n] = identity.ID.String()
	}
	return out, nil
}
