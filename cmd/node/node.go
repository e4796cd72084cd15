package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/collections"
	"raptorpack/config"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/frontend"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/internal/watch"
	"raptorpack/inventory"
	"raptorpack/master"
	"raptorpack/minion"
	"raptorpack/monitoring"
	"raptorpack/notebooks"
	"raptorpack/notifier"
	"raptorpack/queues"
	"raptorpack/replication"
	"raptorpack/runner"
	"raptorpack/users"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
	"raptorpack/wire"
)

// ledgerLevel is what this program understands of the ledger. Raise it with the first
// change of a room's meaning that programs of before would refuse or take otherwise,
// and propose that meaning only where replication.Node.Level says that all know it.
const ledgerLevel = 1

// Options say what one node is.
type Options struct {
	Config  *config.Loaded
	Name    ids.Node // zero: <host's name>-<bind_port>
	Master  bool     // a candidate for the lease; otherwise a minion, always
	Version string
	Logger  *slog.Logger

	// FS is the filesystem below the store; nil: the operating system's. Tests put
	// faults between.
	FS filestore.FS

	// Members say which other nodes seem to be there; nil: gossip does. BusDial
	// reaches the bus of another; nil: TCP. Tests put faults between.
	Members Members
	BusDial func(ctx context.Context, address string) (net.Conn, error)

	// Tune shortens times for tests; zero values are the defaults of the design.
	Tune Tuning
}

// Tuning are times and sizes that only tests change.
type Tuning struct {
	LeaseTTL       time.Duration // mastership; 4 s
	IncarnationTTL time.Duration // 30 s
	Margin         time.Duration // what others wait beyond a lease that stands still; 1 s
	WatchEvery     time.Duration // how often incarnations and their outboxes are looked at; 2 s
	Silence        time.Duration // before a running flow is asked about; 60 s

	CommitWait  time.Duration // before a post that is not durable is refused; 20 s
	RetryDelay  time.Duration // paces refusals; 2 s
	DrainWindow time.Duration // over which clients are handed over at a stop; 15 s
	DiskEvery   time.Duration // how often the space on the disk is looked at; 10 s

	SnapshotEntries int64 // entries that call for a snapshot; 100,000
}

// Node is one server process, wired and not yet running.
type Node struct {
	o           Options
	log         *slog.Logger
	registry    *prometheus.Registry
	expiry      *prometheus.GaugeVec // of certificates, by key of the file
	counted     *vql.Metrics         // of all queries
	store       *filestore.Store
	incarnation *filestore.Incarnation
	reader      *filestore.Reader
	committer   *filestore.Committer
	ledger      *replication.Node
	board       *notifier.Board
	certificate *frontend.Certificate

	operatorsCertificate atomic.Pointer[tls.Certificate] // of the JSON and gRPC doors

	clients     *clients.Room
	users       *users.Room
	artifacts   *artifacts.Room
	flows       *flows.Room
	hunts       *hunts.Room
	tools       *inventory.Room
	toolFiles   *inventory.Files
	notebooks   *notebooks.Room
	timelines   *notebooks.Files
	flowZips    *collections.Exporter
	downloads   *collections.Downloads
	runner      *runner.Runner
	foreman     *hunts.Foreman
	asker       *hunts.Asker
	tables      *hunts.Results
	interrogate *clients.Interrogator
	seals       *seals
	huntFiles   huntFiles

	pack           *pack // nil: alone
	presence       *presence
	busCertificate atomic.Pointer[tls.Certificate]
	usage          usage
	living         atomic.Pointer[[]string] // incarnations, as the master saw them last

	frontend   *frontend.Frontend
	minion     *minion.Minion
	master     *master.Master // nil: never a candidate
	doors      *doors
	events     *monitoring.Runner
	queues     *queues.Room
	queue      *queues.Writer
	started    time.Time
	draining   atomic.Bool
	drain      context.CancelFunc // ends Run as SIGTERM does
	told       context.Context    // ended by drain
	keeper     *part              // of the incarnation; runs from the claim on
	failed     chan error         // what the first part that ended by itself said; room for all
	lease      *lease             // of the incarnation
	frontendAt string             // address that clients reach, as it was bound
}

