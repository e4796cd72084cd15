package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
	"raptorpack/users"
	"raptorpack/vql"
)

// Ledger is what a handler needs to know of the pack.
type Ledger interface {
	// ProposeIndex returns the entry's index when m is durable in the ledger and
	// this node has applied it: who writes here reads it here.
	// ErrUnsure means that it may yet happen.
	ProposeIndex(ctx context.Context, m *buspb.Mutation) (uint64, error)

	// Earlier tells what became of a request id that principal used before, as far
	// as this node has applied: the index of its entry, and the error if it was
	// refused.
	Earlier(principal, requestID string) (index uint64, known bool, err error)

	// WaitApplied returns when this node stands at index or later.
	WaitApplied(ctx context.Context, index uint64) error

	// Position is the last applied entry.
	Position() (epoch, index uint64, chain [32]byte)

	// Reached is the newest entry whose effects a read may show by now.
	Reached() uint64

	// Age is how much older than the ledger this node's state may be, if that is
	// known: all that was acknowledged before is applied here.
	Age() (age time.Duration, known bool)

	// Fresh returns when this node has applied all that was acknowledged anywhere
	// before the call. Any other error than that of ctx means that nobody could tell.
	Fresh(ctx context.Context) error
}

// Auditor keeps who did what. Record returns when the line is durable.
type Auditor interface {
	Record(ctx context.Context, event AuditEvent) error
}

// AuditEvent is one line of the audit trail.
type AuditEvent struct {
	Time      time.Time         `json:"time"`
	Principal string            `json:"principal"`
	Address   string            `json:"address"`
	Operation string            `json:"operation"` // as collect, label, user.set
	Object    string            `json:"object"`    // an id
	Details   map[string]string `json:"details,omitempty"`
}

// Status is what a node says of itself.
type Status struct {
	Node      string  `json:"node"`
	Version   string  `json:"version"`
	Role      string  `json:"role" doc:"master, candidate or minion"`
	Ready     string  `json:"ready" doc:"empty when the node can serve, else why not"`
	Epoch     uint64  `json:"epoch"`
	Index     uint64  `json:"index" doc:"the last entry of the ledger applied here"`
	Clients   int     `json:"clients"`
	Connected int     `json:"connected"`
	Uptime    float64 `json:"uptimeSeconds"`
	Filestore string  `json:"filestore" doc:"the folder that results lie in"`
	Frontend  string  `json:"frontend" doc:"the address that clients reach"`
}

// Options wire a Server. All but the last block are required.
type Options struct {
	Ledger  Ledger
	Users   *users.Room
	Clients *clients.Room
	Flows   *flows.Room
	Hunts   *hunts.Room

	HuntTables  HuntTables
	HuntImports HuntImports
	HuntCopies  HuntCopies
	FlowZips    FlowZips
	Imports     CollectionImports
	Artifacts   *artifacts.Room
	Audit       Auditor
	Status      func() Status

	// Pack tells how every node stands that this one hears, this one first.
	Pack func() []NodeStatus

	// Order has a node do something in the name of an operator: what is drain. It
	// answers ErrUnknownNode or ErrUnheard when the order surely did not reach the
	// node; of any other error nobody knows. ErrUnsure says so to the operator.
	Order func(ctx context.Context, node, what, principal string) error

	Online func(ids.Org, ids.Client) bool

	// Unasked are the artifacts that the server runs on clients by itself; a custom
	// one in the place of such is for trusted writers.
	Unasked []string

	// Tools are the tools that artifacts need, ToolVariables what artifacts are told
	// of one, and ToolFiles make files durable that are to become one.
	Tools         *inventory.Room
	ToolVariables artifacts.ToolVariables
	ToolFiles     ToolFiles
	ServerURLs    []string // as clients are given them

	// ReadStored reads a piece of an upload by its stored path; expand gives a
	// sparse file its holes back. No bytes mean its end.
	ReadStored func(ctx context.Context, path string, offset int64, length int, expand bool) ([]byte, error)

	// Engine runs queries on the server; Services are handed to its primitives.
	Engine   *vql.Engine
	Services func(Principal) []any

	// Accessors open files for queries; each has to ask for a permission itself.
	Accessors map[string]vql.Accessor

	// Authority signed the certificates of callers and of this server.
	Authority   *x509.Certificate
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	HTTP      net.Listener // nil: no JSON door
	PlainHTTP bool         // no TLS: only behind a proxy that adds it, or on loopback
	GRPC      net.Listener // nil: no gRPC door

	// Allowed bounds who may speak to the JSON door (GUI.allowed_cidr); empty:
	// everybody who can reach it.
	Allowed []netip.Prefix

	// ErrorPattern makes log lines of collections count as errors
	// (Frontend.collection_error_regex); empty: the client's own default.
	ErrorPattern string

	AuditWait time.Duration // how long an answer waits for its audit line; 0: 5 s

	ClearNames bool // clients are told the real names of results

	// EventWait says how long, in seconds, a client gathers event rows where the
	// artifact does not say; nil: the client's own default.
	EventWait func() uint64

	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default
}

// Server is both doors of one node.
type Server struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	mux     *http.ServeMux
	api     huma.API
	grpc    *grpc.Server
	orders  orders
	tails   atomic.Int64   // of events, under way
	leaving chan struct{}  // closed when Run begins to end
	ended   chan struct{}  // closed when what is under way has had its time to finish
	trails  sync.WaitGroup // audit lines on their way
}

