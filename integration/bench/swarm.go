package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"raptorpack/cmd/agent"
	"raptorpack/config"
	"raptorpack/pool"
)

// swarm is a pool of idle agents in a process of its own: one process may not open
// files enough for all of them.
type swarm struct {
	command *exec.Cmd
	in      io.WriteCloser

	mu     sync.Mutex
	status pool.Status
}

// runSwarm is that process: it prints its status every second until its standard
// input ends.
func runSwarm(ctx context.Context, args []string) error {
	loaded, err := config.Load(args[0], config.Options{})
	if err != nil {
		return err
	}
	first, _ := strconv.Atoi(args[2]) // our own parent wrote them
	count, _ := strconv.Atoi(args[3])
	ramp, _ := strconv.ParseFloat(args[4], 64)
	if _, err := pool.RaiseDescriptorLimit(uint64(2*count + 1000)); err != nil {
		return err
	}
	identities, err := pool.LoadIdentities(ctx, args[1], first+count)
	if err != nil {
		return err
	}
	loaded.Client.ServerURLs = strings.Split(args[5], ",")
	base, err := agent.Options(loaded.Client, agent.Settings{Version: "bench", MinBackOff: time.Second})
	if err != nil {
		return err
	}
	p, err := pool.New(pool.Options{
		First: first, Clients: count, Identities: identities, Base: base, Wire: agent.TransportOptions(loaded.Client), Ramp: ramp,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is the word to stop
	}()
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			_ = json.NewEncoder(os.Stdout).Encode(p.Status()) // nobody reads: nobody waits
		}
	}()
	return p.Run(ctx)
}

// swarm starts agents first to first+count, of which each picks one of the servers.
func (b *bench) swarm(ctx context.Context, pack []*server, first, count int) (*swarm, error) {
	var urls []string
	for _, s := range pack {
		urls = append(urls, s.loaded.Client.ServerURLs...)
	}
	w := &swarm{command: exec.CommandContext(ctx, os.Args[0], "swarm", pack[0].loaded.Path, b.out+"/identities",
		strconv.Itoa(first), strconv.Itoa(count), fmt.Sprint(b.ramp), strings.Join(urls, ","))}
	w.command.Stderr = os.Stderr
	w.command.Cancel = func() error { return w.command.Process.Signal(syscall.SIGTERM) }
	var err error
	if w.in, err = w.command.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	go func() {
		for lines := json.NewDecoder(out); ; {
			var status pool.Status
			if lines.Decode(&status) != nil {
				return
			}
			w.mu.Lock()
			w.status = status
			w.mu.Unlock()
		}
	}()
	return w, w.command.Start()
}

func (w *swarm) now() pool.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

func (w *swarm) end() error {
	w.in.Close()
	return w.command.Wait()
}

// swarmed runs so many agents in as many processes as they need, and waits until all
// are enrolled and interrogated.
func (b *bench) swarmed(ctx context.Context, pack []*server, count int) ([]*swarm, error) {
	const perProcess = 7000
	var all []*swarm
	for first := 0; first < count; first += perProcess {
		w, err := b.swarm(ctx, pack, first, min(perProcess, count-first))
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	err := until(ctx, time.Second, 30*time.Minute, func() (bool, error) {
		connected, flows := 0, int64(0)
		for _, w := range all {
			s := w.now()
			connected += s.Connected
			flows += s.Flows
		}
		return connected == count && flows >= int64(count), nil
	})
	return all, err
}
