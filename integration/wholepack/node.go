package wholepack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"raptorpack/cluster"
	"raptorpack/cmd/node"
	"raptorpack/config"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
	"raptorpack/replication"
)

// Node is a name under which a node runs, one life after the other. Safe for
// concurrent use.
type Node struct {
	Name      string
	Candidate bool
	Log       *Log // of all its lives

	pack *Pack
	file *config.Loaded

	mu       sync.Mutex
	life     *life // nil: not wanted
	restarts int   // lives that ended by themselves
	fatal    error // why its state could not go on, at the first time
}

// life is one run of a node's process, from its start on.
type life struct {
	host  *host
	gate  *gate
	stale *stale
	fs    *filestoretest.Faulty
	ctx   context.Context // ended by end
	end   context.CancelFunc
	bus   *members
	node  *node.Node    // nil until it is made; guarded by Node.mu
	done  chan struct{} // closed when all of it has returned
}

// Start has the node run, and run again whenever a run ends by itself, as a service
// manager does. It returns at once.
func (n *Node) Start() { n.StartWith() }

// StartWith is Start on a disk that has faults from the first call on.
func (n *Node) StartWith(faults ...filestoretest.Fault) []*filestoretest.Injection {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != nil {
		return nil
	}
	l := n.newLife()
	var injected []*filestoretest.Injection
	for _, f := range faults {
		injected = append(injected, l.fs.Inject(f))
	}
	n.begin(l)
	return injected
}

// begin starts a life. The caller holds mu.
func (n *Node) begin(l *life) {
	n.life = l
	n.pack.lives.Go(func() { n.live(l) })
}

func (n *Node) newLife() *life {
	g := newGate(n.pack.disk())
	l := &life{host: &host{name: n.Name}, gate: g, stale: newStale(g), done: make(chan struct{})}
	l.fs = filestoretest.NewFaulty(l.stale)
	l.bus = &members{pack: n.pack, self: n.Name, changed: make(chan struct{}, 1)}
	l.ctx, l.end = context.WithCancel(context.Background())
	return l
}

// live is a whole life. If nobody ended it another follows.
func (n *Node) live(l *life) {
	err := n.run(l)
	l.end()
	l.gate.shut()
	l.gate.free() // what still calls, of what did not end in time
	n.pack.Net.kill(l.host)
	close(l.done)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != l {
		return // it was told to end
	}
	n.restarts++
	n.judge(err)
	n.begin(n.newLife())
}

// judge keeps the first error after which a state cannot go on.
func (n *Node) judge(err error) {
	for _, fatal := range []error{replication.ErrDamaged, replication.ErrGap, replication.ErrDiverged, replication.ErrVersion, replication.ErrUnknownKind} {
		if errors.Is(err, fatal) && n.fatal == nil {
			n.fatal = fmt.Errorf("%s: %w", n.Name, err)
		}
	}
}

// restartPause is how long a service manager waits before it starts a node again.
const restartPause = 50 * time.Millisecond

func (n *Node) run(l *life) error {
	one, err := n.compose(l)
	if err != nil {
		n.Log.note("node did not start", "err", err)
		select {
		case <-time.After(restartPause):
		case <-l.ctx.Done():
		}
		return err
	}
	n.pack.Net.settle(l.host, one.BusAddress(), one.FrontendAddress(), one.OperatorsAddress(), one.MonitoringAddress())
	n.mu.Lock()
	l.node = one
	n.mu.Unlock()
	n.pack.enlist(cluster.Member{Incarnation: one.Incarnation(), Node: n.Name, Bus: one.BusAddress(), Candidate: n.Candidate})
	err = one.Run(l.ctx)
	n.Log.note("node ended", "incarnation", one.Incarnation(), "err", err)
	return err
}

// compose makes the node, as the program does.
func (n *Node) compose(l *life) (*node.Node, error) {
	name, err := ids.ParseNode(n.Name)
	if err != nil {
		return nil, err
	}
	return node.New(l.ctx, node.Options{
		Config: n.file, Name: name, Master: n.Candidate, Version: "wholepack", Logger: n.Log.Logger(), FS: l.fs,
		Members: l.bus, BusDial: func(ctx context.Context, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, connectWithin)
			defer cancel()
			return n.pack.Net.dial(ctx, l.host, address)
		},
		Tune: n.pack.tune,
	})
}

// connectWithin is how long nodes wait for a connection to each other.
const connectWithin = 150 * time.Millisecond

// Kill is kill -9. When it returns nothing of the node reaches the disk or anybody
// any more. The claim on its name stays as it was last written.
func (n *Node) Kill() { n.kill(true) }

// KillHanging is Kill for a node whose disk does not answer either: what it has under
// way never returns by itself, and yet it has to end. Then what is returned is closed.
func (n *Node) KillHanging() <-chan struct{} { return n.kill(false) }

func (n *Node) kill(answers bool) <-chan struct{} {
	l := n.give()
	if l == nil {
		over := make(chan struct{})
		close(over)
		return over
	}
	n.slay(l, answers)
	return l.done
}

func (n *Node) slay(l *life, answers bool) {
	l.gate.shut()
	n.pack.Net.kill(l.host)
	n.Log.note("killed")
	l.end()
	if answers {
		l.gate.free()
	}
	l.fs.Clear()
}

// give takes the present life away: nobody starts another.
func (n *Node) give() *life {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.life
	n.life = nil
	return l
}

// Stop is SIGTERM; it returns when the process has ended.
func (n *Node) Stop() {
	if l := n.give(); l != nil {
		l.end()
		<-l.done
	}
}

// present is the life that is wanted, and its node once it is made; nil otherwise.
func (n *Node) present() (*life, *node.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == nil {
		return nil, nil
	}
	return n.life, n.life.node
}

// Process is the node as the program has it; nil while it does not run.
func (n *Node) Process() *node.Node {
	_, one := n.present()
	return one
}

// FS is where the faults of this life's disk are told; nil while the node is not
// wanted. They end with the life.
func (n *Node) FS() *filestoretest.Faulty {
	if l, _ := n.present(); l != nil {
		return l.fs
	}
	return nil
}

// Stale has the node remember for so long what it was told of files, beginning now.
func (n *Node) Stale(last time.Duration) {
	if l, _ := n.present(); l != nil {
		l.stale.remember(last)
	}
}

// Wanted reports whether somebody started the node and nobody ended it since.
func (n *Node) Wanted() bool {
	l, _ := n.present()
	return l != nil
}

// Ready says why the node cannot serve; nil if it can.
func (n *Node) Ready() error {
	switch l, one := n.present(); {
	case l == nil:
		return errors.New("not started")
	case one == nil:
		return errors.New("starting")
	default:
		return one.Ready()
	}
}

// Restarts is how many lives ended by themselves.
func (n *Node) Restarts() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.restarts
}

// Fatal is why a state could not go on, nil while all could.
func (n *Node) Fatal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fatal
}
