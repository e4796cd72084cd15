package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"raptorpack/artifacts"
	"raptorpack/internal/throttle"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

const (
	defaultMaxRow   = 10_000  // rows of a message
	defaultMaxBytes = 4 << 20 // of rows in a message
	maxMaxBytes     = 32 << 20
	maxTimeout      = 365 * 24 * 3600 // seconds
)

var errNoQuery = errors.New("Query should be specified.") //nolint:staticcheck,revive // the protocol's text

// query is one request of a flow at work, in a session of its own.
type query struct {
	job       *job
	index     int
	args      *wirepb.VQLCollectorArgs
	principal string // who started the flow
	began     time.Time
}

// run works until ctx ends; what it gave is delivered as long as term lasts.
func (q *query) run(term, ctx context.Context) error {
	q.began = time.Now()
	if len(q.args.GetQuery()) == 0 {
		return errNoQuery
	}
	scope, err := q.scope()
	if err != nil {
		return err
	}
	defer scope.Close()
	met, err := q.precondition(ctx, scope)
	if err != nil || !met {
		return err
	}
	first := map[string]int64{} // rows delivered, by name
	for i, request := range q.args.GetQuery() {
		if err := q.statement(term, ctx, scope, i, request, first); err != nil {
			return err
		}
	}
	return nil
}

// scope makes the session: in the name of whoever started the flow, or of whom the
// artifact says, if it does.
func (q *query) scope() (*vql.Scope, error) {
	principal, as := q.principal, q.args.GetEffectivePrincipal()
	if as != "" {
		principal = as
	}
	o, err := q.job.term.o.Session(principal, as != "")
	if err != nil {
		return nil, fmt.Errorf("run in the name of %.80q: %w", principal, err)
	}
	bundled, err := artifacts.FromWire(q.args.GetArtifacts())
	if err != nil {
		return nil, err
	}
	o.Env, o.Artifacts = vql.NewDict(), bundled
	for _, e := range q.args.GetEnv() {
		o.Env.Set(e.GetKey(), e.GetValue())
	}
	o.Env.Set("_SessionId", q.job.flow.String())
	o.Log = func(level, text string) { q.job.logged(q.index, level, text) }
	o.Services = append([]any{&uploader{query: q}}, o.Services...)
	o.Limits = q.limits()
	o.Limits.TempDir = q.job.term.o.TempDir
	return q.job.term.o.Engine.NewScope(o), nil
}

func (q *query) limits() vql.Limits {
	l := vql.Limits{
		Timeout: q.timeout(), ProgressTimeout: time.Duration(float64(q.args.GetProgressTimeout()) * float64(time.Second)),
		OpsPerSecond: float64(q.args.GetOpsPerSecond()),
	}
	if t := throttle.New(float64(q.args.GetCpuLimit()), float64(q.args.GetIopsLimit()), nil); t != nil {
		l.Throttle = t
	}
	return l
}

func (q *query) timeout() time.Duration {
	if seconds := q.args.GetTimeout(); seconds > 0 {
		return time.Duration(min(seconds, maxTimeout)) * time.Second
	}
	return defaultTimeout
}

// precondition reports whether the query is to run.
func (q *query) precondition(ctx context.Context, scope *vql.Scope) (bool, error) {
	text := q.args.GetPrecondition()
	if text == "" {
		return true, nil
	}
	met := false
	err := each(ctx, scope, text, func(*vql.Dict) error {
		met = true
		return vql.ErrStop
	})
	if err != nil {
		return false, fmt.Errorf("precondition: %w", err)
	}
	if !met {
		scope.Log(vql.LevelInfo, "Query skipped: its precondition gave no row.")
	}
	return met, nil
}

// each parses a text and runs its statements.
func each(ctx context.Context, scope *vql.Scope, text string, emit func(*vql.Dict) error) error {
	program, err := vql.Parse(text)
	if err != nil {
		return err
	}
	if err := scope.RunProgram(ctx, program, emit); err != nil {
		return toldError{err}
	}
	return nil
}

// toldError is an error that the engine has written to the query's log.
type toldError struct{ error }

func (e toldError) Unwrap() error { return e.error }

// statement runs one request; only a named one delivers rows. What a failed one gave
// before it failed is delivered.
func (q *query) statement(term, ctx context.Context, scope *vql.Scope, index int, request *wirepb.VQLRequest, first map[string]int64) error {
	if request.GetName() == "" {
		return each(ctx, scope, request.GetVql(), func(*vql.Dict) error { return nil })
	}
	rows := newRows(q, index, request, first[request.GetName()])
	q.job.show(q.index, rows)
	defer q.job.show(q.index, nil)
	err := each(vql.InArtifact(ctx, request.GetName()), scope, request.GetVql(), func(row *vql.Dict) error { return rows.add(term, scope, row) })
	if flushErr := rows.flush(term, 0); err == nil {
		err = flushErr
	}
	first[request.GetName()] = rows.first
	return err
}

