package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/cmd/agent"
	"raptorpack/config"
	"raptorpack/pool"
)

// descriptors is what one agent may have open: two conversations, and now and
// then a third for the server's certificate.
const descriptors = 3

// spareDescriptors are those of the process itself, and of sockets on their way out.
const spareDescriptors = 1000

type poolFlags struct {
	clients    int
	first      int
	processes  int
	identities string
	stats      string
	ramp       ratePerSecond
	duration   time.Duration
	urls       []string
	polling    bool
	backOff    time.Duration
	seed       uint64
	systems    map[string]int
	offline    share
	wave       time.Duration
	manners    pool.Manners
	slow       share
	misbehave  map[string]string
}

func newPool(g *globals) *cobra.Command {
	f := &poolFlags{ramp: 200}
	c := &cobra.Command{
		Use: "pool", Short: "Run many simulated agents, to load a server", Args: cobra.NoArgs,
		Long: "Runs simulated agents: real protocol and query engine, synthetic hosts. They share a process, or\n" +
			"several when one may not open files enough for their sockets.\n" +
			"For load tests only: their keys protect nothing, so let them enrol with test servers alone.\n" +
			"The server's Frontend.resources bound how fast agents may connect and enrol.\n\n" +
			"Clients can be away (--offline, --wave), slow (--slow), and misbehave (--misbehave KIND=SHARE,...):\n" +
			"cut breaks connections in the middle of a post, resend posts batches again that were acknowledged,\n" +
			"garbage posts bytes that mean nothing, forge posts rows of flows that nobody asked for, mute answers\n" +
			"the first collection and no other.",
		Example: "  raptorpack pool --clients 1000 --config client.yaml --identities pool.keys\n" +
			"  raptorpack pool --clients 20000 --config client.yaml --identities pool.keys --url http://n1:8000/ --url http://n2:8000/\n" +
			"  raptorpack pool --clients 5000 --config client.yaml --offline 90% --wave 10m --slow 5% --misbehave cut=1%,resend=1%",
		RunE: func(c *cobra.Command, _ []string) error { return runPool(c, g, f) },
	}
	flags := c.Flags()
	flags.IntVar(&f.clients, "clients", 100, "how many agents")
	flags.IntVar(&f.first, "first", 0, "number of the first agent, so that several pools with the same keys are one fleet")
	flags.IntVar(&f.processes, "processes", 0, "how many processes share the agents; 0: as few as may open the files for them")
	flags.StringVar(&f.identities, "identities", "", "file that keeps the agents' keys, so that the next run has the same ids; empty: new ones")
	flags.StringVar(&f.stats, "stats", "", "file for figures and latency histograms, a line of JSON each second; -: standard output, and no table")
	flags.Var(&f.ramp, "ramp", "agents to start a second, as 200/s")
	flags.DurationVar(&f.duration, "duration", 0, "how long; 0: until interrupted")
	flags.StringSliceVar(&f.urls, "url", nil, "server to use instead of those of the file; repeat for several, of which each agent takes one by chance")
	flags.BoolVar(&f.polling, "polling", false, "poll over HTTP instead of WebSockets")
	flags.DurationVar(&f.backOff, "min-back-off", 0, "first pause after a failure; 0: max_poll, as the protocol says")
	flags.Uint64Var(&f.seed, "seed", 0, "another number makes other hosts of the same clients")
	flags.StringToIntVar(&f.systems, "os", nil, "parts of the hosts that run linux, windows and darwin, as linux=10,windows=8,darwin=2")
	flags.Var(&f.offline, "offline", "share of the agents that is away at any time, as 90%")
	flags.DurationVar(&f.wave, "wave", 10*time.Minute, "how long agents stay before others have their turn")
	flags.Var(&f.slow, "slow", "share of the agents on a slow line")
	flags.DurationVar(&f.manners.Delay, "slow-delay", 0, "what those wait before they send; 0: 2s")
	flags.IntVar(&f.manners.ReadRate, "slow-rate", 0, "bytes a second that those read; 0: 16384")
	flags.StringToStringVar(&f.misbehave, "misbehave", nil, "shares of the agents that do wrong, as cut=1%,resend=1%,garbage=1%,forge=1%,mute=1%")
	flags.DurationVar(&f.manners.Every, "misbehave-every", 0, "from one misdeed of an agent to its next; 0: 10s")
	return c
}

func runPool(c *cobra.Command, g *globals, f *poolFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	loaded, err := g.load(c, config.Options{ClientOnly: true})
	if err != nil {
		return err
	}
	logger, err := g.logger(c.ErrOrStderr(), "")
	if err != nil {
		return err
	}
	if err := f.divide(logger); err != nil {
		return err
	}
	if f.processes > 1 {
		return runPools(c, g, f)
	}
	pool.SpareProcessor()
	options, err := f.options(c.Context(), loaded.Client, logger)
	if err != nil {
		return err
	}
	p, err := pool.New(options)
	if err != nil {
		return err
	}
	return f.follow(c, g, p)
}