// New wires a Server; it serves nothing before Run.
func New(o Options) (*Server, error) {
	s := &Server{o: o, log: o.Logger, metrics: newMetrics(o.Registerer), mux: http.NewServeMux(), leaving: make(chan struct{}), ended: make(chan struct{})}
	if s.o.AuditWait <= 0 {
		s.o.AuditWait = auditWait
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if o.Authority == nil || o.Ledger == nil || o.Users == nil {
		return nil, errors.New("api: authority, ledger and users are required")
	}
	s.api = humago.New(s.mux, describe())
	s.routes()
	s.grpc = s.newGRPC()
	return s, nil
}

// describe is the head of the OpenAPI document.
func describe() huma.Config {
	c := huma.DefaultConfig("Raptorpack", "1")
	c.Info.Description = "What operators do, as JSON over HTTP. Sign in with a session cookie, with `Authorization: Bearer KEY`, or with a client certificate."
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "/api/v1/openapi", "", ""
	c.CreateHooks = nil // no $schema links in answers
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"session": {Type: "apiKey", In: "cookie", Name: sessionCookie},
		"key":     {Type: "http", Scheme: "bearer"},
	}
	describeFresh(&c)
	c.Security = []map[string][]string{{"session": {}}, {"key": {}}}
	return c
}

// OpenAPI returns the document that describes the JSON door.
func (s *Server) OpenAPI() ([]byte, error) { return s.api.OpenAPI().MarshalJSON() }

// Handler serves the JSON door without its listener.
func (s *Server) Handler() http.Handler {
	guard := http.NewCrossOriginProtection()
	return s.metrics.count(s.admit(s.attend(s.identify(guard.Handler(receive(s.mux))))))
}

// How long a server that was told to stop waits for what is under way, and then for
// that to notice its end.
const (
	finishWithin = 5 * time.Second
	noticeWithin = time.Second
)

// auditWait is how long an answer waits for its line of the audit trail: longer than a
// commit takes on a busy filestore, shorter than people wait for a page.
const auditWait = 5 * time.Second

// Run serves both doors, once, until ctx ends, finishes what is under way, and returns
// nil when told to stop.
func (s *Server) Run(ctx context.Context) error {
	life, endLife := context.WithCancel(context.WithoutCancel(ctx)) // of requests: they may finish
	defer endLife()
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return life },
	}
	arriving := watch(server)
	failed := make(chan error, 2) // one value of each door
	var serving, accepting sync.WaitGroup
	if s.o.HTTP != nil {
		accepting.Go(func() { failed <- s.serveHTTP(server) })
	}
	if s.o.GRPC != nil {
		serving.Go(func() { failed <- s.grpc.Serve(s.o.GRPC) })
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-failed:
		failure = fmt.Errorf("serve operators: %w", failure)
	}
	close(s.leaving)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishWithin)
	defer cancel()
	serving.Go(func() {
		<-grace.Done()
		endLife()
		close(s.ended)
	})
	var calls sync.WaitGroup
	calls.Go(func() { s.stopGRPC(grace) })
	s.stopAccepting(&accepting)
	arriving.settle(grace, server)
	err := stopHTTP(grace, server)
	calls.Wait()
	cancel()
	serving.Wait()
	s.trails.Wait()
	return errors.Join(failure, err)
}

// stopAccepting closes the listener; when it returns, the server knows all
// connections that it ever will.
func (s *Server) stopAccepting(accepting *sync.WaitGroup) {
	if s.o.HTTP == nil {
		return
	}
	if err := s.o.HTTP.Close(); err != nil {
		s.log.Debug("listener was closed before", "err", err)
	}
	accepting.Wait()
}

// stopHTTP lets requests end by themselves as long as the grace lasts; those that
// are still there then lose their context and get a moment to notice.
func stopHTTP(grace context.Context, server *http.Server) error {
	if server.Shutdown(grace) == nil {
		return nil
	}
	notice, cancel := context.WithTimeout(context.WithoutCancel(grace), noticeWithin)
	defer cancel()
	if server.Shutdown(notice) == nil {
		return nil
	}
	return server.Close()
}

func (s *Server) serveHTTP(server *http.Server) error {
	var err error
	if s.o.PlainHTTP {
		err = server.Serve(s.o.HTTP)
	} else {
		server.TLSConfig = s.tlsConfig(tls.VerifyClientCertIfGiven)
		err = server.ServeTLS(s.o.HTTP, "", "")
	}
	select {
	case <-s.leaving: // the listener was closed
		return nil
	default:
		return err
	}
}

func (s *Server) tlsConfig(mode tls.ClientAuthType) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.o.Authority)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: s.o.Certificate, ClientAuth: mode, ClientCAs: pool,
		NextProtos: []string{"h2", "http/1.1"},
	}
}

func (s *Server) routes() {
	s.sessionRoutes()
	s.clientRoutes()
	s.flowRoutes()
	s.huntRoutes()
	s.huntRowRoutes()
	s.eventRoutes()
	s.artifactRoutes()
	s.toolRoutes()
	s.userRoutes()
	s.statusRoutes()
	s.packRoutes()
	s.mux.HandleFunc("GET /{$}", s.welcome)
}

// welcome is what a browser sees while the GUI is not part of the build.
func (s *Server) welcome(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "Raptorpack. This build has no GUI; the JSON door is under /api/v1, described in /api/v1/openapi.json.")
}
