package collector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"raptorpack/artifacts"
	"raptorpack/container"
	"raptorpack/ids"
	"raptorpack/vql"
)

// errArgument means that a call of collect() makes no sense.
var errArgument = errors.New("bad argument")

type collectArgs struct {
	Artifacts   []string  `vql:"artifacts,required" doc:"The artifacts, or sources of them as Artifact/Source."`
	Output      string    `vql:"output" doc:"A folder or .zip that must not exist yet (rows only come back)."`
	Report      string    `vql:"report" doc:"Reports are not written: a line in the log says so."`
	Args        vql.Value `vql:"args" doc:"Parameters: a dict by artifact of dicts."`
	Password    string    `vql:"password" doc:"Of a zip: encrypt by AES-256."`
	Format      string    `vql:"format" doc:"Rows in the output: csv (JSON lines and CSV), jsonl or json (JSON lines alone), csv_only (csv)."`
	Definitions vql.Value `vql:"artifact_definitions" doc:"Further artifacts, stronger than those that are known: a YAML text, a dict, or a list of them."`
	Template    string    `vql:"template" doc:"Reports are not written: a line in the log says so."`
	Level       int64     `vql:"level" doc:"How hard a zip is deflated, 1 to 9 (1)."`
	OpsPerSec   float64   `vql:"ops_per_sec" doc:"Rows, files and buffers that each query may take in a second (what the artifacts say)."`
	CPULimit    float64   `vql:"cpu_limit" doc:"Per cent of the machine's processors that the process may use meanwhile (what the artifacts say)."`
	IOPSLimit   float64   `vql:"iops_limit" doc:"Reads and writes of the process in a second (what the artifacts say)."`
	Progress    float64   `vql:"progress_timeout" doc:"Seconds that a query may do nothing at all."`
	Timeout     float64   `vql:"timeout" doc:"Seconds that each query may run (what the artifacts say)."`
	Metadata    vql.Query `vql:"metadata" doc:"A query whose rows are kept as metadata.json."`
	Concurrency int64     `vql:"concurrency" doc:"Queries at the same time (1)."`
	Remapping   string    `vql:"remapping" doc:"A remapping in YAML, as remap() takes it, for each query: to collect from a disk or an image."`
}

// Plugin is collect(), for endpoints and servers.
var Plugin = vql.NewPlugin(vql.Spec{
	Name: "collect", Permission: "FILESYSTEM_WRITE",
	Doc: "The offline collector: runs artifacts here and packs rows, logs, uploads and a manifest of hashes into a folder or zip, which import_collection() reads. Emits each row with its _Source, and last Container, Error and Uploads.",
}, func(ctx context.Context, scope *vql.Scope, args *collectArgs, emit vql.Emit) error {
	c := &collecting{scope: scope, args: args, emit: emit}
	request, err := c.compile(ctx)
	if err != nil {
		return err
	}
	return c.run(ctx, request)
})

// collecting is one call of collect().
type collecting struct {
	scope  *vql.Scope
	args   *collectArgs
	emit   vql.Emit
	bundle *Bundle // nil: rows only
	record *container.Record

	mu  sync.Mutex
	bad int
}

func (c *collecting) compile(ctx context.Context) (*artifacts.Request, error) {
	if err := c.args.check(); err != nil {
		return nil, err
	}
	if c.args.Report != "" || c.args.Template != "" {
		c.scope.Log(vql.LevelWarn, "collect: report and template have no effect: reports are not written")
	}
	known, err := c.repository(ctx)
	if err != nil {
		return nil, err
	}
	wish := artifacts.Collect{ClearNames: true, Resources: artifacts.Resources{
		Timeout: uint64(c.args.Timeout), OpsPerSecond: c.args.OpsPerSec, CPULimit: c.args.CPULimit, IOPSLimit: c.args.IOPSLimit,
	}}
	c.record = &container.Record{State: "completed"}
	for _, name := range c.args.Artifacts {
		spec := artifacts.Spec{Name: name}
		given := c.parameters(ctx, name)
		for _, key := range slices.Sorted(maps.Keys(given)) {
			spec.Parameters = append(spec.Parameters, artifacts.Value{Name: key, Value: given[key]})
		}
		wish.Artifacts = append(wish.Artifacts, spec)
		c.record.Artifacts = append(c.record.Artifacts, container.Artifact{Name: name, Parameters: given})
	}
	return known.Compile(wish)
}

func (a *collectArgs) check() error {
	switch {
	case len(a.Artifacts) == 0 || a.Timeout < 0 || a.Concurrency < 0 || a.Concurrency > maxConcurrency:
		return fmt.Errorf("expected artifacts, a timeout of 0 or more, and a concurrency up to %d: %w", maxConcurrency, errArgument)
	case a.OpsPerSec < 0 || a.CPULimit < 0 || a.CPULimit > 100 || a.IOPSLimit < 0 || a.Progress < 0:
		return fmt.Errorf("limits: expected 0 or more, cpu_limit at most 100: %w", errArgument)
	}
	return nil
}

// repository holds the artifacts that are known here, and before them those that
// came with the call.
func (c *collecting) repository(ctx context.Context) (*artifacts.Repository, error) {
	known, ok := c.scope.Session().Artifacts.(*artifacts.Repository)
	given := c.scope.Rows(ctx, c.args.Definitions)
	if len(given) == 0 && !ok {
		return nil, fmt.Errorf("no artifacts are known here: %w", errArgument)
	}
	if len(given) == 0 {
		return known, nil
	}
	own := artifacts.Over(known)
	for i, v := range given {
		if err := c.define(ctx, own, v); err != nil {
			return nil, fmt.Errorf("artifact_definitions: %d: %w", i+1, err)
		}
	}
	return own, nil
}