// check also turns shares into the pool's terms.
func (f *poolFlags) check() error {
	if f.clients < 1 || f.first < 0 || f.processes < 0 {
		return usage("--clients %d, --first %d, --processes %d: expected at least one agent, and nothing negative", f.clients, f.first, f.processes)
	}
	f.manners.Slow = float64(f.slow)
	kinds := map[string]*float64{
		"cut": &f.manners.Cut, "resend": &f.manners.Resend, "garbage": &f.manners.Garbage, "forge": &f.manners.Forge, "mute": &f.manners.Mute,
	}
	for kind, text := range f.misbehave {
		at, ok := kinds[kind]
		if !ok {
			return usage("--misbehave %q: expected cut, resend, garbage, forge or mute", kind)
		}
		if err := (*share)(at).Set(text); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	return nil
}

// divide decides how many processes it takes.
func (f *poolFlags) divide(logger *slog.Logger) error {
	want := uint64(descriptors*f.clients + spareDescriptors)
	if f.processes > 1 {
		want = uint64(descriptors*(f.clients+f.processes-1)/f.processes + spareDescriptors)
	}
	limit, err := pool.RaiseDescriptorLimit(want)
	if err != nil {
		return err
	}
	if limit < spareDescriptors+descriptors {
		return fmt.Errorf("a process may open %d files, which is too few: %w", limit, errUsage)
	}
	if limit >= want {
		f.processes = max(1, f.processes)
		return nil
	}
	if f.processes > 0 {
		logger.Warn("few file descriptors", "limit", limit, "wanted", want)
		return nil
	}
	each := int(min(limit-spareDescriptors, uint64(descriptors*f.clients))) / descriptors
	f.processes = (f.clients + each - 1) / each
	return nil
}

// runner is a pool, in this process or in several.
type runner interface {
	pool.Source
	Run(ctx context.Context) error
}

// follow runs a pool for as long as it is to run, tells how far it is, and in the end
// what took how long.
func (f *poolFlags) follow(c *cobra.Command, g *globals, p runner) (err error) {
	work, stop := context.WithCancel(c.Context())
	defer stop()
	if f.duration > 0 {
		work, stop = context.WithTimeout(work, f.duration)
		defer stop()
	}
	lines, err := f.statsFile(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lines.Close()) }()
	telling, quiet := context.WithCancel(context.WithoutCancel(work))
	told := make(chan error, 2) // an answer each
	go func() { told <- tell(stop, func() error { return pool.Record(telling, lines, p) }) }()
	go func() {
		told <- tell(stop, func() error {
			if g.quiet {
				return nil
			}
			return pool.Report(telling, c.ErrOrStderr(), p)
		})
	}()
	err = p.Run(work)
	quiet()
	if err = errors.Join(err, <-told, <-told); err != nil || f.stats == "-" {
		return err
	}
	_, err = p.Stats().WriteTo(c.OutOrStdout())
	return err
}

// tell calls write, and stops the pool when that goes wrong: nobody would see it.
func tell(stop func(), write func() error) error {
	err := write()
	if err != nil {
		stop()
	}
	return err
}

// statsFile is where lines of figures go.
func (f *poolFlags) statsFile(c *cobra.Command) (io.WriteCloser, error) {
	switch f.stats {
	case "":
		return unclosed{io.Discard}, nil
	case "-":
		return unclosed{c.OutOrStdout()}, nil
	}
	file, err := os.Create(f.stats)
	if err != nil {
		return nil, fmt.Errorf("--stats: %w", err)
	}
	return file, nil
}

// unclosed is a writer that stays open.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

func (f *poolFlags) options(ctx context.Context, file config.Client, logger *slog.Logger) (pool.Options, error) {
	if len(f.urls) > 0 {
		file.ServerURLs = f.urls
	}
	base, err := agent.Options(file, agent.Settings{Version: version, MinBackOff: f.backOff})
	if err != nil {
		return pool.Options{}, err
	}
	identities, err := pool.LoadIdentities(ctx, f.identities, f.first+f.clients)
	if err != nil {
		return pool.Options{}, err
	}
	return pool.Options{
		Clients: f.clients, First: f.first, Identities: identities, Base: base, Wire: agent.TransportOptions(file), Polling: f.polling,
		Ramp: float64(f.ramp), Seed: f.seed, Systems: f.systems, Churn: pool.Churn{Offline: float64(f.offline), Wave: f.wave}, Manners: f.manners,
		Logger: logger,
	}, nil
}

// ratePerSecond is a flag such as 200/s.
type ratePerSecond float64

func (r *ratePerSecond) String() string { return fmt.Sprintf("%g/s", float64(*r)) }
func (r *ratePerSecond) Type() string   { return "rate" }

func (r *ratePerSecond) Set(text string) error {
	var unit string
	n, err := fmt.Sscanf(text, "%g%s", (*float64)(r), &unit)
	if n == 0 || n == 2 && unit != "/s" || *r <= 0 {
		return fmt.Errorf("%q: expected a rate such as 200/s: %w", text, errUsage)
	}
	_ = err // a missing unit is fine
	return nil
}

// share is a flag such as 5%, or 0.05.
type share float64

func (s *share) String() string { return strconv.FormatFloat(float64(*s)*100, 'g', -1, 64) + "%" }
func (s *share) Type() string   { return "share" }

func (s *share) Set(text string) error {
	number, percent := strings.CutSuffix(text, "%")
	n, err := strconv.ParseFloat(number, 64)
	if percent {
		n /= 100
	}
	if err != nil || !(n >= 0 && n <= 1) { // NaN is neither
		return fmt.Errorf("%q: expected a share such as 5%%: %w", text, errUsage)
	}
	*s = share(n)
	return nil
}

// ownIdentities gives the processes a file of keys, if the caller named none.
func (f *poolFlags) ownIdentities() (remove func() error, err error) {
	if f.identities != "" {
		return func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp("", "raptorpack-pool-")
	if err != nil {
		return nil, err
	}
	f.identities = filepath.Join(dir, "identities")
	return func() error { return os.RemoveAll(dir) }, nil
}
