package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/artifacts"
	"raptorpack/cmd/agent"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// localCollect runs artifacts on this machine, without any server.
type localCollect struct {
	params      []string
	definitions string
	output      string
	timeout     string
	maxRows     uint64

	g      *globals
	engine *vql.Engine
	print  *printer
	bundle *bundle // nil: rows go to standard output
	log    *queryLog
	rows   map[string]int64
	many   bool // several results
}

func newArtifactsCollect(g *globals) *cobra.Command {
	l := &localCollect{g: g, rows: map[string]int64{}}
	c := &cobra.Command{
		Use: "collect NAME...", Short: "Run artifacts on this machine, without a server", Args: atLeast(1, "one or more NAMEs"),
		Long: `Run artifacts on this machine, without a server. Rows go to standard output, or
with --output into a folder or .zip: results as JSON lines and as CSV, the log,
and uploaded files with their hashes. What an interrupted run has got is kept.`,
		Example: "  raptorpack artifacts collect Linux.Sys.Pslist Linux.Search.FileFinder --param 'SearchFilesGlob=/etc/*' --output host.zip",
		RunE:    l.run,
	}
	flags := c.Flags()
	flags.StringArrayVar(&l.params, "param", nil, "NAME=VALUE for all artifacts, or Artifact.Name.NAME=VALUE for one; may be repeated")
	flags.StringVar(&l.definitions, "definitions", "", "a folder of further artifacts")
	flags.StringVar(&l.output, "output", "", "a folder or .zip that must not exist yet")
	flags.StringVar(&l.timeout, "timeout", "", "how long each query may run, as 10m or 600 (seconds)")
	flags.Uint64Var(&l.maxRows, "max-rows", 0, "rows at most; 0: as the artifacts say")
	return c
}

// collection is the record of a local collection.
type collection struct {
	Session   string           `json:"session_id"`
	Version   string           `json:"version"`
	Artifacts []collectSpec    `json:"artifacts"`
	Started   time.Time        `json:"started"`
	Ended     time.Time        `json:"ended"`
	State     string           `json:"state"`
	Error     string           `json:"error,omitempty"`
	Rows      map[string]int64 `json:"rows"`
	LogErrors int              `json:"log_errors"`
}

func (l *localCollect) run(c *cobra.Command, names []string) error {
	specs, err := specsOf(names, l.params)
	if err != nil {
		return err
	}
	request, err := l.compile(c, specs)
	if err != nil {
		return err
	}
	if l.engine, err = agent.Engine(); err != nil {
		return err
	}
	if l.print, err = l.g.printer(c); err != nil {
		return err
	}
	l.log = newQueryLog(c.ErrOrStderr(), l.g)
	l.many = len(request.Names) > 1
	started := time.Now().UTC()
	if l.output != "" {
		if l.bundle, err = newBundle(l.output); err != nil {
			return err
		}
	}
	session := ids.NewFlow(started).String()
	err = steadily(l.print, func() error { return l.queries(c.Context(), request, session) })
	err = errors.Join(err, l.print.close())
	if l.bundle != nil {
		record := collection{
			Session: session, Version: version, Artifacts: redacted(specs, request), Started: started, Ended: time.Now().UTC(),
			State: "completed", Rows: l.rows, LogErrors: l.log.bad,
		}
		switch {
		case c.Context().Err() != nil:
			record.State = "interrupted"
		case err != nil:
			record.State, record.Error = "errored", err.Error()
		case l.log.bad > 0:
			record.State, record.Error = "errored", "the log holds errors"
		}
		err = errors.Join(err, l.bundle.close(record))
		l.g.noter(c)("%s: %s, %d uploads", l.output, record.State, len(l.bundle.uploads))
	}
	return l.log.verdict(c.Context(), err)
}

// redacted leaves secret parameters out of the record.
func redacted(specs []collectSpec, request *artifacts.Request) []collectSpec {
	for i, d := range request.Definitions {
		for name := range specs[i].Parameters {
			if p, ok := d.Parameter(name); ok && strings.EqualFold(p.Type, "redacted") {
				specs[i].Parameters[name] = "<redacted>"
			}
		}
	}
	return specs
}

func (l *localCollect) compile(c *cobra.Command, specs []collectSpec) (*artifacts.Request, error) {
	repository, err := definitions(c, l.g, l.definitions)
	if err != nil {
		return nil, err
	}
	timeout, err := parseSeconds(l.timeout)
	if err != nil {
		return nil, err
	}
	request, err := repository.Compile(artifacts.Collect{
		Artifacts: wishOf(specs), ClearNames: true, Resources: artifacts.Resources{Timeout: timeout, MaxRows: l.maxRows},
	})
	switch {
	case errors.Is(err, artifacts.ErrUnknown):
		return nil, &exitError{exitNotFound, err}
	case err != nil:
		return nil, &exitError{exitUsage, err}
	}
	for i, d := range request.Definitions {
		if d.Type != artifacts.Client {
			return nil, usage("%s is of type %s: only CLIENT artifacts run by themselves", d.Name, d.Type)
		}
		for _, name := range sortedKeys(specs[i].Parameters) {
			if _, ok := d.Parameter(name); !ok {
				return nil, usage("%s has no parameter %q", d.Name, name)
			}
		}
	}
	return request, nil
}

