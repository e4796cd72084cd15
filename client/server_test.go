package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
)

const testNonce = "dGVzdC1ub25jZQ=="

// deployment is a CA and a server identity, made once: RSA keys are dear.
type deployment struct {
	ca, certificate []byte
	key             *rsa.PrivateKey
	clients         []*Identity
}

var testDeployment = sync.OnceValue(func() *deployment {
	caKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	key, _ := rsa.GenerateKey(rand.Reader, 2048)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		panic(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: wire.DefaultServerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		panic(err)
	}
	d := &deployment{key: key}
	d.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	d.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER})
	for range 2 {
		identity, err := NewIdentity(time.Now())
		if err != nil {
			panic(err)
		}
		d.clients = append(d.clients, identity)
	}
	return d
})

// testServer is a small honest server: it enrols, hands out jobs, and keeps
// what it was given by identity.
type testServer struct {
	*httptest.Server
	t        testing.TB
	opener   *wire.Opener
	sealer   *wire.Sealer
	identity *wire.Identity

	mu       sync.Mutex
	keys     map[ids.Client]*rsa.PublicKey
	jobs     []*wirepb.VeloMessage
	wake     chan struct{}                    // closed and replaced when jobs come
	closing  chan struct{}                    // closed when the test ends
	control  func() int                       // status of the next control post; nil: 200
	refuse   func([]*wirepb.VeloMessage) bool // answers a post by 400
	garbage  int                              // readers still to be answered by garbage
	messages []*wirepb.VeloMessage
	checkIns []uint64
	sockets  int
	readers  int // that wait for jobs
	conns    []wire.Conn
	urgent   int
	serving  sync.WaitGroup
}

