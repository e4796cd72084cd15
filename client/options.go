package client

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"raptorpack/artifacts"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/wire"
)

// Options are what an agent needs to know. Zero fields take the defaults in
// brackets; those without one are required.
type Options struct {
	// ServerURLs are the frontends' base URLs (server_urls), each ending in a
	// slash. They are shuffled. A ws or wss URL is spoken to by WebSocket, an
	// http or https URL by POST, or by WebSocket first if UpgradeHTTP is set.
	ServerURLs []string

	// UpgradeHTTP makes the agent try ws(s) at an http(s) URL first, and stay
	// with POST there for FallbackTime [1 h] after a failure.
	UpgradeHTTP  bool
	FallbackTime time.Duration

	// CA is the PEM of ca_certificate, PinnedName the name that server.pem
	// must carry [wire.DefaultServerName], Nonce the deployment's nonce.
	CA         []byte
	PinnedName string
	Nonce      string

	// Transport carries packets; many agents of one process may share one.
	Transport *wire.Transport

	// DisableCompression sends packets as they are (disable_compression).
	DisableCompression bool

	// WritebackPath and WritebackSuffix name the state file (level2_writeback_suffix).
	// With Identity set there is no file: the event table lives in memory.
	WritebackPath, WritebackSuffix string
	Identity                       *Identity

	// Buffer says where results wait. An empty Dir means memory only.
	Buffer BufferOptions

	// Engine runs queries; shared. Services, Accessors and Artifacts are handed
	// to each query: Artifacts builds what answers Artifact.X() calls from the
	// definitions that came with a request [package artifacts].
	Engine    *vql.Engine
	Services  []any
	Accessors map[string]vql.Accessor
	Artifacts func([]*wirepb.Artifact) (vql.Artifacts, error)

	// Info describes this host for ClientInfo; nil: from the system. Labels,
	// Version, BuildTime and BuildURL are reported with it.
	Info                         func() (Info, error)
	Labels                       []string
	Version, BuildTime, BuildURL string

	MaxPoll       time.Duration // max_poll [60 s]
	MaxPollStd    time.Duration // max_poll_std [30 s]
	MinPoll       time.Duration // min_poll [1 s]
	MaxUploadSize int64         // max_upload_size [5 MiB]: bytes of one post

	// MinBackOff is the pause after the first failure of all servers; it
	// doubles with each further one up to MaxPoll, and gets up to MaxPollStd of
	// jitter in proportion [MaxPoll: every pause is as the protocol says].
	MinBackOff time.Duration

	EnrolPause     time.Duration // between two enrolment requests [60 s]
	NannyDelay     time.Duration // nanny_max_connection_delay; 0: no watchdog
	MaxMemory      int64         // max_memory_hard_limit in bytes; 0: none
	MaxQueryMemory int64         // a query that finds the process above this ends; 0: none

	Concurrency  int           // flows at work at once [2]
	FlowUpdate   time.Duration // default_server_flow_stats_update [5 s]
	MaxWait      time.Duration // default_max_wait [100 s]
	InfoInterval time.Duration // client_info_update_time [24 h]; negative: never
	KillDelay    time.Duration // from KillKillKill to the exit [10 s]
	TempDir      string        // scratch space ["": the system's]

	// MaxFutileRuns is after how many runs in a row that added nothing an
	// interrupted flow is given up [3]; MaxShortRuns counts those that were
	// interrupted before they came past what was delivered already [100].
	MaxFutileRuns, MaxShortRuns int

	// Acknowledged is told of messages that a server has made durable, serialized
	// and in order, before they leave the buffer; nil: nobody. After a crash in
	// between it is told of the same ones again.
	Acknowledged func(messages [][]byte)

	// CPU counts the processor time of queries; agents of one process share one [one
	// of its own].
	CPU *CPUMeter

	Logger  *slog.Logger // [none]
	Metrics *Metrics     // [unregistered ones]
}

var errOption = errors.New("invalid agent option")

func (o *Options) validate() error {
	for _, missing := range []struct {
		name string
		bad  bool
	}{
		{"ServerURLs", len(o.ServerURLs) == 0},
		{"CA", len(o.CA) == 0},
		{"Nonce", o.Nonce == ""},
		{"Transport", o.Transport == nil},
		{"Engine", o.Engine == nil},
		{"WritebackPath or Identity", o.WritebackPath == "" && o.Identity == nil},
	} {
		if missing.bad {
			return fmt.Errorf("%w: %s is required", errOption, missing.name)
		}
	}
	for _, base := range o.ServerURLs {
		if err := wire.CheckURL(base); err != nil {
			return fmt.Errorf("%w: %w", errOption, err)
		}
	}
	return nil
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		field     *time.Duration
		otherwise time.Duration
	}{
		{&o.MaxPoll, 60 * time.Second},
		{&o.MaxPollStd, 30 * time.Second},
		{&o.MinPoll, time.Second},
		{&o.EnrolPause, 60 * time.Second},
		{&o.FlowUpdate, defaultFlowUpdate},
		{&o.MaxWait, defaultMaxWait},
		{&o.InfoInterval, 24 * time.Hour},
		{&o.KillDelay, 10 * time.Second},
		{&o.FallbackTime, time.Hour},
	} {
		if *d.field == 0 {
			*d.field = d.otherwise
		}
	}
	if o.MinBackOff <= 0 || o.MinBackOff > o.MaxPoll {
		o.MinBackOff = o.MaxPoll
	}
	o.MaxUploadSize = orDefault(o.MaxUploadSize, 5<<20)
	o.Concurrency = int(orDefault(int64(o.Concurrency), 2))
	o.MaxFutileRuns = int(orDefault(int64(o.MaxFutileRuns), 3))
	o.MaxShortRuns = int(orDefault(int64(o.MaxShortRuns), 100))
	if o.Artifacts == nil {
		o.Artifacts = bundled
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.CPU == nil {
		o.CPU = NewCPUMeter()
	}
	if o.Buffer.Logger == nil {
		o.Buffer.Logger = o.Logger
	}
	if o.Buffer.Metrics == nil {
		o.Buffer.Metrics = o.Metrics
	}
}

// bundled answers Artifact.X() calls from what came with the request.
func bundled(definitions []*wirepb.Artifact) (vql.Artifacts, error) {
	repository, err := artifacts.FromWire(definitions)
	if err != nil {
		return nil, fmt.Errorf("compile the request's artifacts: %w", err)
	}
	return repository, nil
}

// backOff is the pause after failure number n (from 1) of the servers.
func (o *Options) backOff(n int) time.Duration {
	pause := o.MinBackOff
	for ; n > 1 && pause < o.MaxPoll; n-- {
		pause *= 2
	}
	pause = min(pause, o.MaxPoll)
	// The jitter keeps its proportion, so that a short pause stays short.
	jitter := time.Duration(float64(o.MaxPollStd) * float64(pause) / float64(o.MaxPoll))
	if jitter <= 0 {
		return pause
	}
	return pause + rand.N(jitter)
}
