// Command raptorpack is the whole product in one binary: server node, agent,
// query tool and operator's command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"raptorpack/config"
	"raptorpack/filestore"
)

// version is set by the build.
var version = "unknown"

// Exit codes; `raptorpack help exit-codes` prints them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitForbidden   = 4
	exitUnreachable = 5
	exitPartly      = 6
	exitTimeout     = 124
	exitInterrupted = 130
)

func main() {
	// With a taker for the signal a write to a closed pipe fails like any other,
	// and the command ends by itself. Nobody reads the slot: the signal itself
	// says nothing.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: tests call it.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	// A second signal ends the process at once: the first one's handler is gone.
	context.AfterFunc(ctx, stop)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if readerLeft(err) {
		return 0 // they have seen enough
	}
	if err.Error() != "" {
		fmt.Fprintln(errs, "raptorpack:", err)
	}
	return exitCode(ctx, err)
}

// readerLeft reports whether err says that nobody reads standard output any more. A
// connection of the network that broke in the middle of a write is something else.
func readerLeft(err error) bool {
	var network *net.OpError
	return errors.Is(err, syscall.EPIPE) && !errors.As(err, &network)
}

// exitError carries an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func exitCode(ctx context.Context, err error) int {
	var coded *exitError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, config.ErrInvalid), errors.Is(err, config.ErrExists), errors.Is(err, config.ErrNoCAKey), errors.Is(err, errUsage):
		return exitUsage
	case errors.Is(err, filestore.ErrNodeRunning):
		return exitFailed
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	case strings.HasPrefix(err.Error(), "required flag(s)"): // cobra has no error of its own for it
		return exitUsage
	}
	return exitFailed
}

var errUsage = errors.New("wrong usage")

// globals are the flags of every command.
type globals struct {
	logLevel  string
	logFormat string
	format    string
	config    string
	server    string
	apiClient string
	ca        string
	quiet     bool
}

func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use: "raptorpack", Short: "Hunt across large fleets of endpoints",
		Long: "Raptorpack collects forensic artifacts from endpoints and hunts across fleets of them.\n" +
			"One binary: server node (frontend), agent (client), query tool, and operator's command line.",
		SilenceUsage: true, SilenceErrors: true, Version: version,
		// Before any work, so that a mistyped level is told of by every command.
		PersistentPreRunE: func(*cobra.Command, []string) error {
			_, err := g.logger(io.Discard, "")
			return err
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.logLevel, "log-level", env("LOG_LEVEL", "info"), "debug, info, warn or error (RAPTORPACK_LOG_LEVEL)")
	flags.StringVar(&g.logFormat, "log-format", env("LOG_FORMAT", ""), "text or json; empty: as the file says (RAPTORPACK_LOG_FORMAT)")
	flags.StringVar(&g.config, "config", env("CONFIG", ""), "the server or client file (RAPTORPACK_CONFIG)")
	flags.BoolVarP(&g.quiet, "quiet", "q", false, "no progress, no notes")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitUsage, err} })
	root.AddCommand(
		newFrontend(g), newClient(g), newConfig(g), newQuery(g), newVQL(g), newArtifacts(g), newVersion(g), newExitCodes(),
	)
	root.AddCommand(newOperators(g)...)
	root.AddCommand(newStore(g)...)
	root.AddCommand(newPool(g))
	strict(root)
	return root
}

// strict makes wrong arguments a matter of usage everywhere: cobra itself prints
// help and success for a verb that it does not know.
func strict(c *cobra.Command) {
	for _, sub := range c.Commands() {
		strict(sub)
	}
	if !c.Runnable() && c.HasSubCommands() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("%s has no command %q; see %s --help", c.CommandPath(), args[0], c.CommandPath())
			}
			return c.Help()
		}
		return
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &exitError{exitUsage, err}
			}
			return nil
		}
	}
}

// usage is an error of whoever typed the command.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// env reads RAPTORPACK_NAME.
func env(name, otherwise string) string {
	if value, ok := os.LookupEnv("RAPTORPACK_" + name); ok {
		return value
	}
	return otherwise
}

// logger writes to standard error; format falls back to what the file says.
func (g *globals) logger(w io.Writer, format string) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(g.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: expected debug, info, warn or error: %w", g.logLevel, errUsage)
	}
	if g.logFormat != "" {
		format = g.logFormat
	}
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	case "", "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return nil, fmt.Errorf("--log-format %q: expected text or json: %w", format, errUsage)
}

func newVersion(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), version)
			return err
		},
	}
}

func newExitCodes() *cobra.Command {
	return &cobra.Command{
		Use: "exit-codes", Short: "What the exit codes mean",
		Long: `Exit codes:
  0    done
  1    failed
  2    wrong usage or configuration
  3    not found
  4    not permitted
  5    server not reachable, or no master: try again
  6    done in part; filestore scrub: something is damaged
  124  timed out
  130  interrupted`,
	}
}