func newTestServer(t testing.TB) *testServer {
	t.Helper()
	d := testDeployment()
	identity, err := wire.NewIdentity(wire.IdentityOptions{Key: d.key, Certificate: d.certificate})
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{
		t: t, identity: identity, keys: map[ids.Client]*rsa.PublicKey{}, wake: make(chan struct{}), closing: make(chan struct{}),
	}
	s.opener, err = wire.NewOpener(wire.OpenerOptions{
		Identity: identity, Orgs: func(nonce string) (ids.Org, bool) { return ids.RootOrg, nonce == testNonce },
		Keys: func(_ context.Context, _ ids.Org, c ids.Client) (*rsa.PublicKey, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if key, ok := s.keys[c]; ok {
				return key, nil
			}
			return nil, wire.ErrNoKey
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.sealer, err = wire.NewSealer(wire.SealerOptions{
		Identity: identity, Nonce: func(ids.Org) (string, bool) { return testNonce, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/server.pem", func(w http.ResponseWriter, _ *http.Request) { w.Write(d.certificate) })
	mux.HandleFunc("/control", func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, s.takeControl) })
	mux.HandleFunc("/reader", func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, s.takeReader) })
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.stop)
	return s
}

func (s *testServer) stop() {
	close(s.closing)
	s.mu.Lock()
	conns := s.conns
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	s.CloseClientConnections()
	s.Close()
	s.serving.Wait()
}

// serve carries one endpoint over POST or WebSocket.
func (s *testServer) serve(w http.ResponseWriter, r *http.Request, take func(context.Context, []byte) (int, []byte)) {
	if r.Header.Get("Upgrade") == "" {
		if r.Header.Get(wire.HeaderPriority) == "urgent" {
			s.mu.Lock()
			s.urgent++
			s.mu.Unlock()
		}
		body, _ := io.ReadAll(r.Body)
		code, answer := take(r.Context(), body)
		w.WriteHeader(code)
		w.Write(answer)
		return
	}
	conn, err := wire.Upgrade(w, r, wire.ConnOptions{})
	if err != nil {
		return
	}
	s.mu.Lock()
	s.sockets++
	s.conns = append(s.conns, conn)
	s.mu.Unlock()
	s.serving.Go(func() {
		defer conn.Close()
		for {
			message, err := conn.Next()
			if err != nil {
				return
			}
			body, err := io.ReadAll(message)
			if err != nil {
				return
			}
			code, answer := take(context.Background(), body)
			if conn.Write((wire.Frame{Code: code, Data: answer}).Append(nil)) != nil || code != 200 {
				return
			}
		}
	})
}

// open authenticates a packet; code is what to answer when it is no good.
func (s *testServer) open(body []byte) (packet *wire.Packet, messages []*wirepb.VeloMessage, code int) {
	packet, err := s.opener.Open(context.Background(), body)
	if err != nil {
		return nil, nil, 403
	}
	messages, err = packet.Messages()
	if err != nil {
		return nil, nil, 400
	}
	if packet.Standing == wire.Known {
		return packet, messages, 200
	}
	for _, m := range messages {
		if m.GetCsr() == nil {
			continue
		}
		if key, err := wire.CheckCSR(m.GetCsr().GetPem(), packet.Client); err == nil {
			s.mu.Lock()
			s.keys[packet.Client] = key
			s.mu.Unlock()
		}
	}
	return packet, nil, 406
}

func (s *testServer) takeControl(_ context.Context, body []byte) (int, []byte) {
	s.mu.Lock()
	verdict := s.control
	s.mu.Unlock()
	if verdict != nil {
		if code := verdict(); code != 200 {
			return code, nil
		}
	}
	_, messages, code := s.open(body)
	if code == 200 && s.refuse != nil && s.refuse(messages) {
		return 400, nil
	}
	if code == 200 {
		s.mu.Lock()
		s.messages = append(s.messages, messages...)
		s.mu.Unlock()
	}
	return code, nil
}

func (s *testServer) takeReader(ctx context.Context, body []byte) (int, []byte) {
	packet, messages, code := s.open(body)
	if code != 200 {
		return code, nil
	}
	key := s.key(packet.Client) // before a test takes it away
	s.mu.Lock()
	for _, m := range messages {
		if m.GetForemanCheckin() != nil {
			s.checkIns = append(s.checkIns, m.GetForemanCheckin().GetLastEventTableVersion())
		} else {
			s.messages = append(s.messages, m)
		}
	}
	if s.garbage > 0 {
		s.garbage--
		s.mu.Unlock()
		return 200, []byte("this is no packet at all")
	}
	s.mu.Unlock()
	jobs := s.waitJobs(ctx)
	if len(jobs) == 0 {
		return 200, []byte{0x5a, 1, 0}
	}
	answer, err := s.sealer.Seal(ctx, wire.Delivery{Client: packet.Client, Key: key, Messages: jobs})
	if err != nil {
		return 503, nil
	}
	return 200, append([]byte{0x5a, 1, 0}, answer...) // a pad first, as after a wait
}

func (s *testServer) key(c ids.Client) *rsa.PublicKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[c]
}

// waitJobs takes everything that is queued, or waits for it.
func (s *testServer) waitJobs(ctx context.Context) []*wirepb.VeloMessage {
	s.reads(1)
	defer s.reads(-1)
	for {
		s.mu.Lock()
		jobs, wake := s.jobs, s.wake
		s.jobs = nil
		s.mu.Unlock()
		if len(jobs) > 0 {
			return jobs
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		case <-s.closing:
			return nil
		}
	}
}

// send queues jobs for the one client of the test.
func (s *testServer) send(jobs ...*wirepb.VeloMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, jobs...)
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *testServer) received() []*wirepb.VeloMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

func (s *testServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.messages)
}

func (s *testServer) reads(more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers += more
}

// waitDeserted returns when nobody waits for jobs: a killed agent's poll would take
// what is meant for the next.
func (s *testServer) waitDeserted() {
	s.t.Helper()
	waitFor(s.t, "the last poll to be over", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.readers == 0
	}, nil)
}

func (s *testServer) setControl(verdict func() int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.control = verdict
}

// final is the flow's final statistics, nil before its end.
func (s *testServer) final(flow string) *wirepb.FlowStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		if m.GetSessionId() == flow && m.GetFlowStats().GetFlowComplete() {
			return m.GetFlowStats()
		}
	}
	return nil
}

