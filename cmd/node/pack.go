package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"raptorpack/api"
	"raptorpack/cluster"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

// ErrAlone means that a file cannot carry more than one node: it lacks the keys of
// the bus and of gossip. `config upgrade` adds them.
var ErrAlone = errors.New("the configuration has no keys for a pack of several nodes")

// Members tell which other nodes seem to be there. *cluster.Cluster is one.
type Members interface {
	Members() []cluster.Member
	Changed() <-chan struct{}
}

// pack is this node's place among the others; nil: it is alone.
type pack struct {
	listener net.Listener
	gossip   *cluster.Cluster // nil: Options.Members says who is there
	members  Members
}

// openPack opens the bus and joins gossip, if the file has keys for both.
func (n *Node) openPack(ctx context.Context) error {
	c := n.o.Config
	if c.Bus.Certificate == "" || c.Gossip.Key == "" {
		if !n.o.Master {
			return fmt.Errorf("run as minion: keys Bus.certificate and Gossip.key: %w", ErrAlone)
		}
		return nil
	}
	n.checkExpiry("Bus.certificate", c.Bus.Certificate)
	if err := n.setBusCertificate(c.Bus.Certificate, c.Bus.PrivateKey); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(c.Bus.BindAddress, strconv.Itoa(c.Bus.BindPort)))
	if err != nil {
		return fmt.Errorf("open the bus: %w", err)
	}
	n.pack = &pack{listener: listener, members: n.o.Members}
	if n.o.Members != nil {
		return nil
	}
	key, err := base64.StdEncoding.DecodeString(c.Gossip.Key)
	if err != nil {
		return fmt.Errorf("key Gossip.key: %w", err)
	}
	n.pack.gossip, err = cluster.New(cluster.Options{
		Node: n.o.Name, Incarnation: n.incarnation.Name(), BindAddress: c.Gossip.BindAddress, BindPort: c.Gossip.BindPort,
		AdvertiseAddress: c.Gossip.AdvertiseAddress, BusPort: portOf(listener.Addr()), Key: key, Candidate: n.o.Master,
		Version: n.o.Version, Join: c.Gossip.Join, Seeds: n.gossipSeeds, Clients: n.waitingClients,
		Registerer: n.registry, Logger: n.component("cluster"),
	})
	if err != nil {
		return err
	}
	n.pack.members = n.pack.gossip
	n.incarnation.Advertise(n.pack.gossip.Address())
	return nil
}

func portOf(address net.Addr) int {
	if tcp, ok := address.(*net.TCPAddr); ok {
		return tcp.Port
	}
	return 0
}

// run gossips until ctx ends.
func (p *pack) run(ctx context.Context) error {
	if p.gossip == nil {
		<-ctx.Done()
		return nil
	}
	return p.gossip.Run(ctx)
}

// close gives up what a start that broke half-way has opened.
func (p *pack) close() error {
	err := p.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	if p.gossip != nil {
		err = errors.Join(err, p.gossip.Close())
	}
	return err
}

// gossipSeeds are the addresses that living incarnations name on the filestore:
// whoever has the mount finds the pack.
func (n *Node) gossipSeeds(ctx context.Context) ([]string, error) {
	all, err := n.store.Incarnations(ctx)
	if err != nil {
		return nil, err
	}
	var seeds []string
	for _, info := range all {
		if !info.Dead && !info.Released && info.Name != n.incarnation.Name() && info.Heartbeat.Gossip != "" {
			seeds = append(seeds, info.Heartbeat.Gossip)
		}
	}
	return seeds, nil
}

// waitingClients is asked from the moment that gossip begins, before there is a
// board.
func (n *Node) waitingClients() int {
	if n.board == nil {
		return 0
	}
	return n.board.Count()
}

func (n *Node) setBusCertificate(certificate, key string) error {
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		return fmt.Errorf("key Bus.certificate: %w", err)
	}
	n.busCertificate.Store(&pair)
	return nil
}

// busOptions are nil for a node alone.
func (n *Node) busOptions() (*replication.BusOptions, error) {
	if n.pack == nil {
		return nil, nil
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM([]byte(n.o.Config.Client.CACertificate)) {
		return nil, errors.New("key Client.ca_certificate: no certificate")
	}
	n.presence = newPresence(n.board, n.clients, n.heardOfEvents)
	return &replication.BusOptions{
		Listener: n.pack.listener, Certificate: n.busCertificate.Load, Authority: authority,
		Peers: n.peers, Changed: n.pack.members.Changed(), Dial: n.o.BusDial,
		Describe: n.describe, Soft: n.presence, Settled: n.Settled, Order: n.obey,
	}, nil
}

func (n *Node) peers() []replication.Peer {
	var all []replication.Peer
	for _, m := range n.pack.members.Members() {
		all = append(all, replication.Peer{Incarnation: m.Incarnation, Address: m.Bus})
	}
	return all
}

// describe is what other nodes are told of this one beside its place in the ledger.
func (n *Node) describe(s *buspb.NodeStatus) {
	s.Node, s.Version, s.Candidate = n.o.Name.String(), n.o.Version, n.o.Master
	s.Connected, s.Started, s.Draining = int64(n.board.Count()), n.started.UnixMicro(), n.draining.Load()
	for _, org := range n.clients.Orgs() {
		s.Clients += int64(n.clients.Count(org))
	}
	if n.doors != nil {
		s.Frontend, s.Operators, s.Programs = n.frontendAt, n.doors.operatorsAt, n.doors.programsAt
	}
	if err := n.Ready(); err != nil {
		s.Unready = err.Error()
	}
	s.Cpu, s.Memory = n.usage.now()
}

// order has a node do what an operator asks of it here.
func (n *Node) order(ctx context.Context, node, what, principal string) error {
	if node == n.o.Name.String() {
		return n.obey(ctx, what, principal)
	}
	for _, s := range n.ledger.Pack() {
		if s.GetNode() == node {
			err := n.ledger.Order(ctx, s.GetIncarnation(), what, principal)
			switch {
			case err == nil, errors.Is(err, replication.ErrInvalid):
				return err
			case errors.Is(err, replication.ErrUnheard):
				return fmt.Errorf("%w: %w", api.ErrUnheard, err)
			}
			return fmt.Errorf("%w: %w", api.ErrUnsure, err) // the answer may have been lost
		}
	}
	all, err := n.store.Incarnations(ctx)
	if err != nil {
		return err
	}
	for _, info := range all {
		if info.Node.String() == node {
			return fmt.Errorf("node %s: %w", node, api.ErrUnheard)
		}
	}
	return fmt.Errorf("node %.80q: %w", node, api.ErrUnknownNode)
}

// obey does what an operator asked of this node, here or at another one.
func (n *Node) obey(_ context.Context, what, principal string) error {
	switch what {
	case "drain":
		n.log.Info("told to drain", "principal", principal)
		time.AfterFunc(drainAfter, n.drain) // whoever asked is answered first
		return nil
	}
	return fmt.Errorf("order %.40q: %w", what, replication.ErrInvalid)
}

// drainAfter is how long a node that was told to drain goes on.
const drainAfter = 300 * time.Millisecond

// staleAfter is the age of the state beyond which fresh reads are refused.
const staleAfter = 5 * time.Second

// fresh returns when this node's state has all that was acknowledged before the call.
func (n *Node) fresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, staleAfter)
	defer cancel()
	index, err := n.ledger.Stand(ctx)
	if err != nil {
		return err
	}
	return n.ledger.WaitApplied(ctx, index)
}
