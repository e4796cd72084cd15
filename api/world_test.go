package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"raptorpack/api"
	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/collections"
	"raptorpack/config"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/users"
	"raptorpack/vql"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// state is what the ledger writes to.
type state interface {
	Kind() string
	Apply(e *buspb.Entry) error
}

// ledger applies at once, remembers request ids, and can be without a master.
type ledger struct {
	mu       sync.Mutex
	states   map[string]state
	index    uint64
	earlier  map[string]uint64
	headless bool

	// slow, if set, is asked before anything is applied; its error is the answer.
	slow func(context.Context) error

	// confirm, if set, is what Fresh answers; age is known if it is positive.
	confirm func(context.Context) error
	age     time.Duration
}

func (l *ledger) ProposeIndex(ctx context.Context, m *buspb.Mutation) (uint64, error) {
	if l.slow != nil {
		if err := l.slow(ctx); err != nil {
			return 0, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.headless {
		return 0, fmt.Errorf("test: %w", api.ErrNoMaster)
	}
	if index := l.earlier[m.Principal+"/"+m.RequestId]; m.RequestId != "" && index != 0 {
		return index, nil
	}
	l.index++
	to := l.states[m.Kind]
	if to == nil {
		return 0, fmt.Errorf("no state of kind %q", m.Kind)
	}
	if err := to.Apply(&buspb.Entry{Index: l.index, Epoch: 1, Time: time.Now().UnixMicro(), Mutation: m}); err != nil {
		return 0, err
	}
	l.earlier[m.Principal+"/"+m.RequestId] = l.index
	return l.index, nil
}

func (l *ledger) Earlier(principal, requestID string) (index uint64, known bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	index = l.earlier[principal+"/"+requestID]
	return index, index != 0, nil
}

func (l *ledger) WaitApplied(ctx context.Context, index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index > l.index {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

func (l *ledger) Reached() uint64 {
	_, index, _ := l.Position()
	return index
}

func (l *ledger) Position() (epoch, index uint64, chain [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 1, l.index, chain
}

func (l *ledger) Age() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.age, l.age > 0
}

func (l *ledger) Fresh(ctx context.Context) error {
	if l.confirm == nil {
		return ctx.Err()
	}
	return l.confirm(ctx)
}

func (l *ledger) setAge(age time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.age = age
}

// AppendSync is the outbox: facts become entries at once.
func (l *ledger) AppendSync(ctx context.Context, facts []*buspb.Mutation) error {
	for _, m := range facts {
		if _, err := l.ProposeIndex(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) setHeadless(headless bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.headless = headless
}

// trail keeps the audit lines.
type trail struct {
	mu     sync.Mutex
	events []api.AuditEvent
}

func (a *trail) Record(_ context.Context, event api.AuditEvent) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, event)
	return nil
}

func (a *trail) operations() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for _, e := range a.events {
		names = append(names, e.Principal+":"+e.Operation)
	}
	return strings.Join(names, " ")
}

// last is the newest line of an operation.
func (a *trail) last(operation string) (found api.AuditEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Operation == operation {
			found = e
		}
	}
	return found
}

// pki is made once: keys cost time.
var pki = sync.OnceValue(func() (p struct{ ca, server, robot, stranger, node, local config.Pair }) {
	now := time.Now()
	must := func(pair config.Pair, err error) config.Pair {
		if err != nil {
			panic(err)
		}
		return pair
	}
	p.ca = must(config.NewCA(now))
	p.server = must(config.NewServer(p.ca, "VelociraptorServer", 10, now))
	p.robot = must(config.NewCaller(p.ca, "robot", 10, now))
	p.stranger = must(config.NewCaller(p.ca, "stranger", 10, now))
	p.node = must(config.NewNode(p.ca, 10, now))
	p.local = must(config.NewLocalCaller(p.ca, "root", now))
	return p
})

// library is read once: it never changes.
var library = sync.OnceValues(artifacts.BuiltIn)

var clientKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// world is a server with both doors open over real rooms and a real store.
type world struct {
	t         *testing.T
	ledger    *ledger
	trail     *trail
	users     *users.Room
	flows     *flows.Room
	committer *filestore.Committer
	hunts     *hunts.Room
	tools     *inventory.Room
	server    *api.Server
	client    ids.Client
	base      string // of the JSON door
	grpc      string
	keys      map[string]string // API keys by account
	store     *filestore.Store
	stop      func() // ends the server and waits for it

	nodes   []*buspb.NodeStatus // of the pack
	mu      sync.Mutex
	ordered []string // what nodes were told to do, and for whom
}

const secretArtifact = `name: Custom.Secret
parameters:
- name: Token
  type: redacted
- name: Depth
  type: int
  default: "1"
sources:
- query: SELECT Token, Depth FROM scope()
`

func newWorld(t *testing.T, change ...func(*api.Options)) *world {
	t.Helper()
	w := &world{t: t, trail: &trail{}, users: users.New(), keys: map[string]string{}, ledger: &ledger{earlier: map[string]uint64{}}}
	room := clients.New(nil)
	builtIn, err := library()
	w.check(err)
	definitions := artifacts.NewRoom(builtIn)
	w.tools = inventory.New(inventory.Options{Declared: func(org ids.Org) []artifacts.DeclaredTool { return definitions.Repository(org).Tools() }})
	w.hunts = hunts.New(hunts.Options{Clients: room})
	room.Follow(w.hunts.ClientChanged)
	w.openFlows()
	w.ledger.states = map[string]state{}
	for _, s := range []state{w.users, room, definitions, w.flows.Table, w.flows.Events, w.flows.Server, w.hunts, w.tools} {
		w.ledger.states[s.Kind()] = s
	}
	w.populate(room)
	o := w.options(room, definitions)
	for _, c := range change {
		c(&o)
	}
	w.server, err = api.New(o)
	w.check(err)
	w.base, w.grpc = "https://"+o.HTTP.Addr().String(), o.GRPC.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.server.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		stop()
		w.check(<-ended)
	})
	t.Cleanup(w.stop)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// openFlows makes the flows room over a store in a folder.
func (w *world) openFlows() {
	store, err := filestore.Open(w.t.TempDir(), filestore.Options{})
	w.check(err)
	w.store = store
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: "n1-1", Valid: func() bool { return true }, Outbox: w.ledger,
	})
	w.check(err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	w.committer = committer
	go func() { ended <- committer.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		w.check(errors.Join(<-ended, store.Close(context.Background())))
	})
	reader := filestore.NewReader(filestore.ReaderOptions{Store: store})
	w.flows = flows.New(flows.Options{Committer: committer, Reader: reader, Tails: reader, Store: store, Incarnation: "n1-1", Hunts: w.hunts})
}

