package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// peer is another node as this one sees it.
type peer struct {
	Peer
	cancel context.CancelFunc
	conn   *grpc.ClientConn // its goroutine's own
	told   bool             // that it is not heard was logged; its goroutine's own

	client buspb.BusClient   // guarded by bus.mu
	status *buspb.NodeStatus // nil: not heard; guarded by bus.mu
}

// keepPeers holds a conversation with every node that seems to be there, until
// ctx ends.
func (b *bus) keepPeers(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var gone sync.WaitGroup
	defer gone.Wait()
	for {
		b.adjust(ctx, &gone)
		select {
		case <-ctx.Done():
			return
		case <-b.o.Changed:
		case <-tick.C:
		}
	}
}

// adjust begins conversations with new peers and ends those with peers that are
// neither listed nor heard.
func (b *bus) adjust(ctx context.Context, running *sync.WaitGroup) {
	listed := map[string]string{}
	for _, p := range b.o.Peers() {
		if p.Incarnation != b.n.o.Incarnation && p.Address != "" {
			listed[p.Incarnation] = p.Address
		}
	}
	b.mu.Lock()
	var over []*peer
	for name, p := range b.peers {
		if listed[name] != p.Address && p.status == nil {
			over = append(over, p)
			delete(b.peers, name)
		}
	}
	var fresh []*peer
	for name, address := range listed {
		if b.peers[name] == nil {
			p := &peer{Peer: Peer{name, address}}
			b.peers[name] = p
			fresh = append(fresh, p)
		}
	}
	b.mu.Unlock()
	for _, p := range over {
		p.cancel()
	}
	for _, p := range fresh {
		var mine context.Context
		mine, p.cancel = context.WithCancel(ctx)
		running.Go(func() { b.converse(mine, p) })
	}
}

// dial makes the connection; it is not used yet.
func (b *bus) dial(p *peer) error {
	conn, err := grpc.NewClient("passthrough:///"+p.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(b.clientTLS())),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return b.o.Dial(ctx, address) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxBusFrame), grpc.MaxCallSendMsgSize(maxBusFrame)),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(2*streamWindow),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return fmt.Errorf("dial %s: %w", p.Address, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p.conn, p.client = conn, buspb.NewBusClient(conn)
	return nil
}

// converse listens to one peer, again and again, until ctx ends. Each try has a
// connection of its own, so that none waits for the back-off of one before.
func (b *bus) converse(ctx context.Context, p *peer) {
	defer p.cancel()
	for ctx.Err() == nil {
		err := b.dial(p)
		if err == nil {
			err = b.listen(ctx, p)
			b.lose(p)
			err = errors.Join(err, p.conn.Close())
		}
		if ctx.Err() == nil && !p.told {
			p.told = true
			b.log.Info("node is not heard", "peer", p.Incarnation, "address", p.Address, "err", err)
		}
		retry.Sleep(ctx, redial/2+retry.Policy{First: redial / 2}.Pause(1))
	}
}

// listen hears what one peer tells until it ends or is silent. The error is never
// nil.
func (b *bus) listen(ctx context.Context, p *peer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(busSilence, func() { cancel(errSilent) })
	defer quiet.Stop()
	stream, err := p.client.Watch(ctx, &buspb.WatchRequest{From: b.introduction()})
	if err != nil {
		return fromBus(err)
	}
	for {
		report, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
				return cause
			}
			if errors.Is(err, io.EOF) {
				return errors.New("the other node ended the conversation")
			}
			return fromBus(err)
		}
		quiet.Reset(busSilence)
		b.hear(p, report)
	}
}

func (b *bus) hear(p *peer, report *buspb.Report) {
	if b.o.Soft != nil {
		for _, message := range report.GetSoft() {
			b.o.Soft.Hear(p.Incarnation, message)
		}
	}
	status := report.GetStatus()
	if status == nil {
		return
	}
	status.Incarnation = p.Incarnation // as gossip and certificate say, not as it says
	b.mu.Lock()
	before := p.status
	p.status = status
	b.highest = max(b.highest, status.GetLeads())
	if before == nil || before.GetLeads() != status.GetLeads() {
		b.stir()
	}
	b.mu.Unlock()
	if before == nil {
		p.told = false
		b.log.Info("node is heard", "peer", p.Incarnation, "address", p.Address, "version", status.GetVersion())
	}
}

// lose forgets what a peer told.
func (b *bus) lose(p *peer) {
	b.mu.Lock()
	heard := p.status != nil
	p.status = nil
	b.stir()
	b.mu.Unlock()
	if b.o.Soft != nil {
		b.o.Soft.Gone(p.Incarnation)
	}
	if heard {
		b.n.m.peersLost.Inc()
	}
}

// stir wakes those who wait for a leader. The caller holds mu.
func (b *bus) stir() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// others returns how the peers that are heard stand, by name.
func (b *bus) others() []*buspb.NodeStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []*buspb.NodeStatus
	for _, p := range b.peers {
		if p.status != nil {
			all = append(all, p.status)
		}
	}
	slices.SortFunc(all, func(x, y *buspb.NodeStatus) int { return strings.Compare(x.GetIncarnation(), y.GetIncarnation()) })
	return all
}

// leading returns the peer that leads the highest epoch known, nil if none is
// heard, and a channel that is closed when that may be another.
func (b *bus) leading() (p *peer, client buspb.BusClient, epoch, index uint64, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range b.peers {
		if leads := q.status.GetLeads(); leads > 0 && leads >= b.highest {
			p, client, epoch, index = q, q.client, leads, q.status.GetIndex()
		}
	}
	return p, client, epoch, index, b.changed
}

// Order passes on what an operator asks of another node. ErrUnheard means that it
// does not speak at the moment.
func (n *Node) Order(ctx context.Context, incarnation, what, principal string) error {
	client := n.bus.clientOf(incarnation)
	if client == nil {
		return fmt.Errorf("%s: %w", incarnation, ErrUnheard)
	}
	_, err := client.Order(ctx, &buspb.OrderRequest{From: n.bus.introduction(), What: what, Principal: principal})
	return fromBus(err)
}

// clientOf is the way to a peer that is heard; nil: there is none.
func (b *bus) clientOf(incarnation string) buspb.BusClient {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[incarnation]; p != nil && p.status != nil {
		return p.client
	}
	return nil
}
