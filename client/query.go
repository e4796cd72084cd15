package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"raptorpack/internal/throttle"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

const (
	defaultHeartbeat = 30 * time.Second
	eventHeartbeat   = 300 * time.Second
	defaultMaxWait   = 100 * time.Second
)

var (
	errNoQuery = errors.New("Query should be specified.") //nolint:staticcheck,revive // the protocol's text
	errExpired = errors.New("Query expired.")             //nolint:staticcheck,revive // the protocol's text
)

// query is one VQLCollectorArgs at work, in a scope of its own.
type query struct {
	runner  *runner
	flow    *flow // nil for event queries
	args    *wirepb.VQLCollectorArgs
	index   int
	status  *queryStatus
	began   time.Time
	output  *output
	uploads *uploader
	log     func(level, message string)
	rescue  func(*rowsOut) error // flushes rows when the query's context has ended
	known   map[string]prefix    // from earlier runs

	mu        sync.Mutex
	rows      *rowsOut // of the statement that runs now
	flushed   time.Time
	heartbeat time.Time
	behind    map[string]bool // names of which known rows are still to come
}

func newQuery(life context.Context, f *flow, index int, args *wirepb.VQLCollectorArgs) *query {
	now := time.Now()
	q := &query{
		runner: f.runner, flow: f, args: args, index: index, status: newQueryStatus(now), began: now,
		known: map[string]prefix{}, behind: map[string]bool{}, flushed: now, heartbeat: now,
	}
	if marks := f.record.Queries[index]; marks != nil {
		q.known = maps.Clone(marks.Names)
	}
	for name, p := range q.known {
		q.status.addRows(name, p.Rows)
		q.behind[name] = true
	}
	q.output = &output{
		buffer: f.runner.buffer, session: f.id, query: index, status: q.status, metric: f.runner.metric,
		compress: f.request.GetCompression() == wirepb.FlowRequest_ZLIB, allow: f.allow,
	}
	q.uploads = newUploader(q.output, f.uploads, f.allowBytes)
	// Both outlive the query's own context: why a query ended, and what it gave
	// before, is worth delivering.
	q.log = func(level, message string) { q.logToFlow(life, level, message) }
	q.rescue = func(out *rowsOut) error { return out.flush(life) }
	return q
}

func (q *query) mustCatchUp() bool { return len(q.behind) > 0 }

// run takes the query to its end and leaves the outcome in its status.
func (q *query) run(ctx context.Context) {
	if q.flow != nil {
		q.status.begin(q.runner.options.CPU)
	}
	err := q.work(ctx)
	if errors.Is(err, context.Canceled) && context.Cause(ctx) == errTraceOver { //nolint:errorlint // a value of our own
		err = nil
	}
	var told toldError
	if err != nil && !errors.As(err, &told) && ctx.Err() == nil {
		q.log(vql.LevelError, err.Error())
	}
	q.status.finish(q.began, err)
}

func (q *query) work(ctx context.Context) error {
	if len(q.args.GetQuery()) == 0 {
		return errNoQuery
	}
	// A run that was in time the first time stays so.
	rerun := q.flow != nil && q.flow.record.Runs > 0
	if at := q.args.GetExpiry(); at > 0 && !rerun && uint64(time.Now().Unix()) > at {
		return errExpired
	}
	scope, err := q.scope()
	if err != nil {
		return err
	}
	defer scope.Close()
	skip, err := q.precondition(ctx, scope)
	if err != nil || skip {
		return err
	}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var deferred sync.WaitGroup
	deferred.Go(func() { q.uploads.work(sending, scope) })
	err = q.statements(ctx, scope)
	q.uploads.noMore()
	if err != nil {
		stop()
	}
	deferred.Wait()
	if err == nil {
		err = q.leftBehind()
	}
	return err
}

// scope makes the query's own session of the engine.
func (q *query) scope() (*vql.Scope, error) {
	env := vql.NewDict()
	for _, e := range q.args.GetEnv() {
		env.Set(e.GetKey(), e.GetValue())
	}
	o := q.runner.options
	env.Set("config", q.runner.config())
	env.Set("_SessionId", q.output.session)
	artifacts, err := o.Artifacts(q.args.GetArtifacts())
	if err != nil {
		return nil, err
	}
	return o.Engine.NewScope(vql.SessionOptions{
		Env: env, Log: q.log, Artifacts: artifacts, Accessors: o.Accessors, Limits: q.limits(),
		Services: append([]any{q.uploads}, o.Services...),
	}), nil
}

func (q *query) limits() vql.Limits {
	l := vql.Limits{
		Timeout:         seconds(q.args.GetTimeout(), q.defaultTimeout()),
		ProgressTimeout: time.Duration(float64(q.args.GetProgressTimeout()) * float64(time.Second)),
		OpsPerSecond:    float64(q.args.GetOpsPerSecond()),
		MaxMemory:       q.runner.options.MaxQueryMemory,
		TempDir:         q.runner.options.TempDir,
	}
	if t := throttle.New(float64(q.args.GetCpuLimit()), float64(q.args.GetIopsLimit()), nil); t != nil {
		l.Throttle = t
	}
	return l
}

func (q *query) defaultTimeout() time.Duration {
	if q.flow == nil {
		return 0 // event queries are ended by their refresh
	}
	return defaultQueryTimeout
}

// seconds turns a field of the request into a duration, within reason.
func seconds(n uint64, otherwise time.Duration) time.Duration {
	if n == 0 {
		return otherwise
	}
	return time.Duration(min(n, 10*365*86400)) * time.Second
}