// populate enrols a client and makes an account with a key for each role.
func (w *world) populate(room *clients.Room) {
	w.client = ids.ClientOfKey(&clientKey().PublicKey)
	m, err := room.PlanEnrol(ids.RootOrg, clients.Enrolment{Client: w.client, Key: &clientKey().PublicKey})
	w.check(err)
	w.propose(m)
	m, err = room.PlanInfo(ids.RootOrg, w.client, []byte(`{"Hostname":"web-1","Fqdn":"web-1.example","OS":"linux"}`), ids.Flow{}, nil)
	w.check(err)
	w.propose(m)
	for _, role := range append(users.Roles(), "robot") {
		roles := []string{role}
		if role == "robot" {
			roles = []string{"api"}
		}
		m, err := w.users.PlanSet(role, roles, nil, false)
		w.check(err)
		w.propose(m)
		m, secret, err := w.users.PlanSession(role, "test", time.Now().Add(time.Hour))
		w.check(err)
		w.propose(m)
		w.keys[role] = secret
	}
}

func (w *world) propose(m *buspb.Mutation) {
	w.t.Helper()
	_, err := w.ledger.ProposeIndex(context.Background(), m)
	w.check(err)
}

// tables shows the rows of hunts.
func (w *world) tables(room *clients.Room) *hunts.Results {
	return hunts.NewResults(hunts.ResultsOptions{
		Hunts: w.hunts, Flows: w.flows, Clients: room, Store: w.store, Scratch: w.t.TempDir(),
		Reader: filestore.NewReader(filestore.ReaderOptions{Store: w.store}),
	})
}

