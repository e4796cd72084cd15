package frontend_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"raptorpack/frontend"
	"raptorpack/ids"
	"raptorpack/notifier"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keys is the clients' room as far as a frontend sees it.
type keys struct {
	wiretest.Keys

	mu        sync.Mutex
	noConfirm error
	noEnrol   error
	enrolled  []frontend.Enrolment
	confirmed []frontend.Proof
}

func (k *keys) Key(ctx context.Context, org ids.Org, c ids.Client) (*rsa.PublicKey, error) {
	return k.Lookup(ctx, org, c)
}

func (k *keys) ConfirmAbsent(_ context.Context, _ ids.Org, _ ids.Client, proof frontend.Proof) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.confirmed = append(k.confirmed, proof)
	return k.noConfirm
}

func (k *keys) Enrol(_ context.Context, e frontend.Enrolment) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.noEnrol != nil {
		return k.noEnrol
	}
	k.enrolled = append(k.enrolled, e)
	k.Set(e.Key)
	return nil
}

func (k *keys) fail(confirm, enrol error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.noConfirm, k.noEnrol = confirm, enrol
}

// collections is the flows' room as far as a frontend sees it: what was taken
// is durable when Ingest returns nil, and only then.
type collections struct {
	board *notifier.Board

	mu      sync.Mutex
	queues  map[ids.Client][]*wirepb.VeloMessage
	durable []*wirepb.VeloMessage
	peers   []frontend.Peer
	letters [][]byte
	closed  int
	present int                                                // attachments that ended while their client was on the board
	commit  func(context.Context, []*wirepb.VeloMessage) error // nil: at once
}

