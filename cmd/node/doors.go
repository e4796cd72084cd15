package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/filestore"
	"raptorpack/frontend"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/vql/endpoint"
	"raptorpack/vql/server"
)

// doors are the listeners that are not for clients.
type doors struct {
	api        *api.Server
	monitoring *http.Server
	listeners  []net.Listener // of api and monitoring, until Run has taken them
	monitor    net.Listener
	audit      *auditFile

	operatorsAt, programsAt, monitoringAt string
}

func (n *Node) listenOptions() frontend.ListenOptions {
	c := n.o.Config.Frontend
	return frontend.ListenOptions{
		Address:   net.JoinHostPort(c.BindAddress, strconv.Itoa(c.BindPort)),
		PerSecond: float64(c.Resources.ConnectionsPerSecond), ProxyProtocol: c.ProxyProtocol, Registerer: n.registry,
		MaxConnections: maxConnections(), Logger: n.component("frontend"),
	}
}

func (n *Node) openDoors(ctx context.Context) (*doors, error) {
	c := n.o.Config
	d := &doors{audit: newAuditFile(n.store, n.incarnation.Name())}
	listen := func(address string, port int) (net.Listener, error) {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err == nil {
			d.listeners = append(d.listeners, l)
		}
		return l, err
	}
	operators, err := listen(c.GUI.BindAddress, c.GUI.BindPort)
	if err != nil {
		return nil, fmt.Errorf("open the operators' door: %w", err)
	}
	programs, err := listen(c.API.BindAddress, c.API.BindPort)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the programs' door: %w", err), d.close())
	}
	if d.monitor, err = listen(c.Monitoring.BindAddress, c.Monitoring.BindPort); err != nil {
		return nil, errors.Join(fmt.Errorf("open the monitoring door: %w", err), d.close())
	}
	d.operatorsAt, d.programsAt, d.monitoringAt = operators.Addr().String(), programs.Addr().String(), d.monitor.Addr().String()
	o, err := n.apiOptions(d)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	o.HTTP, o.PlainHTTP, o.GRPC = operators, c.GUI.UsePlainHTTP, programs
	if d.api, err = api.New(o); err != nil {
		return nil, errors.Join(err, d.close())
	}
	n.openEvents(d, &o)
	d.monitoring = &http.Server{Handler: n.monitor(), ReadHeaderTimeout: 10 * time.Second}
	return d, nil
}

func (n *Node) apiOptions(d *doors) (api.Options, error) {
	c := n.o.Config
	authority, err := config.Certificate(c.Client.CACertificate)
	if err != nil {
		return api.Options{}, fmt.Errorf("Client.ca_certificate: %w", err)
	}
	pair, err := tls.X509KeyPair([]byte(c.Frontend.Certificate), []byte(c.Frontend.PrivateKey))
	if err != nil {
		return api.Options{}, fmt.Errorf("Frontend.certificate: %w", err)
	}
	var allowed []netip.Prefix
	for _, text := range c.GUI.AllowedCIDR {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return api.Options{}, fmt.Errorf("key GUI.allowed_cidr: %w", err)
		}
		allowed = append(allowed, prefix)
	}
	n.operatorsCertificate.Store(&pair)
	engine, err := n.engine()
	if err != nil {
		return api.Options{}, err
	}
	return api.Options{
		Ledger: ledger{n.ledger, n}, Users: n.users, Clients: n.clients, Flows: n.flows, Hunts: n.hunts, HuntTables: n.tables, HuntImports: n.huntImports(), HuntCopies: n.huntCopies(), FlowZips: n.flowZips, Imports: n.collectionImports(), Artifacts: n.artifacts, Audit: d.audit,
		Status: n.Status, Pack: func() []api.NodeStatus { return api.PackOf(n.ledger.Pack()) }, Order: n.order, Online: n.online, Engine: engine, Authority: authority, ReadStored: n.readStored,
		Tools: n.tools, ToolVariables: n.toolVariables, ToolFiles: n.toolFiles, ServerURLs: c.Client.ServerURLs,
		Accessors: server.Accessors(endpoint.Accessors()), Unasked: n.unasked(),
		Services:    func(who api.Principal) []any { return n.queryServices(d, who) },
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.operatorsCertificate.Load(), nil },
		Allowed:     allowed, ErrorPattern: c.Frontend.CollectionErrorRegex,
		ClearNames: c.Frontend.DoNotCompressArtifacts, EventWait: n.eventWait, Registerer: n.registry, Logger: n.component("api"),
	}, nil
}

// online reports whether a client is connected to any node.
func (n *Node) online(org ids.Org, client ids.Client) bool { return n.clients.Seen(org, client).Online }

// unasked are the artifacts that this server runs on clients by itself.
func (n *Node) unasked() []string {
	return append([]string{infoArtifact}, n.o.Config.Frontend.DefaultClientMonitoring...)
}

// ledger tells the api in its own words that nobody leads, or that the outcome is
// open.
type ledger struct {
	*replication.Node
	n *Node
}

