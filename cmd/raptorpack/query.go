package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"raptorpack/artifacts"
	"raptorpack/cmd/agent"
	"raptorpack/collector"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// badLog is what makes a query's log line an error (docs/vql.md).
var badLog = regexp.MustCompile(`(?i)(Error:|Symbol.+?not found|Expecting a path arg type, not|Field.+?is required|Unexpected arg)`)

const maxQueryText = 16 << 20

// queryFlags are the wishes of one query command.
type queryFlags struct {
	env         []string
	definitions string
	uploads     string
	timeout     string
	maxRows     int64
	stats       bool
}

func newQuery(g *globals) *cobra.Command {
	q := &queryFlags{}
	c := &cobra.Command{
		Use: "query QUERY|FILE|-", Short: "Run a VQL query here, or on a server", Args: exactly(1, "one QUERY or FILE, or - for standard input"),
		Long: `Run a VQL query and print its rows as they come. It runs on this machine; with
--server, --api-client or --config on the command line it runs on that server,
with the caller's permissions.

The query's log goes to standard error. The exit code is 1 when the log holds an
error, even if there were rows.`,
		Example: "  raptorpack query 'SELECT Pid, Name FROM pslist()' --format csv\n" +
			"  raptorpack query hunt-for-it.vql\n" +
			"  raptorpack query --env glob='/etc/*.conf' 'SELECT OSPath, Size FROM glob(globs=glob)'\n" +
			"  raptorpack query --server https://pack.example:8889 --api-client me.yaml 'SELECT * FROM info()'",
		RunE: func(c *cobra.Command, args []string) error {
			text, err := queryText(c, args[0])
			if err != nil {
				return err
			}
			if asksServer(c) {
				return q.remote(c, g, text)
			}
			return q.local(c, g, text)
		},
	}
	g.remoteFlags(c)
	g.formatFlag(c)
	flags := c.Flags()
	flags.StringArrayVar(&q.env, "env", nil, "NAME=VALUE, a variable of the query; may be repeated")
	flags.StringVar(&q.definitions, "definitions", "", "a folder of further artifacts to call (here only)")
	flags.StringVar(&q.uploads, "uploads", "", "where upload() puts files: a folder that must not exist yet, or a .zip (here only)")
	flags.StringVar(&q.timeout, "timeout", "", "end the query after so long, as 10m or 600 (seconds)")
	flags.Int64Var(&q.maxRows, "max-rows", 0, "end the query after so many rows; 0: no limit (here only)")
	flags.BoolVar(&q.stats, "stats", false, "print at the end, on standard error, one JSON object with what the query cost (here only)")
	return c
}

// queryText is the argument, or what the file has that it names, or standard input
// for -. No query is the name of a file, and none is a single word: that is the name
// of a file that is not there.
func queryText(c *cobra.Command, text string) (string, error) {
	from := c.InOrStdin()
	if text != "-" {
		info, err := os.Stat(text)
		switch {
		case err != nil && text != "" && !strings.ContainsFunc(text, unicode.IsSpace):
			return "", usage("%.200q is neither a query nor a file: %w", text, err)
		case err != nil:
			return text, nil
		case info.IsDir():
			return "", usage("%s is a folder: expected a query or a file", text)
		}
		file, err := os.Open(text)
		if err != nil {
			return "", err
		}
		defer file.Close()
		from = file
	}
	read, err := io.ReadAll(io.LimitReader(from, maxQueryText+1))
	if err != nil {
		return "", fmt.Errorf("read query: %w", err)
	}
	if len(read) > maxQueryText {
		return "", usage("the query is longer than %d bytes", maxQueryText)
	}
	return string(read), nil
}

// environment reads NAME=VALUE pairs.
func environment(pairs []string) (*vql.Dict, error) {
	env := vql.NewDict()
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usage("--env %q: expected NAME=VALUE", pair)
		}
		env.Set(name, value)
	}
	return env, nil
}

// localConfig is the variable config of queries that no agent runs.
func localConfig() *vql.Dict {
	build := vql.NewDict().Set("Name", "raptorpack").Set("Version", version).Set("BuildTime", "").Set("CiBuildUrl", "").Set("InstallTime", int64(0))
	return vql.NewDict().Set("Version", build).Set("Labels", []string{})
}

