package replication_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

// authority signs the certificates of a test's nodes.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate makes an identity with a URI, or without one.
func (a *authority) certificate(uri string) *tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "somebody"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// packKit is several nodes on one disk, with links that a test can cut.
type packKit struct {
	t     testing.TB
	disk  filestore.FS
	trust *authority
	cert  *tls.Certificate
	nodes []*busRig

	mu      sync.Mutex
	closed  map[string]bool // addresses nobody gets through to
	conns   map[net.Conn]string
	changed []chan struct{}
}

// busRig is a rig with a bus.
type busRig struct {
	*rig
	kit     *packKit
	address string
	soft    *chatter
	version atomic.Pointer[string] // of its program; nil: that of most
	halt    func()
}

func newPack(t testing.TB, tune func(*replication.Options), names ...string) *packKit {
	t.Helper()
	trust := newAuthority(t)
	k := &packKit{
		t: t, disk: filestoretest.NewPowerCut(t, 1), trust: trust, cert: trust.certificate("raptorpack:node"),
		closed: map[string]bool{}, conns: map[net.Conn]string{},
	}
	for _, name := range names {
		k.add(name, tune)
	}
	return k
}

// add starts one more node: it follows from now on.
func (k *packKit) add(name string, tune func(*replication.Options)) *busRig {
	k.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		k.t.Fatal(err)
	}
	b := &busRig{kit: k, address: listener.Addr().String(), soft: newChatter()}
	changed := make(chan struct{}, 1)
	b.rig = newRig(k.t, k.disk, name, func(o *replication.Options) {
		o.Bus = &replication.BusOptions{
			Listener: listener, Certificate: func() *tls.Certificate { return k.cert }, Authority: k.trust.pool,
			Peers: k.peers, Changed: changed, Dial: k.dial, Soft: b.soft,
			Describe: func(s *buspb.NodeStatus) {
				if v := b.version.Load(); v != nil {
					s.Version = *v
				}
			},
		}
		if tune != nil {
			tune(o)
		}
	})
	b.load()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := b.node.RunBus(ctx); err != nil {
			k.t.Errorf("bus of %s: %v", name, err)
		}
	})
	done.Go(func() { _ = b.node.Run(ctx) })
	b.halt = sync.OnceFunc(func() { cancel(); done.Wait() })
	k.t.Cleanup(b.halt)
	k.mu.Lock()
	k.nodes = append(k.nodes, b)
	k.changed = append(k.changed, changed)
	k.mu.Unlock()
	k.ring()
	b.follow()
	return b
}

func (k *packKit) ring() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.changed {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (k *packKit) peers() []replication.Peer {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []replication.Peer
	for _, b := range k.nodes {
		all = append(all, replication.Peer{Incarnation: b.o.Incarnation, Address: b.address})
	}
	return all
}

func (k *packKit) dial(ctx context.Context, address string) (net.Conn, error) {
	k.mu.Lock()
	closed := k.closed[address]
	k.mu.Unlock()
	if closed {
		return nil, errors.New("the link is cut")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns[conn] = address
	return conn, nil
}

// cut ends all conversations with one node until mend.
func (k *packKit) cut(b *busRig) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed[b.address] = true
	for conn, address := range k.conns {
		if address == b.address {
			conn.Close()
			delete(k.conns, conn)
		}
	}
}

func (k *packKit) mend(b *busRig) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.closed, b.address)
}

// follow lets the node follow whoever leads, until stop.
func (b *busRig) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.node.Follow(ctx); err != nil {
			b.t.Errorf("%s: %v", b.o.Incarnation, err)
		}
	}()
	b.stopRun = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(b.stopRun)
}

// leads makes the node master of an epoch; it follows no more.
func (b *busRig) leads(epoch uint64) *busRig {
	b.stopRun()
	b.lead(epoch)
	return b
}

// deposed ends leading; the node follows again.
func (b *busRig) deposed() {
	b.term.lost.Store(true)
	_ = b.stopLead()
	b.stopLead = nil
	b.follow()
}

// dies ends a node as a kill would, as far as others can tell.
func (b *busRig) dies() {
	b.kit.mu.Lock()
	for i, other := range b.kit.nodes {
		if other == b {
			b.kit.nodes = append(b.kit.nodes[:i:i], b.kit.nodes[i+1:]...)
			b.kit.changed = append(b.kit.changed[:i:i], b.kit.changed[i+1:]...)
			break
		}
	}
	b.kit.mu.Unlock()
	b.kit.cut(b)
	_ = b.stop()
	b.halt()
}

// same waits until all nodes stand at the index of the first with its digest.
func (k *packKit) same() {
	k.t.Helper()
	index, sum := k.nodes[0].node.Digest()
	for _, b := range k.nodes[1:] {
		b.eventually(b.o.Incarnation+" is as far", func() (any, bool) {
			at, _ := b.node.Digest()
			return at, at >= index
		})
		if at, got := b.node.Digest(); at != index || got != sum {
			k.t.Errorf("%s stands at %d with another digest than %s at %d", b.o.Incarnation, at, k.nodes[0].o.Incarnation, index)
		}
		if got, want := b.bytes(), k.nodes[0].bytes(); got != want {
			k.t.Errorf("%s has another state:\n%s\nwant\n%s", b.o.Incarnation, got, want)
		}
	}
}

// chatter is a soft state of words.
type chatter struct {
	mu      sync.Mutex
	words   []string
	heard   map[string][]string
	gone    map[string]int
	watches map[*chatWatch]bool
}

func newChatter() *chatter {
	return &chatter{heard: map[string][]string{}, gone: map[string]int{}, watches: map[*chatWatch]bool{}}
}

type chatWatch struct {
	c       *chatter
	next    int
	changed chan struct{}
}

func (c *chatter) say(word string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.words = append(c.words, word)
	for w := range c.watches {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (c *chatter) Watch() replication.SoftWatch {
	w := &chatWatch{c: c, changed: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watches[w] = true
	return w
}

func (w *chatWatch) Changed() <-chan struct{} { return w.changed }

func (w *chatWatch) Take() [][]byte {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	var out [][]byte
	for ; w.next < len(w.c.words); w.next++ {
		out = append(out, []byte(w.c.words[w.next]))
	}
	return out
}

func (w *chatWatch) Close() {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	delete(w.c.watches, w)
}

func (c *chatter) Hear(incarnation string, message []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard[incarnation] = append(c.heard[incarnation], string(message))
}

func (c *chatter) Gone(incarnation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.heard, incarnation)
	c.gone[incarnation]++
}

func (c *chatter) hears(incarnation string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.heard[incarnation]...)
}