// New claims the node's name on the store, loads the state and wires every part.
// A node that was made has to be Run or Closed.
func New(ctx context.Context, o Options) (*Node, error) {
	n := &Node{o: o, log: o.Logger, registry: prometheus.NewRegistry(), started: time.Now(), lease: newLease(), failed: make(chan error, maxParts)}
	n.told, n.drain = context.WithCancel(context.WithoutCancel(ctx))
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	n.counted, n.expiry = vql.NewMetrics(n.registry), newExpiry(n.registry)
	endpoint.Yara().Register(n.registry)
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.abandon(ctx))
	}
	if err := n.wire(ctx); err != nil {
		return nil, errors.Join(err, n.abandon(ctx))
	}
	return n, nil
}

// abandon goes back the stairs of a start that broke half-way, as far as the time of
// a stop lets it: a filestore that does not answer is left to those who seal.
func (n *Node) abandon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.grace())
	defer cancel()
	var errs []error
	if n.doors != nil {
		errs = append(errs, n.doors.close())
	}
	if n.pack != nil {
		errs = append(errs, n.pack.close())
	}
	if n.incarnation != nil {
		err := n.keeper.end(ctx)
		if !errors.Is(err, errLate) {
			err = errors.Join(err, n.incarnation.Release(ctx))
		}
		errs = append(errs, err)
	}
	if n.store != nil {
		errs = append(errs, n.store.Close(ctx))
	}
	return errors.Join(errs...)
}

// component is the logger of one part.
func (n *Node) component(name string) *slog.Logger { return n.log.With("component", name) }

// open claims the store: nothing else may run under this name.
func (n *Node) open(ctx context.Context) error {
	c := n.o.Config
	if n.o.Name.IsZero() {
		name, err := ids.ParseNode(nodeName(c))
		if err != nil {
			return fmt.Errorf("node name from the host's name: %w", err)
		}
		n.o.Name = name
	}
	root := c.Datastore.FilestoreDirectory
	if n.o.FS == nil {
		if err := os.MkdirAll(root, 0o750); err != nil {
			return fmt.Errorf("open filestore: %w", err)
		}
	}
	var err error
	n.store, err = filestore.Open(root, filestore.Options{
		FS: n.o.FS, DiskEvery: n.o.Tune.DiskEvery, Registerer: n.registry, Logger: n.component("filestore"),
	})
	if err != nil {
		return err
	}
	if err := n.store.Reserve(ctx, c.Pack.ReserveBytes); err != nil {
		return fmt.Errorf("reserve space for the ledger: %w", err)
	}
	n.incarnation, err = n.store.ClaimIncarnation(ctx, filestore.IncarnationOptions{Node: n.o.Name, TTL: n.o.Tune.IncarnationTTL, Margin: n.o.Tune.Margin})
	if err != nil {
		return err
	}
	n.log = n.log.With("node", n.o.Name.String())
	n.keeper = &part{name: "incarnation", run: n.tend} // loading may take longer than the lease lasts
	n.keeper.start(context.WithoutCancel(ctx), n.failed)
	return n.openPack(ctx)
}

// nodeName is <host's name>-<bind_port> in the letters that a node's name may have:
// hosts that share one file differ by it, and so do nodes on one host by their ports.
func nodeName(c *config.Loaded) string {
	host, err := os.Hostname()
	if err != nil {
		host = c.Frontend.Hostname
	}
	clean := strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-.", r) {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	return fmt.Sprintf("%s-%d", strings.TrimLeft(clean, "-."), c.Frontend.BindPort)
}