func (w *world) options(room *clients.Room, definitions *artifacts.Room) api.Options {
	engine, err := vql.NewEngine(nil, nil)
	w.check(err)
	authority, err := config.Certificate(pki().ca.Certificate)
	w.check(err)
	pair, err := tls.X509KeyPair([]byte(pki().server.Certificate), []byte(pki().server.PrivateKey))
	w.check(err)
	return api.Options{
		Ledger: w.ledger, Users: w.users, Clients: room, Flows: w.flows, Hunts: w.hunts, HuntTables: w.tables(room), HuntImports: w.huntImports(), HuntCopies: w.huntCopies(), FlowZips: collections.NewExporter(w.flows, room), Imports: w.collectionImports(room), Artifacts: definitions, Audit: w.trail,
		Status: func() api.Status { return api.Status{Node: "n1", Role: "master", Clients: 1} },
		Tools:  w.tools, ToolFiles: inventory.NewFiles(w.store, 1<<20, nil), ToolVariables: w.toolVariables, ServerURLs: serverURLs,
		Pack:   func() []api.NodeStatus { return api.PackOf(w.nodes) },
		Order:  w.order,
		Online: func(ids.Org, ids.Client) bool { return true }, ReadStored: w.readStored,
		Engine: engine, Authority: authority, Unasked: []string{"Generic.Client.Info"},
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil },
		HTTP:        w.listen(), GRPC: w.listen(), ClearNames: true,
	}
}

var serverURLs = []string{"https://pack.example/"}

func (w *world) toolVariables(t artifacts.Tool) ([]artifacts.Value, error) {
	tool, err := w.tools.Lookup(ids.RootOrg, t.Name, t.Version)
	if err != nil {
		return nil, err
	}
	return tool.Variables(serverURLs)
}

// order does what a pack would whose nodes are n1 and n2, and where n3 once was.
func (w *world) order(ctx context.Context, node, what, principal string) error {
	switch node {
	case "n1", "n2":
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ordered = append(w.ordered, node+":"+what+":"+principal)
		return ctx.Err()
	case "n3":
		return fmt.Errorf("test: %w", api.ErrUnheard)
	case "n4":
		return fmt.Errorf("the line went dead: %w", api.ErrUnsure)
	}
	return fmt.Errorf("test: %w", api.ErrUnknownNode)
}

func (w *world) orders() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.ordered, " ")
}

func (w *world) listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	return l
}

func (w *world) readStored(ctx context.Context, path string, offset int64, length int, _ bool) ([]byte, error) {
	file, err := w.store.OpenUpload(ctx, path)
	if err != nil {
		return nil, err
	}
	data := make([]byte, length)
	n, err := file.Stored(ctx).ReadAt(data, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], errors.Join(err, file.Close(ctx))
}

// tlsOf is a caller's TLS with a certificate, or with none.
func (w *world) tlsOf(caller config.Pair) *tls.Config {
	w.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(pki().ca.Certificate))
	c := &tls.Config{RootCAs: pool, ServerName: "VelociraptorServer", MinVersion: tls.VersionTLS13}
	if caller.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(caller.Certificate), []byte(caller.PrivateKey))
		w.check(err)
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// reply is an answer of the JSON door.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(r.body, v); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
}

// ask sends a request; who is an account whose API key is used, or empty.
func (w *world) ask(who, method, path string, body any, header ...string) reply {
	w.t.Helper()
	return w.askAs(config.Pair{}, who, method, path, body, header...)
}

func (w *world) askAs(caller config.Pair, who, method, path string, body any, header ...string) reply {
	w.t.Helper()
	response := w.send(caller, who, method, path, body, header...)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	w.check(err)
	return reply{response.StatusCode, response.Header, text}
}

