package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"raptorpack/cmd/node"
	"raptorpack/config"
	"raptorpack/ids"
	"raptorpack/internal/watch"
)

type frontendFlags struct {
	master bool
	minion bool
	node   string
	offset int
	drain  time.Duration

	definitions string
}

func newFrontend(g *globals) *cobra.Command {
	f := &frontendFlags{}
	c := &cobra.Command{
		Use: "frontend", Short: "Run a server node", Args: cobra.NoArgs,
		Long: "Run a server node. Nodes with the same file and the same filestore are one pack: one of those\n" +
			"started with --master leads, all take clients, and any of them answers operators.",
		Example: "  raptorpack frontend --master --config server.yaml\n" +
			"  raptorpack frontend --minion --config server.yaml --port-offset 100 # one more on the same host",
		RunE: func(c *cobra.Command, _ []string) error { return runFrontend(c, g, f) },
	}
	c.Flags().BoolVar(&f.master, "master", false, "a candidate for the master role; two are a hot-standby pair")
	c.Flags().BoolVar(&f.minion, "minion", false, "never the master")
	c.MarkFlagsMutuallyExclusive("master", "minion")
	c.MarkFlagsOneRequired("master", "minion")
	c.Flags().StringVar(&f.node, "node", env("NODE", ""), "this node's name; its section of the file is merged over the rest (RAPTORPACK_NODE)")
	c.Flags().IntVar(&f.offset, "port-offset", 0, "added to every port, for several nodes on one host")
	c.Flags().DurationVar(&f.drain, "drain-timeout", 0, "how long a stop may take, in whole seconds as 30s; 0: as the file says")
	c.Flags().StringVar(&f.definitions, "definitions", "", "a folder of artifact files, read again when they change; left out: as the file says")
	return c
}

func runFrontend(c *cobra.Command, g *globals, f *frontendFlags) error {
	if f.drain < 0 || f.drain%time.Second != 0 {
		return usage("--drain-timeout %v: expected whole seconds, as 30s", f.drain)
	}
	options := config.Options{Node: f.node, PortOffset: f.offset}
	loaded, err := g.load(c, options)
	if err != nil {
		return err
	}
	logger, err := g.logger(c.ErrOrStderr(), loaded.Pack.LogFormat)
	if err != nil {
		return err
	}
	if f.drain > 0 {
		loaded.Pack.DrainSeconds = int(f.drain / time.Second)
	}
	if f.definitions != "" {
		if info, err := os.Stat(f.definitions); err != nil {
			return &exitError{exitUsage, fmt.Errorf("--definitions: %w", err)}
		} else if !info.IsDir() {
			return usage("--definitions %s: not a folder", f.definitions)
		}
		loaded.Frontend.ArtifactDefinitionsFolder = f.definitions
	}
	var name ids.Node
	if f.node != "" {
		if name, err = ids.ParseNode(f.node); err != nil {
			return fmt.Errorf("--node: %w: %w", errUsage, err)
		}
	}
	n, err := node.New(c.Context(), node.Options{Config: loaded, Name: name, Master: f.master, Version: version, Logger: logger})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(c.Context())
	defer stop()
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		defer stop()
		return n.Run(ctx)
	})
	work.Go(func() error { return watchConfig(ctx, g, options, n) })
	work.Go(func() error { return tellReady(ctx, n, logger) })
	return work.Wait()
}

// tellReady tells the service manager once the node can serve.
func tellReady(ctx context.Context, n *node.Node, logger *slog.Logger) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n.Ready() != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		logger.Warn("service manager was not told", "err", err)
	}
	return nil
}

// watchConfig reloads what may be reloaded when the file changes or on SIGHUP.
func watchConfig(ctx context.Context, g *globals, o config.Options, n *node.Node) error {
	signals := make(chan os.Signal, 1) // one slot: a second hangup while one waits says nothing new
	signal.Notify(signals, syscall.SIGHUP)
	defer signal.Stop(signals)
	hangup := make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-signals:
				select {
				case hangup <- struct{}{}:
				default:
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	paths := []string{g.config}
	if loaded, err := config.Load(g.config, o); err == nil && loaded.Frontend.TLSCertificateFilename != "" {
		paths = append(paths, loaded.Frontend.TLSCertificateFilename, loaded.Frontend.TLSPrivateKeyFilename)
	}
	return watch.Files(ctx, paths, hangup, n.Logger(), func() {
		fresh, err := config.Load(g.config, o)
		if err == nil {
			err = n.Reload(fresh)
		}
		if err != nil {
			n.Logger().Error("reload refused; the old configuration stays", "err", err)
		}
	})
}

// load reads the file that --config names and prints its warnings.
func (g *globals) load(c *cobra.Command, o config.Options) (*config.Loaded, error) {
	if g.config == "" {
		return nil, fmt.Errorf("--config FILE is required: %w", errUsage)
	}
	loaded, err := config.Load(g.config, o)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &exitError{exitUsage, err}
	}
	if err != nil {
		return nil, err
	}
	for _, warning := range loaded.Warnings {
		fmt.Fprintln(c.ErrOrStderr(), warning)
	}
	return loaded, nil
}