// wire builds the rooms, the ledger over them, and the doors over those.
func (n *Node) wire(ctx context.Context) error {
	builtIn, err := n.loadArtifacts()
	if err != nil {
		return err
	}
	n.board = notifier.New(n.registry)
	n.seals = newSeals(n.store, n.watchEvery(), n.component("filestore"))
	n.reader = filestore.NewReader(filestore.ReaderOptions{
		Store: n.store, Sealed: n.seals.length, Registerer: n.registry, Logger: n.component("filestore"),
	})
	n.users = users.New()
	n.artifacts = artifacts.NewRoom(builtIn)
	n.wireTools()
	n.queues = queues.New()
	n.notebooks = notebooks.New(notebooks.Options{Added: n.queues.TimelineAdded})
	n.artifacts.Follow(n.queues.ArtifactModified)
	n.clients = clients.New(n.clientChanged)
	n.clients.Follow(n.queues.ClientChanged)
	if err := n.wireHunts(); err != nil {
		return err
	}
	late := &lateCommitter{}
	n.flows = flows.New(n.flowOptions(late))
	if err := n.wireRunner(); err != nil {
		return err
	}
	n.interrogate = clients.NewInterrogator(n.interrogatorOptions())
	bus, err := n.busOptions()
	if err != nil {
		return err
	}
	n.ledger, err = replication.New(replication.Options{
		Store: n.store, Incarnation: n.incarnation.Name(), Bus: bus, Registerer: n.registry, Logger: n.component("replication"),
		States: []replication.State{n.clients, n.users, n.artifacts, n.flows.Table, n.flows.Events, n.flows.Server, n.flows.Erased, n.hunts, n.tools, n.notebooks, n.queues},
		Level:  ledgerLevel, Living: n.livingNodes,
		SnapshotEntries: n.o.Tune.SnapshotEntries, TailEvery: n.o.Tune.WatchEvery,
	})
	if err != nil {
		return err
	}
	n.committer, err = filestore.NewCommitter(filestore.CommitterOptions{
		Store: n.store, Incarnation: n.incarnation.Name(), Valid: n.incarnation.Valid, Outbox: n.ledger.Outbox(),
		Registerer: n.registry, Logger: n.component("filestore"),
	})
	if err != nil {
		return err
	}
	late.Committer = n.committer
	n.wireQueues()
	n.wireTimelines()
	allowGarbage(busyGarbage) // of files and entries that are read
	if err := n.ledger.Load(ctx); err != nil {
		return err
	}
	n.minion = minion.New(minion.Options{Ledger: n.ledger, Stale: staleAfter, Logger: n.component("minion")})
	if n.o.Master {
		n.master = master.New(master.Options{
			Candidate: n.store.Candidate(filestore.CandidateOptions{Node: n.o.Name, TTL: n.o.Tune.LeaseTTL, Margin: n.o.Tune.Margin}),
			Ledger:    n.ledger, Duties: n.duties(), Otherwise: n.minion, Registerer: n.registry, Logger: n.component("master"),
		})
	}
	n.tables = n.huntTables()
	n.wireDownloads()
	if err := n.openFrontend(ctx); err != nil {
		return err
	}
	n.doors, err = n.openDoors(ctx)
	return err
}

// loadArtifacts reads what came with the program and what lies in the folder that
// the file names; broken files are told and left out.
func (n *Node) loadArtifacts() (*artifacts.Repository, error) {
	repository, err := artifacts.BuiltIn()
	if err != nil {
		return nil, err
	}
	folder := n.o.Config.Frontend.ArtifactDefinitionsFolder
	if folder == "" {
		return repository, nil
	}
	loaded, err := repository.LoadFS(os.DirFS(folder), true)
	if err != nil {
		n.component("artifacts").Warn("artifact files were left out", "folder", filepath.Clean(folder), "err", err)
	}
	n.component("artifacts").Info("artifact folder read", "artifacts", loaded)
	return repository, nil
}

// watchArtifacts reads the folder of artifacts again when files in it change. One that
// cannot be watched, as on a network filesystem that does not tell, is read with the
// configuration (SIGHUP).
func (n *Node) watchArtifacts(ctx context.Context) error {
	err := watch.Folder(ctx, n.o.Config.Frontend.ArtifactDefinitionsFolder, n.component("artifacts"), n.rereadArtifacts)
	if err != nil {
		n.component("artifacts").Warn("the folder is not watched; SIGHUP has it read again", "err", err)
		<-ctx.Done()
	}
	return nil
}

func (n *Node) rereadArtifacts() {
	repository, err := n.loadArtifacts()
	if err != nil {
		n.component("artifacts").Error("artifacts cannot be read again; the old ones stay", "err", err)
		return
	}
	n.artifacts.Rebase(repository)
}

