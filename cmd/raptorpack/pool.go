package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"raptorpack/cmd/agent"
	"raptorpack/config"
	"raptorpack/pool"
)

// descriptors is what one agent may have open: two conversations, and now and
// then a third for the server's certificate.
const descriptors = 3

type poolFlags struct {
	clients    int
	identities string
	ramp       ratePerSecond
	duration   time.Duration
	urls       []string
	polling    bool
	backOff    time.Duration
}

func newPool(g *globals) *cobra.Command {
	f := &poolFlags{ramp: 200}
	c := &cobra.Command{
		Use: "pool", Short: "Run many simulated agents, to load a server", Args: cobra.NoArgs,
		Long: "Runs simulated agents in one process: real protocol and query engine, synthetic hosts.\n" +
			"For load tests only: their keys protect nothing, so let them enrol with test servers alone.\n" +
			"The server's Frontend.resources bound how fast agents may connect and enrol.",
		Example: "  raptorpack pool --clients 1000 --config client.yaml --identities pool.keys",
		RunE:    func(c *cobra.Command, _ []string) error { return runPool(c, g, f) },
	}
	flags := c.Flags()
	flags.IntVar(&f.clients, "clients", 100, "how many agents")
	flags.StringVar(&f.identities, "identities", "", "file that keeps the agents' keys, so that the next run has the same ids; empty: new ones")
	flags.Var(&f.ramp, "ramp", "agents to start a second, as 200/s")
	flags.DurationVar(&f.duration, "duration", 0, "how long; 0: until interrupted")
	flags.StringSliceVar(&f.urls, "url", nil, "server to use instead of those of the file; repeat for several")
	flags.BoolVar(&f.polling, "polling", false, "poll over HTTP instead of WebSockets")
	flags.DurationVar(&f.backOff, "min-back-off", 0, "first pause after a failure; 0: max_poll, as the protocol says")
	return c
}

func runPool(c *cobra.Command, g *globals, f *poolFlags) error {
	loaded, err := g.load(c, config.Options{ClientOnly: true})
	if err != nil {
		return err
	}
	logger, err := g.logger(c.ErrOrStderr(), "")
	if err != nil {
		return err
	}
	options, err := f.options(c.Context(), loaded.Client, logger)
	if err != nil {
		return err
	}
	p, err := pool.New(options)
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(c.Context())
	defer stop()
	if f.duration > 0 {
		work, stop = context.WithTimeout(work, f.duration)
		defer stop()
	}
	group, work := errgroup.WithContext(work)
	group.Go(func() error { return p.Run(work) })
	if !g.quiet {
		group.Go(func() error { return p.Report(work, c.ErrOrStderr()) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err = p.Summary().WriteTo(c.OutOrStdout())
	return err
}

func (f *poolFlags) options(ctx context.Context, file config.Client, logger *slog.Logger) (pool.Options, error) {
	if len(f.urls) > 0 {
		file.ServerURLs = f.urls
	}
	want := uint64(descriptors*f.clients + 1000)
	if limit, err := pool.RaiseDescriptorLimit(want); err != nil || limit < want {
		logger.Warn("few file descriptors", "limit", limit, "wanted", want, "err", err)
	}
	base, err := agent.Options(file, agent.Settings{Version: version, MinBackOff: f.backOff})
	if err != nil {
		return pool.Options{}, err
	}
	identities, err := pool.LoadIdentities(ctx, f.identities, f.clients)
	if err != nil {
		return pool.Options{}, err
	}
	return pool.Options{
		Clients: f.clients, Identities: identities, Base: base, Wire: agent.TransportOptions(file), Polling: f.polling,
		Ramp: float64(f.ramp), Logger: logger,
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