// local runs the query on this machine.
func (q *queryFlags) local(c *cobra.Command, g *globals, text string) (err error) {
	program, err := vql.Parse(text)
	if err != nil {
		return usage("query: %w", err)
	}
	env, err := environment(q.env)
	if err != nil {
		return err
	}
	if _, given := env.Get("config"); !given {
		env.Set("config", localConfig())
	}
	if _, given := env.Get("_SessionId"); !given {
		env.Set("_SessionId", "") // no flow runs here; queries may name it all the same
	}
	repository, err := definitions(c, g, q.definitions)
	if err != nil {
		return err
	}
	timeout, err := parseSeconds(q.timeout)
	if err != nil {
		return err
	}
	if q.maxRows < 0 {
		return usage("--max-rows %d: expected 0, for no limit, or more", q.maxRows)
	}
	engine, err := agent.Engine()
	if err != nil {
		return err
	}
	p, err := g.printer(c)
	if err != nil {
		return err
	}
	log := newQueryLog(c.ErrOrStderr(), g)
	o := vql.SessionOptions{
		Env: env, Log: log.line, Artifacts: repository, Accessors: endpoint.Accessors(),
		Limits: vql.Limits{Timeout: time.Duration(timeout) * time.Second, MaxRows: q.maxRows},
	}
	if q.uploads != "" {
		bundle, err := newBundle(collector.BundleOptions{Output: q.uploads})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, bundle.Close(nil)) }()
		o.Services = []any{bundle}
	}
	spent := costNow()
	scope := engine.NewScope(o)
	err = steadily(p, func() error {
		return scope.RunProgram(c.Context(), program, func(row *vql.Dict) error { return p.row(scope.AppendJSON(nil, row)) })
	})
	stats := scope.Stats()
	scope.Close() // its last log lines come here
	if q.stats {
		log.say(spent.report(stats))
	}
	return log.verdict(c.Context(), errors.Join(err, p.close()))
}

// steadily flushes a printer twice a second while work runs.
func steadily(p *printer, work func() error) error {
	done := make(chan struct{})
	var flusher sync.WaitGroup
	flusher.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = p.flush() // the printer keeps its error for the next row
			}
		}
	})
	err := work()
	close(done)
	flusher.Wait()
	return err
}

// definitions are the built-in artifacts and those of a folder. Broken files are
// told and left out.
func definitions(c *cobra.Command, g *globals, folder string) (*artifacts.Repository, error) {
	builtIn, err := artifacts.BuiltIn()
	if err != nil || folder == "" {
		return builtIn, err
	}
	if info, err := os.Stat(folder); err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--definitions: %w", err)}
	} else if !info.IsDir() {
		return nil, usage("--definitions %s: not a folder", folder)
	}
	repository := artifacts.NewRepository(builtIn)
	if _, err := repository.LoadFS(os.DirFS(folder), false); err != nil {
		note := g.noter(c)
		note("artifact files were left out:")
		for line := range strings.Lines(err.Error()) {
			note("%s", strings.TrimRight(line, "\n"))
		}
	}
	return repository, nil
}

// queryLog prints a query's log lines on standard error and judges them.
type queryLog struct {
	quiet bool
	debug bool

	mu  sync.Mutex
	w   io.Writer
	bad int
}

func newQueryLog(w io.Writer, g *globals) *queryLog {
	return &queryLog{w: w, quiet: g.quiet, debug: g.logLevel == "debug"}
}

// line takes one line of the log.
func (l *queryLog) line(level, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bad := level == vql.LevelError || badLog.MatchString(message)
	if bad {
		l.bad++
		level = vql.LevelError
	}
	if level == vql.LevelDebug && !l.debug || l.quiet && !bad {
		return
	}
	// Standard error is all there is to tell about a failed write to it.
	fmt.Fprintf(l.w, "[%s] %s\n", harmless(level), harmless(strings.TrimRight(message, "\n")))
}

// say prints a line that is no log line of the query.
func (l *queryLog) say(message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.w, message)
}

// verdict is how a command ends after its queries.
func (l *queryLog) verdict(ctx context.Context, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case ctx.Err() != nil && !errors.Is(err, os.ErrClosed):
		return context.Cause(ctx)
	case errors.Is(err, vql.ErrTimeout):
		return &exitError{exitTimeout, err}
	case errors.Is(err, vql.ErrRowLimit):
		return nil
	case err != nil:
		return err
	case l.bad > 0:
		return &exitError{exitFailed, fmt.Errorf("the query's log holds %d errors", l.bad)}
	}
	return nil
}