func (n *Node) openFrontend(ctx context.Context) error {
	c := n.o.Config
	n.checkExpiry("Frontend.certificate", c.Frontend.Certificate)
	key, err := config.PrivateKey(c.Frontend.PrivateKey)
	if err != nil {
		return fmt.Errorf("Frontend.private_key: %w", err)
	}
	identity, err := wire.NewIdentity(wire.IdentityOptions{Key: key, Certificate: []byte(c.Frontend.Certificate), Registerer: n.registry})
	if err != nil {
		return err
	}
	o := frontend.Options{
		Identity: identity, Keys: &keys{n}, Collections: &intake{n: n}, Tenants: tenants{c.Client.Nonce}, Board: n.board, Public: publicFiles{n},
		Sightings: n.clients, Ready: n.Ready, BasePath: c.Frontend.BasePath, ProxyHeader: c.Frontend.ProxyHeader,
		MaxPoll: seconds(c.Client.MaxPollSeconds), PollJitter: seconds(c.Client.MaxPollStdSeconds), PingWait: seconds(c.Client.WSPingWaitSeconds),
		MaxBody: max(4*c.Client.MaxUploadBytes, 32<<20), Sessions: 2 * c.Frontend.Resources.ExpectedClients,
		EnrolPerSecond: float64(c.Frontend.Resources.EnrollmentsPerSecond),
		CommitWait:     n.o.Tune.CommitWait, RetryDelay: n.o.Tune.RetryDelay, DrainWindow: n.o.Tune.DrainWindow,
		Registerer: n.registry, Logger: n.component("frontend"),
	}
	if o.Listener, err = frontend.Listen(ctx, n.listenOptions()); err != nil {
		return err
	}
	n.frontendAt = o.Listener.Addr().String()
	if !c.Frontend.UsePlainHTTP {
		n.certificate = &frontend.Certificate{}
		if err := n.setCertificate(c); err != nil {
			return errors.Join(err, o.Listener.Close())
		}
		tls := frontend.TLSOptions{Certificate: n.certificate, AllowWeak: c.Client.Crypto.AllowWeakTLSServer}
		if c.Frontend.RequireClientCertificates {
			tls.ClientCA = []byte(c.Client.CACertificate)
		}
		if o.TLS, err = frontend.TLSConfig(tls); err != nil {
			return errors.Join(err, o.Listener.Close())
		}
	}
	n.frontend, err = frontend.New(o)
	if err != nil {
		return errors.Join(err, o.Listener.Close())
	}
	return nil
}

// setCertificate takes the TLS certificate that a file names: its own files if it
// names any, else the identity of the message layer.
func (n *Node) setCertificate(c *config.Loaded) error {
	certificate, key := []byte(c.Frontend.Certificate), []byte(c.Frontend.PrivateKey)
	if c.Frontend.TLSCertificateFilename != "" {
		var errs [2]error
		certificate, errs[0] = os.ReadFile(c.Frontend.TLSCertificateFilename)
		key, errs[1] = os.ReadFile(c.Frontend.TLSPrivateKeyFilename)
		if err := errors.Join(errs[:]...); err != nil {
			return fmt.Errorf("read TLS certificate: %w", err)
		}
		n.checkExpiry("Frontend.tls_certificate_filename", string(certificate))
	}
	return n.certificate.Set(certificate, key)
}

// Reload takes over what may change while the node runs: TLS certificates and the
// folder of artifacts. Anything else of the file needs a restart; that is said in the log.
func (n *Node) Reload(fresh *config.Loaded) error {
	pair, err := tls.X509KeyPair([]byte(fresh.Frontend.Certificate), []byte(fresh.Frontend.PrivateKey))
	if err != nil {
		return fmt.Errorf("reload: key Frontend.certificate: %w", err)
	}
	if n.certificate != nil {
		if err := n.setCertificate(fresh); err != nil {
			return fmt.Errorf("reload: %w", err)
		}
	}
	if n.pack != nil {
		if err := n.setBusCertificate(fresh.Bus.Certificate, fresh.Bus.PrivateKey); err != nil {
			return fmt.Errorf("reload: %w", err)
		}
	}
	n.operatorsCertificate.Store(&pair)
	if n.o.Config.Frontend.ArtifactDefinitionsFolder != "" {
		n.rereadArtifacts()
	}
	n.log.Info("certificates reloaded; every other change of the file, the message layer's key too, takes effect with a restart")
	return nil
}

// Ready says why this node cannot serve, nil if it can.
func (n *Node) Ready() error {
	trouble := n.incarnation.Trouble()
	_, heard := n.ledger.Age()
	switch epoch, _, _ := n.ledger.Position(); {
	case n.draining.Load():
		return errors.New("draining")
	case !n.incarnation.Valid():
		return errors.New("the filestore does not answer: this node's lease has lapsed, and nothing is acknowledged until it holds again")
	case trouble != nil:
		return fmt.Errorf("the filestore does not take this node's heartbeat: %w", trouble)
	case epoch == 0:
		return errors.New("no master has written to the ledger yet")
	case !heard:
		return errors.New("no master has told yet how far the ledger goes")
	}
	return nil
}

// FrontendAddress is where clients connect, as it was bound.
func (n *Node) FrontendAddress() string { return n.frontendAt }

func seconds(s uint64) time.Duration { return time.Duration(s) * time.Second }

// Logger is this node's log.
func (n *Node) Logger() *slog.Logger { return n.log }