// precondition reports whether the query is to be skipped.
func (q *query) precondition(ctx context.Context, scope *vql.Scope) (bool, error) {
	text := q.args.GetPrecondition()
	if text == "" {
		return false, nil
	}
	rows := 0
	err := q.each(ctx, scope, text, func(*vql.Dict) error {
		rows++
		return vql.ErrStop
	})
	if err != nil {
		return false, fmt.Errorf("precondition: %w", err)
	}
	if rows == 0 {
		q.log(vql.LevelInfo, "Query skipped: its precondition gave no row.")
	}
	return rows == 0, nil
}

// each parses a text and runs its statements.
func (q *query) each(ctx context.Context, scope *vql.Scope, text string, emit func(*vql.Dict) error) error {
	program, err := vql.Parse(text)
	if err != nil {
		return err
	}
	for _, statement := range program.Statements() {
		if err := q.runStatement(ctx, scope, statement, emit); err != nil {
			return err
		}
	}
	return nil
}

func (q *query) runStatement(ctx context.Context, scope *vql.Scope, s *vql.Statement, emit func(*vql.Dict) error) error {
	if err := scope.Run(ctx, s, emit); err != nil {
		return toldError{err}
	}
	return nil
}

// toldError is an error that the engine has written to the query's log.
type toldError struct{ error }

func (e toldError) Unwrap() error { return e.error }

// statements runs all requests in order in the one scope.
func (q *query) statements(ctx context.Context, scope *vql.Scope) error {
	reached := map[string]prefix{}
	for i, request := range q.args.GetQuery() {
		if err := q.statement(ctx, scope, i, request, reached); err != nil {
			return err
		}
	}
	return nil
}

// statement runs one request; only a named one delivers rows.
func (q *query) statement(ctx context.Context, scope *vql.Scope, i int, request *wirepb.VQLRequest, reached map[string]prefix) error {
	name := request.GetName()
	if name == "" {
		return q.each(ctx, scope, request.GetVql(), func(*vql.Dict) error { return nil })
	}
	out := newRowsOut(q.output, request, i, q.args, q.known[name], reached[name])
	q.mu.Lock()
	q.rows, q.flushed = out, time.Now()
	q.mu.Unlock()
	err := q.each(vql.InArtifact(ctx, name), scope, request.GetVql(), func(row *vql.Dict) error {
		q.touch()
		return out.add(ctx, row)
	})
	if err == nil {
		err = q.caughtUp(ctx, out)
	}
	if err != nil {
		return q.keep(out, err)
	}
	end, err := out.finish(ctx, q.args.GetQuery()[i+1:])
	reached[name] = end
	return err
}

// keep delivers the rows that a failed statement gave before it failed, unless
// they are the reason.
func (q *query) keep(out *rowsOut, cause error) error {
	if errors.Is(cause, ErrNotRepeatable) || errors.Is(cause, ErrCancelled) || errors.Is(cause, errFlowCancelled) || !out.passed.Load() {
		return cause
	}
	if err := q.rescue(out); err != nil && !errors.Is(err, ErrCancelled) {
		return errors.Join(cause, err)
	}
	return cause
}

// caughtUp tells the flow, once, that this query has come past all that an
// earlier run had delivered, under each of its names.
func (q *query) caughtUp(ctx context.Context, out *rowsOut) error {
	q.mu.Lock()
	name := out.request.GetName()
	news := q.behind[name] && out.passed.Load()
	if news {
		delete(q.behind, name)
	}
	left := len(q.behind)
	q.mu.Unlock()
	if !news || left > 0 {
		return nil
	}
	return q.flow.caughtUp(ctx)
}

// leftBehind complains about names that an earlier run delivered and this one
// never reached.
func (q *query) leftBehind() error {
	for name := range q.known {
		found := false
		for _, request := range q.args.GetQuery() {
			found = found || request.GetName() == name
		}
		if !found {
			return fmt.Errorf("%w: no statement is called %q any more", ErrNotRepeatable, name)
		}
	}
	return nil
}

func (q *query) touch() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.heartbeat = time.Now()
}

// tick flushes rows that waited long enough, says so when none come, and sees
// whether the query has caught up: it may never end a statement.
func (q *query) tick(ctx context.Context, now time.Time) error {
	wait := seconds(q.args.GetMaxWait(), q.runner.options.MaxWait)
	beat := seconds(q.args.GetHeartbeat(), defaultHeartbeat)
	if q.flow == nil {
		beat = seconds(q.args.GetHeartbeat(), eventHeartbeat)
	}
	q.mu.Lock()
	out := q.rows
	flush := out != nil && now.Sub(q.flushed) >= wait
	if flush {
		q.flushed = now
	}
	idle := out != nil && now.Sub(q.heartbeat) >= beat
	if idle {
		q.heartbeat = now
	}
	q.mu.Unlock()
	if idle && q.active() {
		q.log(vql.LevelDebug, "Waiting for rows.")
	}
	if out == nil {
		return nil
	}
	if flush {
		if err := out.flush(ctx); err != nil {
			return err
		}
	}
	return q.caughtUp(ctx, out)
}

func (q *query) active() bool {
	q.status.mu.Lock()
	defer q.status.mu.Unlock()
	return q.status.v.Status == wirepb.VeloStatus_PROGRESS
}

// logToFlow is the log of a flow's query.
func (q *query) logToFlow(ctx context.Context, level, message string) {
	got, err := q.flow.log.add(ctx, "", level, message)
	if err != nil {
		return // the agent stops; the run is repeated
	}
	q.status.update(func(v *wirepb.VeloStatus) { v.LogRows++ })
	if got == vql.LevelError {
		q.status.fail(message)
	}
}
