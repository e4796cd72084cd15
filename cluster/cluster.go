package cluster

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"raptorpack/internal/retry"
)

// tuning is how fast things happen. Tests stretch or shorten single values.
type tuning struct {
	probe        time.Duration // each node probes another one so often
	probeTimeout time.Duration // for a ping; then others are asked, and TCP
	gossip       time.Duration // news is passed on so often
	exchange     time.Duration // of all that is known, with one other over TCP
	lastWords    time.Duration // the dead are told so for so long, lest they live
	rejoin       retry.Policy  // between rounds while an address is missing
	settled      time.Duration // between rounds while none is
	tell         time.Duration // this node's load is looked at so often

	// through is what all gossip passes; nil: the sockets only. Tests cut cables here.
	through func(memberlist.NodeAwareTransport) memberlist.NodeAwareTransport
}

// usual notices a crash after 2 to 3 s where memberlist's own values for a LAN
// need about 10. A node that stands still for as long is taken for gone, and is
// back as soon as it moves.
var usual = tuning{
	probe: 500 * time.Millisecond, probeTimeout: 200 * time.Millisecond,
	gossip: 100 * time.Millisecond, exchange: 15 * time.Second, lastWords: 30 * time.Second,
	rejoin: retry.Policy{First: time.Second, Cap: 10 * time.Second}, settled: 30 * time.Second,
	tell: 5 * time.Second,
}

const (
	// suspicion is how many probe intervals a suspect has to answer; memberlist
	// multiplies by log10 of the pack's size beyond 10 nodes.
	suspicion = 2

	// retransmits is how often, times log10 of the pack's size, each node passes news
	// on. memberlist's 4 reaches a node of 50 about 8 times on average: in one event
	// of 60 somebody misses it, and hears of it half a minute later. With 6 it is one
	// of 3,000.
	retransmits = 6

	// farewell bounds how long Run waits for its leaving to be passed on.
	farewell = time.Second
)

// Cluster knows the other nodes of the pack. Safe for concurrent use.
type Cluster struct {
	s         *settings
	pace      tuning
	transport *transport
	table     *table
	journal   *journal
	metrics   *metrics
	load      atomic.Int64 // clients, as told

	begun  atomic.Bool
	closed chan struct{} // closed by Close; carries nothing
	close  sync.Once
}

// New checks o and binds the sockets; a port that is taken is an error that names
// the address. It starts nothing and talks to nobody: that is Run, and a Cluster
// that is never run wants Close.
func New(o Options) (*Cluster, error) { return newCluster(o, usual) }

func newCluster(o Options, pace tuning) (*Cluster, error) {
	s, err := o.check()
	if err != nil {
		return nil, fmt.Errorf("gossip options: %w", err)
	}
	c := &Cluster{s: &s, pace: pace, table: newTable(&s), closed: make(chan struct{})}
	c.journal = &journal{logger: s.Logger, said: map[string]time.Time{}}
	if c.transport, err = newTransport(&s, c.journal.trouble); err != nil {
		return nil, err
	}
	c.metrics = newMetrics(s.Registerer, func() int { return len(c.table.members()) })
	c.table.metrics, c.journal.troubles = c.metrics, c.metrics.troubles
	return c, nil
}

// Address returns the host:port that other nodes can join, as they are told it.
func (c *Cluster) Address() string { return c.transport.own.String() }

// Members returns the other nodes that seem alive, sorted by incarnation; of each
// node its newest run only, and never this one. The list is the caller's. It is
// empty before Run and after it.
func (c *Cluster) Members() []Member { return slices.Clone(c.table.members()) }

// Changed rings after Members changed. It has one slot, and so one user: several
// changes may ring once.
func (c *Cluster) Changed() <-chan struct{} { return c.table.changed }

// Close lets go of the sockets without a word to the others, who will find this
// node dead. It is for a Cluster that was never run, which can then not be run
// any more; one that runs ends soon, and Run returns nil.
func (c *Cluster) Close() error {
	c.close.Do(func() { close(c.closed) })
	if c.begun.CompareAndSwap(false, true) {
		return c.transport.Shutdown()
	}
	return nil
}

// Run gossips, joins and keeps joining until ctx ends; then it tells the others,
// within about a second, and lets go of the sockets. It is fine to be alone. Run
// can be called once.
//
// All goroutines of this package and all connections have ended when it returns.
// memberlist's own have been told to, but it offers no way to wait for them: one
// that probes a dead node at that moment is there for up to half a second more
// (4 s on a node that had trouble before) and reaches nothing of ours.
func (c *Cluster) Run(ctx context.Context) error {
	if !c.begun.CompareAndSwap(false, true) {
		return errors.New("gossip runs already, or has ended")
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx)) // longer than ctx by the farewell
	defer end()
	c.load.Store(c.clients())
	c.transport.serve(life)
	list, err := memberlist.Create(c.config())
	if err != nil {
		return fmt.Errorf("start gossip: %w", errors.Join(err, c.transport.Shutdown()))
	}
	loops, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	running.Go(func() { c.joiner(list).run(loops) })
	running.Go(func() { c.report(loops) })
	running.Go(func() { c.tellLoad(loops, list) })
	select {
	case <-ctx.Done():
		c.leave(list)
	case <-c.closed:
	}
	stop()
	end() // dials of the joiner, too
	c.journal.deaf.Store(true)
	err = list.Shutdown()
	running.Wait()
	c.table.close()
	return err
}

// leave tells the others, so that nobody has to find out.
func (c *Cluster) leave(list *memberlist.Memberlist) {
	if err := list.Leave(farewell); err != nil {
		c.s.Logger.Info("pack may not know that this node left", "err", err)
	}
}

func (c *Cluster) config() *memberlist.Config {
	config := memberlist.DefaultLANConfig()
	config.Name = c.s.Incarnation
	config.Transport = c.transport
	if c.pace.through != nil {
		config.Transport = c.pace.through(c.transport)
	}
	config.BindPort, config.AdvertisePort = int(c.transport.own.Port()), int(c.transport.own.Port())
	config.SecretKey = c.s.Key
	config.GossipVerifyIncoming, config.GossipVerifyOutgoing = true, true
	config.EnableCompression = false // messages are small; and nothing to inflate
	config.ProbeInterval, config.ProbeTimeout = c.pace.probe, c.pace.probeTimeout
	config.SuspicionMult, config.RetransmitMult = suspicion, retransmits
	config.GossipInterval, config.GossipToTheDeadTime = c.pace.gossip, c.pace.lastWords
	config.PushPullInterval = c.pace.exchange
	config.TCPTimeout = streamLimit
	config.Delegate, config.Events = self{c}, c.table
	config.Logger = log.New(c.journal, "", 0)
	return config
}

func (c *Cluster) joiner(list *memberlist.Memberlist) *joiner {
	return &joiner{
		s: c.s, own: c.transport.own, table: c.table, journal: c.journal, metrics: c.metrics, pace: c.pace,
		aliases: map[netip.AddrPort]time.Time{},
		join: func(address string) error {
			_, err := list.Join([]string{address})
			return err
		},
	}
}