// queries runs the requests one after the other; one that fails does not keep
// the others from running.
func (l *localCollect) queries(ctx context.Context, request *artifacts.Request, session string) error {
	var errs []error
	left := int64(request.MaxRows)
	for _, args := range request.Queries {
		if ctx.Err() != nil {
			break
		}
		emitted, err := l.query(ctx, args, request.Names, session, left)
		if err != nil {
			errs = append(errs, err)
		}
		if left > 0 {
			if left -= emitted; left <= 0 {
				l.log.line(vql.LevelWarn, "row limit reached; the remaining queries were not run")
				break
			}
		}
	}
	return errors.Join(errs...)
}

// query runs one request in a scope of its own and returns how many rows it gave.
func (l *localCollect) query(ctx context.Context, args *wirepb.VQLCollectorArgs, names map[string]string, session string, left int64) (int64, error) {
	scope, err := l.scope(args, session, left)
	if err != nil {
		return 0, err
	}
	defer scope.Close()
	skip, err := skipped(ctx, scope, args.GetPrecondition())
	if err != nil {
		return 0, err
	}
	emitted := int64(0)
	for _, statement := range args.GetQuery() {
		name := ""
		if statement.GetName() != "" {
			name = names[statement.GetName()]
			if err := l.begin(name); err != nil {
				return emitted, err
			}
		}
		if skip {
			continue
		}
		program, err := vql.Parse(statement.GetVql())
		if err != nil {
			return emitted, fmt.Errorf("compiled query: %w", err)
		}
		err = scope.RunProgram(ctx, program, func(row *vql.Dict) error {
			if name == "" {
				return nil
			}
			emitted++
			l.rows[name]++
			return l.row(name, scope.AppendJSON(nil, row))
		})
		if err != nil {
			return emitted, err
		}
	}
	if skip {
		l.log.line(vql.LevelInfo, "skipped: the precondition gave no row")
	}
	return emitted, nil
}

func (l *localCollect) scope(args *wirepb.VQLCollectorArgs, session string, left int64) (*vql.Scope, error) {
	env := vql.NewDict()
	for _, e := range args.GetEnv() {
		env.Set(e.GetKey(), e.GetValue())
	}
	env.Set("_SessionId", session)
	env.Set("config", localConfig())
	bundled, err := artifacts.FromWire(args.GetArtifacts())
	if err != nil {
		return nil, err
	}
	o := vql.SessionOptions{
		Env: env, Log: l.logLine, Artifacts: bundled, Accessors: endpoint.Accessors(),
		Limits: vql.Limits{
			Timeout: time.Duration(args.GetTimeout()) * time.Second, OpsPerSecond: float64(args.GetOpsPerSecond()), MaxRows: left,
		},
	}
	if l.bundle != nil {
		o.Services = []any{l.bundle}
	}
	return l.engine.NewScope(o), nil
}

// logLine prints a line of the log and keeps it in the bundle.
func (l *localCollect) logLine(level, message string) {
	l.log.line(level, message)
	if l.bundle == nil {
		return
	}
	text, err := json.Marshal(map[string]any{"_ts": time.Now().Unix(), "level": level, "message": message})
	if err == nil {
		err = l.bundle.line("logs.jsonl", text)
	}
	if err != nil {
		l.log.line(vql.LevelError, "log line was not kept: "+err.Error())
	}
}

// begin announces a result.
func (l *localCollect) begin(name string) error {
	if l.bundle != nil {
		return l.bundle.rows(name)
	}
	if l.many {
		return l.print.section(name)
	}
	return nil
}

func (l *localCollect) row(name string, line []byte) error {
	if l.bundle != nil {
		return l.bundle.line(resultFile(name), line)
	}
	if l.many {
		line = l.print.tagged(name, line)
	}
	return l.print.row(line)
}

// skipped reports whether a precondition forbids a request.
func skipped(ctx context.Context, scope *vql.Scope, text string) (bool, error) {
	if text == "" {
		return false, nil
	}
	program, err := vql.Parse(text)
	if err != nil {
		return false, fmt.Errorf("precondition: %w", err)
	}
	rows := 0
	err = scope.RunProgram(ctx, program, func(*vql.Dict) error {
		rows++
		return vql.ErrStop
	})
	if err != nil {
		return false, fmt.Errorf("precondition: %w", err)
	}
	return rows == 0, nil
}
