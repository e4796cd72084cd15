package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"raptorpack/clients"
	"raptorpack/config"
	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/replication"
)

// ledgers are several nodes' ledgers in this process, with a clients room each,
// over real gRPC and TLS and one folder. The first one leads.
type ledgers struct {
	nodes []*ledger
	end   func() error
}

type ledger struct {
	name  string
	store *filestore.Store
	room  *clients.Room
	node  *replication.Node
	bus   net.Listener
	link  *link
}

// link is the way to one node's bus, which may be cut.
type link struct {
	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

func (l *link) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for c := range l.conns {
			c.Close()
		}
		clear(l.conns)
	}
}

// openLedgers starts count nodes; the first one leads when it returns.
func openLedgers(ctx context.Context, dir string, count int) (*ledgers, error) {
	text, err := config.Generate(config.GenerateOptions{Datastore: filepath.Join(dir, "store"), Now: time.Now()})
	if err != nil {
		return nil, err
	}
	file, err := config.Parse("bench.yaml", text, config.Options{})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(file.Datastore.FilestoreDirectory, 0o750); err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair([]byte(file.Bus.Certificate), []byte(file.Bus.PrivateKey))
	if err != nil {
		return nil, err
	}
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM([]byte(file.Client.CACertificate))
	p := &ledgers{}
	for i := range count {
		l := &ledger{name: fmt.Sprintf("n%d-1", i), room: clients.New(nil), link: &link{conns: map[net.Conn]struct{}{}}}
		if l.bus, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
		p.nodes = append(p.nodes, l)
	}
	for _, l := range p.nodes {
		if l.store, err = filestore.Open(file.Datastore.FilestoreDirectory, filestore.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
			return nil, err
		}
		l.node, err = replication.New(replication.Options{
			Store: l.store, Incarnation: l.name, States: []replication.State{l.room},
			Bus: &replication.BusOptions{
				Listener: l.bus, Certificate: func() *tls.Certificate { return &certificate }, Authority: authority,
				Peers: p.peers, Changed: make(chan struct{}), Dial: p.dial,
			},
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			return nil, err
		}
		if err := l.node.Load(ctx); err != nil {
			return nil, err
		}
	}
	return p, p.run(ctx)
}

func (p *ledgers) run(ctx context.Context) error {
	name, err := ids.ParseNode("n0")
	if err != nil {
		return err
	}
	term, err := p.nodes[0].store.Candidate(filestore.CandidateOptions{Node: name}).Campaign(ctx)
	if err != nil {
		return err
	}
	life, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for i, l := range p.nodes {
		running.Go(func() { note(l.name, l.node.RunBus(life)) })
		running.Go(func() { note(l.name, l.node.Run(life)) })
		if i == 0 {
			running.Go(func() { note(l.name, term.Keep(life)) })
			running.Go(func() { note(l.name, l.node.Lead(life, term)) })
			continue
		}
		running.Go(func() { note(l.name, l.node.Follow(life)) })
	}
	p.end = func() error {
		cancel()
		running.Wait()
		if err := term.Release(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		for _, l := range p.nodes {
			if err := l.store.Close(context.WithoutCancel(ctx)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, l := range p.nodes {
		for {
			if age, known := l.node.Age(); known && age < time.Second {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

func note(who string, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, who, err)
	}
}

func (p *ledgers) peers() []replication.Peer {
	var all []replication.Peer
	for _, l := range p.nodes {
		all = append(all, replication.Peer{Incarnation: l.name, Address: l.bus.Addr().String()})
	}
	return all
}

func (p *ledgers) dial(ctx context.Context, address string) (net.Conn, error) {
	var l *link
	for _, one := range p.nodes {
		if one.bus.Addr().String() == address {
			l = one.link
		}
	}
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if cut {
		return nil, fmt.Errorf("the link to %s is cut", address)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[conn] = struct{}{}
	return conn, nil
}