// finish ends the query: an error noted before or now makes it fail.
func (q *query) finish(err error) {
	var told toldError
	if err != nil && !errors.As(err, &told) {
		q.job.logged(q.index, vql.LevelError, err.Error())
	}
	q.job.update(q.index, func(s *wirepb.VeloStatus) {
		if err != nil && s.ErrorMessage == "" {
			s.ErrorMessage = shorten(err.Error(), maxErrorText)
		}
		if !q.began.IsZero() {
			s.Duration = int64(time.Since(q.began))
		}
		s.Status = wirepb.VeloStatus_OK
		if s.ErrorMessage != "" {
			s.Status = wirepb.VeloStatus_GENERIC_ERROR
		}
	})
}

// rows gathers the rows of one statement into messages by count, bytes and time.
type rows struct {
	query    *query
	index    int
	request  *wirepb.VQLRequest
	maxRow   int64
	maxBytes int
	maxWait  time.Duration

	turn chan struct{} // one slot: guards what follows, while rows are delivered too

	columns []string
	lines   []byte
	waiting int64
	first   int64 // number of the first row that waits
	part    uint64
	flushed time.Time
}

func newRows(q *query, index int, request *wirepb.VQLRequest, first int64) *rows {
	r := &rows{
		query: q, index: index, request: request, first: first, maxRow: defaultMaxRow, maxBytes: defaultMaxBytes,
		maxWait: tickEvery, flushed: time.Now(), turn: make(chan struct{}, 1),
	}
	if n := q.args.GetMaxRow(); n > 0 {
		r.maxRow = int64(min(n, 1<<20))
	}
	if n := q.args.GetMaxRowBufferSize(); n > 0 {
		r.maxBytes = int(min(n, maxMaxBytes))
	}
	if n := q.args.GetMaxWait(); n > 0 {
		r.maxWait = time.Duration(min(n, maxTimeout)) * time.Second
	}
	return r
}

func (r *rows) add(ctx context.Context, scope *vql.Scope, row *vql.Dict) error {
	if err := r.take(ctx); err != nil {
		return err
	}
	defer r.give()
	if r.columns == nil {
		for _, name := range row.Keys() { // as AppendJSON writes them
			r.columns = append(r.columns, strings.ToValidUTF8(name, "\uFFFD"))
		}
	}
	r.lines = append(scope.AppendJSON(r.lines, row), '\n')
	r.waiting++
	if r.waiting < r.maxRow && len(r.lines) < r.maxBytes {
		return nil
	}
	return r.deliver(ctx)
}

func (r *rows) take(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *rows) give() { <-r.turn }

// flush delivers the rows that wait, unless some were delivered just now.
func (r *rows) flush(ctx context.Context, age time.Duration) error {
	if err := r.take(ctx); err != nil {
		return err
	}
	defer r.give()
	if r.waiting == 0 || time.Since(r.flushed) < age {
		return nil
	}
	return r.deliver(ctx)
}

// deliver sends what waits; the turn is held.
func (r *rows) deliver(ctx context.Context) error {
	r.flushed = time.Now()
	err := r.query.job.send(ctx, r.query.job.message(&wirepb.VeloMessage{VqlResponse: &wirepb.VQLResponse{
		Columns: r.columns, Query: &wirepb.VQLRequest{Name: r.request.GetName()}, QueryId: uint64(r.index), Part: r.part,
		Timestamp: uint64(time.Now().UnixMicro()), TotalRows: uint64(r.waiting), QueryStartRow: uint64(r.first),
		JsonlResponse: strings.ToValidUTF8(string(r.lines), "\uFFFD"),
	}}))
	if err != nil {
		return err
	}
	name, n := r.request.GetName(), r.waiting
	r.query.job.update(r.query.index, func(s *wirepb.VeloStatus) {
		s.ResultRows += n
		if !slices.Contains(s.NamesWithResponse, name) {
			s.NamesWithResponse = append(s.NamesWithResponse, name)
		}
	})
	r.first, r.waiting, r.lines = r.first+n, 0, r.lines[:0]
	r.part++
	if cap(r.lines) > maxMaxBytes {
		r.lines = nil
	}
	return nil
}