func (w *world) send(caller config.Pair, who, method, path string, body any, header ...string) *http.Response {
	w.t.Helper()
	var text []byte
	if body != nil {
		var err error
		text, err = json.Marshal(body)
		w.check(err)
	}
	request, err := http.NewRequestWithContext(w.t.Context(), method, w.base+path, bytes.NewReader(text))
	w.check(err)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if who != "" {
		request.Header.Set("Authorization", "Bearer "+w.keys[who])
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{TLSClientConfig: w.tlsOf(caller), ForceAttemptHTTP2: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	response, err := (&http.Client{Transport: transport}).Do(request)
	w.check(err)
	return response
}

// want sends a request and checks the status of its answer.
func (w *world) want(status int, who, method, path string, body any, header ...string) reply {
	w.t.Helper()
	r := w.ask(who, method, path, body, header...)
	if r.status != status {
		w.t.Fatalf("%s %s as %q: %d, want %d: %s", method, path, who, r.status, status, r.body)
	}
	return r
}

func (w *world) flowsPath() string { return "/api/v1/clients/" + w.client.String() + "/flows" }

// collect starts a collection and returns its id.
func (w *world) collect(artifact string, parameters map[string]string) flows.Key {
	w.t.Helper()
	var started api.Collected
	w.want(200, "investigator", "POST", w.flowsPath(), wish(artifact, parameters)).into(w.t, &started)
	flow, err := ids.ParseFlow(started.Flow)
	w.check(err)
	return flows.Key{Org: ids.RootOrg, Client: w.client, Flow: flow}
}

func wish(artifact string, parameters map[string]string) api.CollectRequest {
	return api.CollectRequest{Artifacts: []api.CollectSpec{{Name: artifact, Parameters: parameters}}}
}

// arrive lets the client send messages.
func (w *world) arrive(messages ...*wirepb.VeloMessage) {
	w.t.Helper()
	w.check(w.flows.Ingest(w.t.Context(), flows.Peer{Client: w.client, Received: time.Now()}, messages))
}

func rowsOf(key flows.Key, name string, first int, lines ...string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: key.Flow.String(), VqlResponse: &wirepb.VQLResponse{
		Query: &wirepb.VQLRequest{Name: name}, JsonlResponse: strings.Join(lines, "\n") + "\n",
		TotalRows: uint64(len(lines)), QueryStartRow: uint64(first),
	}}
}

func endOf(key flows.Key, rows, uploads int64) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: key.Flow.String(), FlowStats: &wirepb.FlowStats{
		FlowComplete: true,
		QueryStatus:  []*wirepb.VeloStatus{{Status: wirepb.VeloStatus_OK, ResultRows: rows, UploadedFiles: uploads, FirstActive: 1, Duration: 5}},
	}}
}

func uploadOf(key flows.Key, number int64, data string) []*wirepb.VeloMessage {
	piece := func(offset int, text string, eof bool) *wirepb.VeloMessage {
		return &wirepb.VeloMessage{SessionId: key.Flow.String(), FileBuffer: &wirepb.FileBuffer{
			Pathspec: &wirepb.PathSpec{Path: "/etc/<évil>\r\nX: y", Accessor: "file", Components: []string{"etc", "<évil>\r\nX: y"}},
			Offset:   uint64(offset), Data: []byte(text), UploadNumber: number, StoredSize: uint64(offset + len(text)), Eof: eof, Size: uint64(len(data)),
		}}
	}
	return []*wirepb.VeloMessage{piece(0, data, false), piece(len(data), "", true)}
}

// huntImports brings hunts into the world's store.
func (w *world) collectionImports(room *clients.Room) *collections.Importer {
	return collections.NewImporter(collections.ImporterOptions{
		Writer: w.committer, Incarnation: "n1-1", Store: w.store, Flows: w.flows, Clients: room, Forget: w.committer.Forget, Scratch: w.t.TempDir(),
	})
}

// huntCopies adds collections to hunts.
func (w *world) huntCopies() *hunts.Copier {
	return hunts.NewCopier(hunts.CopierOptions{
		Hunts: w.hunts, Flows: w.flows, Writer: w.committer, Incarnation: "n1-1", Forget: w.committer.Forget,
		Files: hunts.Files{Store: w.store, Reader: filestore.NewReader(filestore.ReaderOptions{Store: w.store})},
	})
}

func (w *world) huntImports() *hunts.Importer {
	return hunts.NewImporter(hunts.ImporterOptions{
		Writer: w.committer, Forget: w.committer.Forget, Scratch: w.t.TempDir(),
		Files: hunts.Files{Store: w.store, Reader: filestore.NewReader(filestore.ReaderOptions{Store: w.store})},
	})
}
