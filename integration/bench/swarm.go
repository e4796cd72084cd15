package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"raptorpack/cmd/agent"
	"raptorpack/config"
	"raptorpack/pool"
)

// swarm is a pool in a process of its own: one process may not open files enough for
// all agents, and what agents cost is to be told from what the driver costs.
type swarm struct {
	*pool.Split
	in    io.WriteCloser
	stop  context.CancelFunc
	ended chan error // one value
}

// order is what the process of a swarm is told, as JSON in its one argument.
type order struct {
	File       string   // of the server
	Identities string   // file of keys
	URLs       []string // of which each agent takes one
	Home       string   // the address that all are led to until it is closed; empty: none
	First      int
	Clients    int
	Ramp       float64
	Churn      pool.Churn
	Manners    pool.Manners
	Bulk       map[string]int64
}

// runSwarm is that process: it writes figures every second until it is told to end.
// What comes on its standard input says that the agents' home is closed.
func runSwarm(ctx context.Context, text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return fmt.Errorf("order of a swarm: %w", err)
	}
	pool.SpareProcessor()
	loaded, err := config.Load(o.File, config.Options{})
	if err != nil {
		return err
	}
	if _, err := pool.RaiseDescriptorLimit(uint64(2*o.Clients + 1000)); err != nil {
		return err
	}
	identities, err := pool.LoadIdentities(ctx, o.Identities, o.First+o.Clients)
	if err != nil {
		return err
	}
	loaded.Client.ServerURLs = o.URLs
	base, err := agent.Options(loaded.Client, agent.Settings{Version: "bench", MinBackOff: time.Second})
	if err != nil {
		return err
	}
	var closed atomic.Bool // their home
	p, err := pool.New(pool.Options{
		First: o.First, Clients: o.Clients, Identities: identities, Base: base, Wire: agent.TransportOptions(loaded.Client), Ramp: o.Ramp,
		Churn: o.Churn, Manners: o.Manners, Bulk: o.Bulk,
		Route: func(target string) string {
			if o.Home == "" || closed.Load() {
				return target
			}
			return o.Home
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		if n, _ := os.Stdin.Read(make([]byte, 1)); n > 0 {
			closed.Store(true)
		}
	}()
	go func() {
		defer cancel() // nobody reads: nobody wants us
		_ = pool.Record(ctx, os.Stdout, p)
	}()
	return p.Run(ctx)
}

// herd is the agents of one process: count of them from first on, of which each
// picks one of the nodes. If there is a home they are led there, as by a balancer,
// until it is closed.
type herd struct {
	first, count int
	nodes        []*server
	home         *server
	churn        pool.Churn
	manners      pool.Manners
	bulk         map[string]int64
}

// swarm starts the process of a herd.
func (b *bench) swarm(ctx context.Context, h herd, ramp float64) (*swarm, error) {
	o := order{
		File: h.nodes[0].loaded.Path, Identities: b.out + "/identities", First: h.first, Clients: h.count, Ramp: ramp,
		Churn: h.churn, Manners: h.manners, Bulk: h.bulk,
	}
	for _, s := range h.nodes {
		o.URLs = append(o.URLs, s.loaded.Client.ServerURLs...)
	}
	if h.home != nil {
		o.Home = fmt.Sprintf("127.0.0.1:%d", h.home.loaded.Frontend.BindPort)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	command := exec.Command(os.Args[0], "swarm", string(text))
	command.Stderr = os.Stderr
	w := &swarm{Split: pool.NewSplit(command), ended: make(chan error, 1)}
	if w.in, err = command.StdinPipe(); err != nil {
		return nil, err
	}
	ctx, w.stop = context.WithCancel(ctx)
	go func() { w.ended <- w.Run(ctx) }()
	return w, nil
}

// closeHome lets the agents go to the nodes that they know.
func (w *swarm) closeHome() error {
	_, err := w.in.Write([]byte{'\n'})
	return err
}

func (w *swarm) end() error {
	w.stop()
	return <-w.ended
}

// perProcess is how many agents share a process: each has two sockets.
const perProcess = 7000

// swarmed starts herds, all in the time that their ramp gives them, and waits until
// each agent is connected, interrogated and done with that.
func (b *bench) swarmed(ctx context.Context, herds []herd) ([]*swarm, error) {
	count := 0
	for _, h := range herds {
		count += h.count
	}
	var all []*swarm
	for _, h := range herds {
		w, err := b.swarm(ctx, h, b.ramp*float64(h.count)/float64(count))
		if err != nil {
			return all, err
		}
		all = append(all, w)
	}
	last := time.Now()
	err := until(ctx, 200*time.Millisecond, 30*time.Minute, func() (bool, error) {
		s := total(all)
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			b.note("%+v, load average %s", s, loadAverage())
		}
		return s.Connected == count && s.Delivered == count && s.Flows >= int64(count), nil
	})
	return all, err
}

// total adds up what swarms said last.
func total(all []*swarm) pool.Status {
	var t pool.Status
	for _, w := range all {
		t.Add(w.Stats().Status)
	}
	return t
}