// define adds a definition that came as a text, or as a dict, which JSON makes YAML of.
func (c *collecting) define(ctx context.Context, own *artifacts.Repository, v vql.Value) error {
	text, ok := c.scope.Real(ctx, v).(string)
	if !ok {
		text = string(c.scope.AppendJSON(nil, v))
	}
	d, err := artifacts.Parse("artifact_definitions", []byte(text))
	if err != nil {
		return err
	}
	return own.Add(d)
}

const maxConcurrency = 64

// parameters are those that args has for an artifact, as texts.
func (c *collecting) parameters(ctx context.Context, artifact string) map[string]string {
	all, ok := c.scope.Real(ctx, c.args.Args).(*vql.Dict)
	if !ok {
		return nil
	}
	of, _ := all.Get(artifact)
	own, ok := c.scope.Real(ctx, of).(*vql.Dict)
	if !ok {
		return nil
	}
	out := map[string]string{}
	for _, key := range own.Keys() {
		v, _ := own.Get(key)
		if text, ok := v.(string); ok {
			out[key] = text
		} else {
			out[key] = string(c.scope.AppendJSON(nil, v))
		}
	}
	return out
}

func (c *collecting) run(ctx context.Context, request *artifacts.Request) error {
	started, session := time.Now().UTC(), c.scope.Session()
	o := Options{
		Engine: c.scope.Engine(), Accessors: session.Accessors, Permissions: session.Permissions, Services: session.Services,
		Session: ids.NewFlow(started).String(), Concurrency: int(c.args.Concurrency),
		Remapping: c.args.Remapping, Progress: time.Duration(c.args.Progress * float64(time.Second)), Log: c.log, Begin: c.begin, Row: c.row,
	}
	c.record.Session, c.record.Started, c.record.Results = o.Session, &started, slices.Sorted(maps.Values(request.Names))
	if c.args.Output != "" {
		if err := c.open(ctx, &o); err != nil {
			return err
		}
	}
	rows, err := Run(ctx, request, o)
	c.record.Rows = rows
	err = errors.Join(err, c.close(ctx, err))
	if errors.Is(err, vql.ErrStop) || ctx.Err() != nil {
		return err
	}
	last := vql.NewDict().Set("Container", c.args.Output).Set("Error", c.record.Error).Set("Uploads", c.record.Uploads)
	if err != nil {
		c.scope.Log(vql.LevelError, "collect: %v", err)
		last.Set("Error", err.Error())
	}
	return c.emit(last)
}

func (c *collecting) open(ctx context.Context, o *Options) (err error) {
	format := c.args.Format
	if format == "jsonl" {
		format = container.FormatJSON
	}
	c.bundle, err = NewBundle(BundleOptions{Output: c.args.Output, Password: c.args.Password, Format: format, Level: int(c.args.Level), TempDir: c.scope.Session().Limits.TempDir})
	if err != nil {
		return err
	}
	// First of its kind: uploads of these queries go into the bundle.
	o.Services = append([]any{c.bundle}, o.Services...)
	c.record.Hostname, err = c.bundle.Describe(ctx, *o)
	if err == nil && c.args.Metadata.Given() {
		err = c.metadata(ctx)
	}
	if err != nil {
		return errors.Join(err, c.close(ctx, err))
	}
	return nil
}

func (c *collecting) metadata(ctx context.Context) error {
	var rows []any
	err := c.args.Metadata.Run(ctx, c.scope, func(row vql.Value) error {
		rows = append(rows, row)
		return nil
	})
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return c.bundle.line(container.Member{Path: container.MetadataName, Kind: container.KindMetadata}, c.scope.AppendJSON(nil, rows))
}

func (c *collecting) log(level, message string) {
	c.scope.Log(level, "%s", message)
	c.mu.Lock()
	if level == vql.LevelError {
		c.bad++
	}
	c.mu.Unlock()
	if c.bundle == nil {
		return
	}
	if err := c.bundle.Log(level, message); err != nil {
		c.scope.Log(vql.LevelError, "collect: log line was not kept: %v", err)
	}
}

func (c *collecting) begin(result string) error {
	if c.bundle == nil {
		return nil
	}
	return c.bundle.Begin(result)
}

// row keeps a row, and gives it to the calling query.
func (c *collecting) row(result string, row *vql.Dict, line []byte) error {
	if c.bundle != nil {
		if err := c.bundle.Row(result, line); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock() // emit is for one at a time
	return c.emit(row.Set("_Source", result))
}

// close ends the bundle with the record of how it went.
func (c *collecting) close(ctx context.Context, err error) error {
	if c.bundle == nil {
		return nil
	}
	ended := time.Now().UTC()
	c.record.Ended, c.record.LogErrors = &ended, c.bad
	switch {
	case ctx.Err() != nil:
		c.record.State = "interrupted"
	case err != nil:
		c.record.State, c.record.Error = "errored", err.Error()
	case c.bad > 0:
		c.record.State, c.record.Error = "errored", "the log holds errors"
	}
	return c.bundle.Close(c.record)
}
