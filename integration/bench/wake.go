package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"raptorpack/client"
	"raptorpack/cmd/agent"
	"raptorpack/wire"
)

// wake measures how soon an idle client at one node hears of a task given to it at
// another.
func (b *bench) wake(ctx context.Context) error {
	pack, err := b.startPack(ctx, "wake", 3)
	if err != nil {
		return err
	}
	return errors.Join(b.wakeAt(ctx, pack[1], pack[2]), stopPack(pack))
}

// newcomers measures how soon a new client at a minion is known.
func (b *bench) newcomers(ctx context.Context) error {
	pack, err := b.startPack(ctx, "newcomers", 3)
	if err != nil {
		return err
	}
	return errors.Join(b.newcomersAt(ctx, pack[2]), stopPack(pack))
}

// listener dials for an agent and notes when bytes come.
type listener struct {
	mu   sync.Mutex
	last time.Time // when bytes came first after arm
	armd bool
	came chan struct{} // one slot
}

func (l *listener) arm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armd = true
	select {
	case <-l.came:
	default:
	}
}

func (l *listener) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &listening{conn, l}, nil
}

type listening struct {
	net.Conn
	l *listener
}

func (c *listening) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.l.heard()
	}
	return n, err
}

func (l *listener) heard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.armd {
		return
	}
	l.armd, l.last = false, time.Now()
	l.came <- struct{}{}
}

// agentAt runs one agent of this process at a node until end.
func (b *bench) agentAt(ctx context.Context, s *server, number int, l *listener) (end func() error, err error) {
	o, err := agent.Options(s.loaded.Client, agent.Settings{Version: "bench", MinBackOff: time.Second})
	if err != nil {
		return nil, err
	}
	if o.Identity, err = b.identities.At(number); err != nil {
		return nil, err
	}
	way := agent.TransportOptions(s.loaded.Client)
	way.Dial = l.dial
	if o.Transport, err = wire.NewTransport(way); err != nil {
		return nil, err
	}
	o.WritebackPath, o.Buffer.Dir, o.MinPoll, o.UpgradeHTTP = "", "", time.Second, true
	one, err := client.New(o)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(ctx)
	done := make(chan error, 1) // one answer
	go func() { done <- one.Run(life) }()
	return func() error {
		cancel()
		err := <-done
		o.Transport.Close()
		return err
	}, nil
}

// wakeAt gives tasks at one node to a client that waits at another.
func (b *bench) wakeAt(ctx context.Context, asked, holds *server) error {
	l := &listener{came: make(chan struct{}, 1)}
	end, err := b.agentAt(ctx, holds, 0, l)
	if err != nil {
		return err
	}
	names, err := b.ids(1)
	if err != nil {
		return err
	}
	if err := asked.door.artifact(ctx, "Custom.Bench.Tiny", "SELECT Hostname, OS FROM info()"); err != nil {
		return err
	}
	var took []time.Duration
	for range 250 {
		if err := b.settled(ctx, asked, names[0]); err != nil {
			return err
		}
		l.arm()
		begin := time.Now()
		if _, err := asked.door.collect(ctx, names[0], "Custom.Bench.Tiny"); err != nil {
			return err
		}
		select {
		case <-l.came:
			took = append(took, l.last.Sub(begin))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.percentiles("task asked for at node A to bytes on the client's socket at node B", took, 5, 30)
	return end()
}

// settled waits until a client is online and none of its flows is under way. If it
// gives up it says what was missing.
func (b *bench) settled(ctx context.Context, s *server, id string) error {
	missing := ""
	err := until(ctx, 20*time.Millisecond, time.Minute, func() (bool, error) {
		var c struct{ Online bool }
		if err := s.door.call(ctx, http.MethodGet, "/clients/"+id, nil, &c); err != nil || !c.Online {
			missing = fmt.Sprintf("online %v, %v", c.Online, err)
			return false, nil //nolint:nilerr // not enrolled yet
		}
		var flows struct {
			Items []struct {
				Flow  string `json:"flow_id"`
				State string
				Error string
			}
		}
		if err := s.door.call(ctx, http.MethodGet, "/clients/"+id+"/flows", nil, &flows); err != nil {
			return false, err
		}
		for _, f := range flows.Items {
			if f.State != "completed" {
				missing = fmt.Sprintf("flow %s is %s %s", f.Flow, f.State, f.Error)
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("client %s: %s: %w", id, missing, err)
	}
	return nil
}

// newcomersAt has clients arrive at a minion: from their first connection to the
// answers of their interrogation.
func (b *bench) newcomersAt(ctx context.Context, s *server) error {
	var took []time.Duration
	for n := range 100 {
		identity, err := b.identities.At(1 + n)
		if err != nil {
			return err
		}
		begin := time.Now()
		end, err := b.agentAt(ctx, s, 1+n, &listener{came: make(chan struct{}, 1)})
		if err != nil {
			return err
		}
		err = until(ctx, 10*time.Millisecond, time.Minute, func() (bool, error) {
			var c struct {
				Interrogated string `json:"interrogated"`
			}
			err := s.door.call(ctx, http.MethodGet, "/clients/"+identity.ID.String(), nil, &c)
			return err == nil && c.Interrogated != "", nil
		})
		if err != nil {
			return fmt.Errorf("interrogation of client %d: %w", n, err)
		}
		took = append(took, time.Since(begin))
		if err := end(); err != nil {
			return err
		}
	}
	b.percentiles("a new client at a minion to interrogated", took, 0, 1000)
	return nil
}
