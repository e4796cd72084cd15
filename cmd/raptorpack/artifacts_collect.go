package main

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/artifacts"
	"raptorpack/cmd/agent"
	"raptorpack/collector"
	"raptorpack/container"
	"raptorpack/ids"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// localCollect runs artifacts on this machine, without any server.
type localCollect struct {
	params      []string
	definitions string
	output      string
	password    string
	format      string
	timeout     string
	maxRows     uint64

	g      *globals
	engine *vql.Engine
	print  *printer
	bundle *collector.Bundle // nil: rows go to standard output
	log    *queryLog
	many   bool // several results
}

func newArtifactsCollect(g *globals) *cobra.Command {
	l := &localCollect{g: g}
	c := &cobra.Command{
		Use: "collect NAME...", Short: "Run artifacts on this machine, without a server", Args: atLeast(1, "one or more NAMEs"),
		Long: `Run artifacts on this machine, without a server. Rows go to standard output, or
with --output into a folder or .zip: results as JSON lines and as CSV, the log,
and uploaded files with their hashes. What an interrupted run has got is kept. A zip has
a manifest, too, and collections import brings it in.`,
		Example: "  raptorpack artifacts collect Linux.Sys.Pslist Linux.Search.FileFinder --param 'SearchFilesGlob=/etc/*' --output host.zip",
		RunE:    l.run,
	}
	flags := c.Flags()
	flags.StringArrayVar(&l.params, "param", nil, "NAME=VALUE for all artifacts, or Artifact.Name.NAME=VALUE for one; may be repeated")
	flags.StringVar(&l.definitions, "definitions", "", "a folder of further artifacts")
	flags.StringVar(&l.output, "output", "", "a folder or .zip that must not exist yet")
	flags.StringVar(&l.password, "password", "", "of a zip: encrypt by AES-256; -: read a line of standard input")
	flags.StringVar(&l.format, "rows", "csv", "in the output: csv (JSON lines and CSV), json (JSON lines alone) or csv_only")
	flags.StringVar(&l.timeout, "timeout", "", "how long each query may run, as 10m or 600 (seconds)")
	flags.Uint64Var(&l.maxRows, "max-rows", 0, "rows at most; 0: as the artifacts say")
	return c
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
	o := collector.Options{
		Engine: l.engine, Accessors: endpoint.Accessors(), Config: localConfig(), Session: ids.NewFlow(started).String(),
		Log: l.logLine, Begin: l.begin, Row: l.row,
	}
	record := &container.Record{Session: o.Session, Version: version, Artifacts: redacted(specs, request), Started: &started, State: "completed"}
	if l.output != "" {
		if err := l.open(c, &o, record); err != nil {
			return err
		}
	}
	err = steadily(l.print, func() error {
		var err error
		record.Rows, err = collector.Run(c.Context(), request, o)
		return err
	})
	err = errors.Join(err, l.print.close())
	if l.bundle != nil {
		err = errors.Join(err, l.end(c, request, record, err))
		l.g.noter(c)("%s: %s, %d uploads", l.output, record.State, record.Uploads)
	}
	return l.log.verdict(c.Context(), err)
}

// open begins the output.
func (l *localCollect) open(c *cobra.Command, o *collector.Options, record *container.Record) error {
	password, err := passwordOf(c, l.password)
	if err != nil {
		return err
	}
	if l.bundle, err = newBundle(collector.BundleOptions{Output: l.output, Password: password, Format: l.format}); err != nil {
		return err
	}
	o.Services = []any{l.bundle}
	record.Hostname, err = l.bundle.Describe(c.Context(), *o)
	return err
}

// newBundle makes an output; a wish that makes no sense is one of usage.
func newBundle(o collector.BundleOptions) (*collector.Bundle, error) {
	b, err := collector.NewBundle(o)
	if errors.Is(err, collector.ErrOutput) {
		err = &exitError{exitUsage, err}
	}
	return b, err
}

// end closes the output with the record of how it went.
func (l *localCollect) end(c *cobra.Command, request *artifacts.Request, record *container.Record, err error) error {
	ended := time.Now().UTC()
	record.Ended, record.LogErrors = &ended, l.log.bad
	record.Results = slices.Sorted(maps.Values(request.Names))
	switch {
	case c.Context().Err() != nil:
		record.State = "interrupted"
	case err != nil:
		record.State, record.Error = "errored", err.Error()
	case l.log.bad > 0:
		record.State, record.Error = "errored", "the log holds errors"
	}
	return l.bundle.Close(record)
}

// redacted leaves secret parameters out of the record.
func redacted(specs []collectSpec, request *artifacts.Request) []container.Artifact {
	out := make([]container.Artifact, len(specs))
	for i, d := range request.Definitions {
		for name := range specs[i].Parameters {
			if p, ok := d.Parameter(name); ok && strings.EqualFold(p.Type, "redacted") {
				specs[i].Parameters[name] = "<redacted>"
			}
		}
		out[i] = container.Artifact{Name: specs[i].Name, Parameters: specs[i].Parameters}
	}
	return out
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

// logLine prints a line of the log and keeps it in the bundle.
func (l *localCollect) logLine(level, message string) {
	l.log.line(level, message)
	if l.bundle == nil {
		return
	}
	err := l.bundle.Log(level, message)
	if err != nil {
		l.log.line(vql.LevelError, "log line was not kept: "+err.Error())
	}
}

// begin announces a result.
func (l *localCollect) begin(name string) error {
	if l.bundle != nil {
		return l.bundle.Begin(name)
	}
	if l.many {
		return l.print.section(name)
	}
	return nil
}

func (l *localCollect) row(name string, _ *vql.Dict, line []byte) error {
	if l.bundle != nil {
		return l.bundle.Row(name, line)
	}
	if l.many {
		line = l.print.tagged(name, line)
	}
	return l.print.row(line)
}