func (c *collections) Ingest(ctx context.Context, peer frontend.Peer, messages []*wirepb.VeloMessage) error {
	c.mu.Lock()
	commit := c.commit
	c.mu.Unlock()
	if commit != nil {
		if err := commit(ctx, messages); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.durable = append(c.durable, messages...)
	c.peers = append(c.peers, peer)
	return nil
}

func (c *collections) DeadLetter(_ context.Context, _ frontend.Peer, _ string, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.letters = append(c.letters, bytes.Clone(data))
	return nil
}

func (c *collections) Attach(_ ids.Org, client ids.Client) frontend.Attachment {
	return &attachment{c, client}
}

type attachment struct {
	c      *collections
	client ids.Client
}

func (a *attachment) Next() []*wirepb.VeloMessage {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	jobs := a.c.queues[a.client]
	delete(a.c.queues, a.client)
	return jobs
}

func (a *attachment) Close() {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	a.c.closed++
	if a.c.board.Connected(ids.RootOrg, a.client) {
		a.c.present++
	}
}

// give queues work, then wakes: the order that the rule of waking asks for.
func (c *collections) give(client ids.Client, sessions ...string) {
	c.mu.Lock()
	for _, s := range sessions {
		c.queues[client] = append(c.queues[client], &wirepb.VeloMessage{SessionId: s, FlowRequest: &wirepb.FlowRequest{}})
	}
	c.mu.Unlock()
	c.board.Wake(ids.RootOrg, client)
}

func (c *collections) setCommit(commit func(context.Context, []*wirepb.VeloMessage) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commit = commit
}

// kept counts durable messages of a session.
func (c *collections) kept(session string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, m := range c.durable {
		if m.SessionId == session {
			n++
		}
	}
	return n
}

type sightings struct {
	mu   sync.Mutex
	seen map[ids.Client]string
}

func (s *sightings) Touch(_ ids.Org, c ids.Client, address string, _ time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[c] = address
}

type tenants struct{}

func (tenants) Org(nonce string) (ids.Org, bool) { return wiretest.Orgs(nonce) }
func (tenants) Nonce(org ids.Org) (string, bool) { return wiretest.OrgNonce(org) }

// node is a running frontend with fakes behind it.
type node struct {
	*wiretest.Deployment
	keys        keys
	collections collections
	sightings   sightings
	board       *notifier.Board
	registry    *prometheus.Registry
	frontend    *frontend.Frontend
	address     string
	log         *lockedBuffer
	stop        func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// launch runs a frontend on loopback, with TLS when asked; edit may change its
// options.
func launch(t testing.TB, withTLS bool, edit func(*frontend.Options)) *node {
	t.Helper()
	n := &node{Deployment: wiretest.NewDeployment(t), registry: prometheus.NewRegistry(), log: &lockedBuffer{}}
	n.board = notifier.New(n.registry)
	n.collections.board, n.collections.queues = n.board, make(map[ids.Client][]*wirepb.VeloMessage)
	n.sightings.seen = make(map[ids.Client]string)
	l := wiretest.Listen(t)
	n.address = l.Addr().String()
	o := frontend.Options{
		Identity: n.Identity(t, wire.IdentityOptions{Registerer: n.registry}), Keys: &n.keys, Collections: &n.collections,
		Tenants: tenants{}, Board: n.board, Listener: l, Sightings: &n.sightings, RetryDelay: -1, DrainWindow: 200 * time.Millisecond,
		Registerer: n.registry, Logger: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if withTLS {
		pair := &frontend.Certificate{}
		if err := pair.Set(n.Server, wiretest.PrivatePEM(n.Key)); err != nil {
			t.Fatal(err)
		}
		config, err := frontend.TLSConfig(frontend.TLSOptions{Certificate: pair})
		if err != nil {
			t.Fatal(err)
		}
		o.TLS = config
	}
	if edit != nil {
		edit(&o)
	}
	var err error
	if n.frontend, err = frontend.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.frontend.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// agent is a real client on the wire, with the smallest conversation.
type agent struct {
	t         testing.TB
	key       *rsa.PrivateKey
	id        ids.Client
	base      string
	transport *wire.Transport
	session   *wire.Session
	control   *wire.Endpoint
	reader    *wire.Endpoint
}

func (n *node) agent(t testing.TB, scheme string, number int) *agent {
	t.Helper()
	transport, err := wire.NewTransport(wire.TransportOptions{
		TLS: wire.TLSOptions{CA: n.CA, SelfSigned: true}, Proxy: wire.ProxyOptions{IgnoreEnvironment: true}, ConnectionTimeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	a := &agent{t: t, key: wiretest.ClientKey(t, number), base: scheme + "://" + n.address + "/", transport: transport}
	a.id = ids.ClientOfKey(&a.key.PublicKey)
	a.rekey(n)
	for path, e := range map[string]**wire.Endpoint{wire.PathControl: &a.control, wire.PathReader: &a.reader} {
		if *e, err = transport.Endpoint(a.base, path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*e).Close() })
	}
	return a
}

// known is agent for a client that has enrolled.
func (n *node) known(t testing.TB, scheme string, number int) *agent {
	t.Helper()
	a := n.agent(t, scheme, number)
	n.keys.Set(&a.key.PublicKey)
	return a
}

// rekey fetches server.pem and begins a session, as after any error.
func (a *agent) rekey(n *node) {
	a.t.Helper()
	text, err := a.transport.ServerPEM(a.t.Context(), a.base)
	if err != nil {
		a.t.Fatal(err)
	}
	server, err := wire.CheckServer(text, n.Trust())
	if err != nil {
		a.t.Fatal(err)
	}
	if a.session, err = wire.NewSession(wire.SessionOptions{Key: a.key, Server: server, Nonce: wiretest.Nonce}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) seal(messages ...*wirepb.VeloMessage) []byte {
	a.t.Helper()
	body, err := a.session.SealMessages(messages...)
	if err != nil {
		a.t.Fatal(err)
	}
	return body
}

// post sends to control and returns the code.
func (a *agent) post(messages ...*wirepb.VeloMessage) int {
	a.t.Helper()
	answer, err := a.control.Exchange(a.t.Context(), wire.Request{Packet: a.seal(messages...)})
	if err != nil {
		a.t.Fatalf("post: %v", err)
	}
	return answer.Code
}

// poll checks in and waits for an answer.
func (a *agent) poll(ctx context.Context) (int, []*wirepb.VeloMessage, error) {
	answer, err := a.reader.Exchange(ctx, wire.Request{Packet: a.seal(checkIn(7))})
	if err != nil {
		return 0, nil, err
	}
	if answer.Code != http.StatusOK {
		return answer.Code, nil, nil
	}
	jobs, err := a.session.Open(ctx, answer.Body)
	return answer.Code, jobs, err
}

func checkIn(version uint64) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: "E.Foreman", ForemanCheckin: &wirepb.ForemanCheckin{LastEventTableVersion: version}}
}

func rows(session, text string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: session, VqlResponse: &wirepb.VQLResponse{JsonlResponse: text}}
}

// eventually waits for a condition and prints the last state when it gives up.
func eventually(t testing.TB, what string, holds func() bool, state func() any) {
	t.Helper()
	end := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-end:
			t.Fatalf("gave up waiting: %s; last state: %v", what, state())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (n *node) waiting(t testing.TB, want int) {
	t.Helper()
	eventually(t, "clients waiting", func() bool { return n.board.Count() == want }, func() any { return n.board.Count() })
}

// metric sums the series of one metric whose labels contain all of want.
func (n *node) metric(t testing.TB, name string, want ...string) float64 {
	t.Helper()
	families, err := n.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			text := strings.Join(labels, " ")
			fits := true
			for _, w := range want {
				fits = fits && strings.Contains(text, w)
			}
			if !fits {
				continue
			}
			switch {
			case m.Counter != nil:
				sum += m.Counter.GetValue()
			case m.Gauge != nil:
				sum += m.Gauge.GetValue()
			case m.Histogram != nil:
				sum += float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return sum
}

// rawPost sends bytes as they are, over HTTP.
func (n *node) rawPost(t testing.TB, path string, body []byte, edit func(*http.Request)) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.address+"/"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(r)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatalf("post %s: %v", path, err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

var errSlowDisk = errors.New("disk is slow")

func size(messages ...*wirepb.VeloMessage) int {
	return proto.Size(&wirepb.MessageList{Job: messages})
}

func dialRaw(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func protoList(messages ...*wirepb.VeloMessage) ([]byte, error) {
	return proto.Marshal(&wirepb.MessageList{Job: messages})
}

func itoa(n int) string { return strconv.Itoa(n) }

// hold polls from an address behind a proxy until the server ends it.
func (n *node) hold(t testing.TB, body []byte, address string) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.address+"/reader", bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	r.Header.Set("X-Real-IP", address)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Error(err)
		return
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
}
