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
	"sync/atomic"
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
// input ends. What comes there before says that the agents' home is closed.
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
	var closed atomic.Bool // their home
	p, err := pool.New(pool.Options{
		First: first, Clients: count, Identities: identities, Base: base, Wire: agent.TransportOptions(loaded.Client), Ramp: ramp, Route: func(target string) string {
			if args[6] == "" || closed.Load() {
				return target
			}
			return args[6]
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		if n, _ := os.Stdin.Read(make([]byte, 1)); n > 0 {
			closed.Store(true)
		}
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

// herd is the agents of one process: count of them from first on, of which each
// picks one of the nodes. If there is a home they are led there, as by a balancer,
// until it is closed.
type herd struct {
	first, count int
	nodes        []*server
	home         *server
}

// swarm starts the process of a herd.
func (b *bench) swarm(ctx context.Context, h herd, ramp float64) (*swarm, error) {
	var urls []string
	for _, s := range h.nodes {
		urls = append(urls, s.loaded.Client.ServerURLs...)
	}
	home := ""
	if h.home != nil {
		home = fmt.Sprintf("127.0.0.1:%d", h.home.loaded.Frontend.BindPort)
	}
	w := &swarm{command: exec.CommandContext(ctx, os.Args[0], "swarm", h.nodes[0].loaded.Path, b.out+"/identities",
		strconv.Itoa(h.first), strconv.Itoa(h.count), fmt.Sprint(ramp), strings.Join(urls, ","), home)}
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

// closeHome lets the agents go to the nodes that they know.
func (w *swarm) closeHome() error {
	_, err := w.in.Write([]byte{'\n'})
	return err
}

func (w *swarm) end() error {
	w.in.Close()
	return w.command.Wait()
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
		s := w.now()
		t.Clients, t.Started = t.Clients+s.Clients, t.Started+s.Started
		t.Connected, t.Enrolled = t.Connected+s.Connected, t.Enrolled+s.Enrolled
		t.Delivered, t.Sockets = t.Delivered+s.Delivered, t.Sockets+s.Sockets
		t.Flows, t.FailedFlows = t.Flows+s.Flows, t.FailedFlows+s.FailedFlows
		t.Rows, t.Logs, t.UploadBytes = t.Rows+s.Rows, t.Logs+s.Logs, t.UploadBytes+s.UploadBytes
		t.Failures, t.DialErrors = t.Failures+s.Failures, t.DialErrors+s.DialErrors
	}
	return t
}
