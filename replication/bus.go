package replication

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"raptorpack/proto/buspb"
)

// The versions of the bus that this program speaks. A node takes part while its
// range and that of the other overlap, so that a pack can be renewed node by node.
const (
	busLowest  = 1
	busHighest = 1
)

const (
	reportEvery  = time.Second            // a node speaks at least so often
	softEvery    = 50 * time.Millisecond  // and of soft state at most so often
	busSilence   = 3 * time.Second        // who is silent for so long is not there
	pingEvery    = 500 * time.Millisecond // a follower asks how far the ledger goes
	redial       = 60 * time.Millisecond  // before a peer is tried again
	maxBusFrame  = 4 << 20                // one entry of the largest kind, and room
	busFrame     = 512 << 10              // entries and proposals sent at once, about
	streamWindow = 4 << 20                // unacknowledged bytes on a stream
)

// Peer is another node that seems to be there.
type Peer struct {
	Incarnation string
	Address     string // host:port of its bus
}

// Soft is what rooms tell each other beside the ledger: it vanishes with its node.
// The bus does not look into its messages.
type Soft interface {
	// Watch begins to tell one other node: first everything, then what changes.
	Watch() SoftWatch

	// Hear takes a message of another incarnation; calls for one incarnation come
	// one after the other.
	Hear(incarnation string, message []byte)

	// Gone says that another incarnation is not there any more, or must be heard
	// from its beginning: what it told is void.
	Gone(incarnation string)
}

// SoftWatch is one listener's place in the soft state.
type SoftWatch interface {
	// Changed rings when Take has something; one slot.
	Changed() <-chan struct{}

	// Take returns what changed since the last call, in messages of at most 256 KiB.
	Take() [][]byte

	// Close ends it.
	Close()
}

// BusOptions say how a node talks with the others of its pack.
type BusOptions struct {
	// Listener takes the others' calls. Required; RunBus closes it.
	Listener net.Listener

	// Certificate returns the identity that this node shows, with the URI
	// raptorpack:node, and Authority whom it trusts. Required.
	Certificate func() *tls.Certificate
	Authority   *x509.CertPool

	// Peers returns the other nodes that seem to be there; Changed rings when they
	// may be others. Required.
	Peers   func() []Peer
	Changed <-chan struct{}

	// Dial reaches an address; nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// Describe adds what the ledger does not know to this node's status; nil:
	// nothing.
	Describe func(*buspb.NodeStatus)

	// Soft is told and heard; nil: there is none.
	Soft Soft

	// Settled is the newest entry that this node has applied and done with, such as
	// having closed the files that it deleted; nil: what is applied is settled.
	Settled func() uint64

	// Order does something for an operator; nil: refused.
	Order func(ctx context.Context, what, principal string) error
}

func (o *BusOptions) validate() error {
	if o.Listener == nil || o.Certificate == nil || o.Authority == nil || o.Peers == nil {
		return fmt.Errorf("bus options: no listener, certificate, authority or peers: %w", ErrInvalid)
	}
	return nil
}

// bus is this node's end of the conversations with all others. A nil bus is that
// of a node alone.
type bus struct {
	n   *Node
	o   BusOptions
	log *slog.Logger

	mu      sync.Mutex
	peers   map[string]*peer
	highest uint64            // epoch that anybody is known to have led
	acks    map[string]uint64 // how far each follower has settled, while this node leads
	changed chan struct{}     // closed and replaced when a peer's standing is another
	telling chan struct{}     // closed and replaced when ours is
}

func newBus(n *Node, o BusOptions) *bus {
	if o.Dial == nil {
		o.Dial = dialTCP
	}
	return &bus{
		n: n, o: o, log: n.log, peers: map[string]*peer{}, acks: map[string]uint64{},
		changed: make(chan struct{}), telling: make(chan struct{}),
	}
}

// connectWithin bounds a TCP handshake. All nodes mount one filestore, so they are
// milliseconds apart; short tries find a link soon after it is back.
const connectWithin = 150 * time.Millisecond

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: connectWithin}).DialContext(ctx, "tcp", address)
}

// RunBus serves the other nodes and listens to them until ctx ends.
func (n *Node) RunBus(ctx context.Context) error {
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(n.bus.serverTLS())), grpc.MaxRecvMsgSize(maxBusFrame), grpc.WaitForHandlers(true),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(2*streamWindow),
	)
	buspb.RegisterBusServer(server, &busServer{n: n, b: n.bus})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(n.bus.o.Listener) })
	g.Go(func() error { n.bus.keepPeers(ctx); return nil })
	g.Go(func() error { return n.compared.run(ctx, n) })
	g.Go(func() error {
		<-ctx.Done()
		server.Stop()
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	return nil
}

// tell has every listener told at once how this node stands.
func (b *bus) tell() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.telling)
	b.telling = make(chan struct{})
}

func (b *bus) toldNext() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.telling
}

// saw notes that an epoch was led.
func (b *bus) saw(epoch uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.highest = max(b.highest, epoch)
}

func (b *bus) introduction() *buspb.Introduction {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &buspb.Introduction{Incarnation: b.n.o.Incarnation, Lowest: busLowest, Highest: busHighest, Epoch: b.highest}
}

// meet checks who introduces itself.
func (b *bus) meet(i *buspb.Introduction) error {
	if i.GetHighest() < busLowest || i.GetLowest() > busHighest {
		return fmt.Errorf("%s speaks versions %d to %d of the bus, this node %d to %d: %w",
			i.GetIncarnation(), i.GetLowest(), i.GetHighest(), busLowest, busHighest, ErrVersion)
	}
	if !isIncarnation(i.GetIncarnation()) {
		return fmt.Errorf("introduction of %.80q: %w", i.GetIncarnation(), ErrInvalid)
	}
	b.saw(i.GetEpoch())
	return nil
}

// status is how this node stands.
func (b *bus) status() *buspb.NodeStatus {
	n := b.n
	at := n.place()
	s := &buspb.NodeStatus{Incarnation: n.o.Incarnation, Level: n.o.Level, Epoch: at.epoch, Index: at.index, Age: -1, Outbox: n.outbox.Lag()}
	if r := n.reign(); r != nil && r.term.Valid() {
		s.Leads = r.term.Epoch()
	}
	if age, known := n.Age(); known {
		s.Age = age.Microseconds()
	}
	if b.o.Describe != nil {
		b.o.Describe(s)
	}
	return s
}

// Pack returns how every node that this one hears stands, this one first.
func (n *Node) Pack() []*buspb.NodeStatus {
	if n.bus == nil {
		return []*buspb.NodeStatus{(&bus{n: n}).status()}
	}
	return append([]*buspb.NodeStatus{n.bus.status()}, n.bus.others()...)
}