// Fresh implements api.Ledger.
func (l ledger) Fresh(ctx context.Context) error { return l.n.fresh(ctx) }

func (l ledger) ProposeIndex(ctx context.Context, m *buspb.Mutation) (uint64, error) {
	index, err := l.Node.ProposeIndex(ctx, m)
	switch {
	case errors.Is(err, replication.ErrUnsure):
		err = fmt.Errorf("%w: %w", api.ErrUnsure, err)
	case errors.Is(err, replication.ErrNoMaster), errors.Is(err, replication.ErrNoRoom):
		err = fmt.Errorf("%w: %w", api.ErrNoMaster, err)
	}
	return index, err
}

func (n *Node) readStored(ctx context.Context, path string, offset int64, length int, expand bool) ([]byte, error) {
	file, err := n.store.OpenUpload(ctx, path)
	if err != nil {
		return nil, err
	}
	content := file.Stored(ctx)
	if expand {
		content = file.Expanded(ctx)
	}
	data := make([]byte, length)
	got, err := content.ReadAt(data, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:got], errors.Join(err, file.Close(ctx))
}

// run serves until ctx ends.
func (d *doors) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.api.Run(ctx) })
	g.Go(func() error {
		if err := d.monitoring.Serve(d.monitor); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		return d.monitoring.Shutdown(grace)
	})
	return errors.Join(g.Wait(), d.audit.close(context.WithoutCancel(ctx)))
}

// close gives up listeners that were never served.
func (d *doors) close() error {
	var errs []error
	for _, l := range d.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// monitor answers what operators' tools ask: metrics, alive, ready, profiles.
func (n *Node) monitor() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Status is what this node says of itself.
func (n *Node) Status() api.Status {
	epoch, index, _ := n.ledger.Position()
	status := api.Status{
		Node: n.o.Name.String(), Version: n.o.Version, Role: "minion", Epoch: epoch, Index: index, Connected: n.board.Count(),
		Uptime: time.Since(n.started).Seconds(), Filestore: n.store.Root(), Frontend: n.frontendAt,
	}
	for _, org := range n.clients.Orgs() {
		status.Clients += n.clients.Count(org)
	}
	if n.master != nil {
		status.Role = "candidate"
		if n.master.Epoch() != 0 {
			status.Role = "master"
		}
	}
	if err := n.Ready(); err != nil {
		status.Ready = err.Error()
	}
	return status
}

// OperatorsAddress is where the JSON door listens, as it was bound.
func (n *Node) OperatorsAddress() string { return n.doors.operatorsAt }

// ProgramsAddress is where the gRPC door listens.
func (n *Node) ProgramsAddress() string { return n.doors.programsAt }

// MonitoringAddress is where /metrics and /readyz are.
func (n *Node) MonitoringAddress() string { return n.doors.monitoringAt }

// auditFile is this incarnation's part of the audit trail: audit/<N>.jsonl, one
// JSON line per change, synced before the change is answered. It is urgent like the
// ledger: on a full disk operators delete, and that leaves a trail too.
type auditFile struct {
	store *filestore.Store
	name  string

	turn   chan struct{} // one slot: the right to write; others wait
	handle *filestore.Handle
	offset int64
	part   int
}

func newAuditFile(store *filestore.Store, incarnation string) *auditFile {
	return &auditFile{store: store.Urgent(), name: incarnation, turn: make(chan struct{}, 1)}
}

// Record implements api.Auditor. After a failed write the file is finished and a
// new part begun.
func (a *auditFile) Record(ctx context.Context, event api.AuditEvent) error {
	line, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encode audit line: %w", err)
	}
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-a.turn }()
	for tries := 0; ; tries++ {
		if err = a.write(ctx, append(line, '\n')); err == nil || tries == 1 {
			return err
		}
		a.drop(ctx)
		a.part++
	}
}

func (a *auditFile) write(ctx context.Context, line []byte) error {
	if a.handle == nil {
		if err := a.store.MkdirAll(ctx, "audit"); err != nil {
			return err
		}
		name := "audit/" + a.name
		if a.part > 0 {
			name += "_" + strconv.Itoa(a.part)
		}
		handle, err := a.store.CreateFile(ctx, name+".jsonl")
		if err != nil {
			return err
		}
		a.handle = handle
		if err := a.store.SyncDir(ctx, "audit"); err != nil {
			return err
		}
	}
	if _, err := a.handle.WriteAt(ctx, line, a.offset); err != nil {
		return err
	}
	a.offset += int64(len(line))
	return a.handle.Sync(ctx)
}

// drop ends a part that met an error.
func (a *auditFile) drop(ctx context.Context) {
	if a.handle != nil {
		_ = a.handle.Close(ctx) // what it said is told already
	}
	a.handle, a.offset = nil, 0
}

func (a *auditFile) close(ctx context.Context) error {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	if a.handle == nil {
		return nil
	}
	return a.handle.Close(ctx)
}