// results are the rows of one name by number, held to exactly-once: what comes
// again must be the same.
func (s *testServer) results(flow, name string) []string {
	s.t.Helper()
	rows := map[uint64]string{}
	for _, m := range s.received() {
		r := m.GetVqlResponse()
		if m.GetSessionId() != flow || r.GetQuery().GetName() != name {
			continue
		}
		text := []byte(r.GetJsonlResponse())
		if r.GetUncompressedSize() > 0 {
			var err error
			if text, err = wire.Inflate(r.GetCompressedJsonResponse(), 1<<30, nil); err != nil {
				s.t.Fatal(err)
			}
		}
		lines := strings.SplitAfter(string(text), "\n")
		lines = lines[:len(lines)-1]
		if uint64(len(lines)) != r.GetTotalRows() {
			s.t.Fatalf("part %d says %d rows and has %d", r.GetPart(), r.GetTotalRows(), len(lines))
		}
		for i, line := range lines {
			at := r.GetQueryStartRow() + uint64(i)
			if old, ok := rows[at]; ok && old != line {
				s.t.Fatalf("row %d came as %q and as %q", at, old, line)
			}
			rows[at] = line
		}
	}
	out := make([]string, 0, len(rows))
	for i, at := range slices.Sorted(maps.Keys(rows)) {
		if uint64(i) != at {
			s.t.Fatalf("row %d is missing", i)
		}
		out = append(out, rows[at])
	}
	return out
}

// upload puts a file together as a server does: at offsets, from the start
// when offset 0 comes. done says that its end has come.
func (s *testServer) upload(flow string, number int64) (data []byte, end *wirepb.FileBuffer) {
	s.t.Helper()
	for _, m := range s.received() {
		b := m.GetFileBuffer()
		if b == nil || m.GetSessionId() != flow || b.GetUploadNumber() != number {
			continue
		}
		if b.GetEof() {
			end = b
			continue
		}
		block := b.GetData()
		if b.GetUncompressedLength() > 0 {
			var err error
			if block, err = wire.Inflate(block, 2<<20, nil); err != nil {
				s.t.Fatal(err)
			}
		}
		if b.GetOffset() > uint64(len(data)) {
			s.t.Fatalf("upload %d: a hole before %d", number, b.GetOffset())
		}
		data = append(data[:b.GetOffset()], block...)
	}
	return data, end
}

// logText is the log of a session, its lines in order of number.
func (s *testServer) logText(flow string) string {
	var out strings.Builder
	next := int64(0)
	for _, m := range s.received() {
		if l := m.GetLogMessage(); l != nil && m.GetSessionId() == flow {
			if l.GetId() < next {
				continue // came again
			}
			next = l.GetId() + int64(l.GetNumberOfRows())
			out.WriteString(l.GetJsonl())
		}
	}
	return out.String()
}

// waitFor polls a condition; last says what to print when it gives up.
func waitFor(t testing.TB, what string, condition func() bool, last func() string) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			state := ""
			if last != nil {
				state = last()
			}
			t.Fatalf("gave up waiting for %s; %s", what, state)
		case <-tick.C:
		}
	}
}

// logTo collects an agent's own log for failures.
func logTo(t testing.TB) *slog.Logger {
	var mu sync.Mutex
	var text bytes.Buffer
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if t.Failed() {
			t.Logf("agent's log:\n%s", shortText(text.String(), 8000))
		}
	})
	return slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return text.Write(p)
	}), nil))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func flowRequest(id string, change func(*wirepb.FlowRequest), queries ...string) *wirepb.VeloMessage {
	r := &wirepb.FlowRequest{LogBatchTime: 100, FlowUpdateTime: 1}
	for i, text := range queries {
		r.VqlClientActions = append(r.VqlClientActions, &wirepb.VQLCollectorArgs{
			Query: []*wirepb.VQLRequest{{Name: fmt.Sprintf("Q%d", i), Vql: text}}, MaxRow: 100,
		})
	}
	if change != nil {
		change(r)
	}
	return &wirepb.VeloMessage{SessionId: id, RequestId: 1, FlowRequest: r}
}
