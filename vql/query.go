package vql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/types"
)

// Run runs one statement and hands its rows to emit, evaluated. LET statements
// emit none and change the scope. It returns nil at the end, what emit returned
// (nil for ErrStop), ctx's error, or the limit that ended the query, which is
// also logged. emit runs on Run's own goroutine and may keep the row.
func (s *Scope) Run(ctx context.Context, stmt *Statement, emit func(*Dict) error) error {
	if err := context.Cause(s.session.life); err != nil {
		return err
	}
	var refused error // what emit returned
	err := s.session.bounded(ctx, func(ctx context.Context) error {
		return s.stream(ctx, stmt, func(row *Dict) error {
			limit := s.session.options.Limits.MaxRows
			if n := s.session.emitted.Add(1); limit > 0 && n > limit {
				s.session.emitted.Add(-1)
				return ErrRowLimit
			}
			refused = emit(row)
			return refused
		})
	})
	switch {
	case errors.Is(err, ErrStop):
		return nil
	case refused == nil && !quiet(err):
		s.Log(LevelError, "%v", err)
	}
	return err
}

// RunProgram runs all statements in order.
func (s *Scope) RunProgram(ctx context.Context, p *Program, emit func(*Dict) error) error {
	for _, stmt := range p.Statements() {
		if err := s.Run(ctx, stmt, emit); err != nil {
			return err
		}
	}
	return nil
}

// bounded runs f under ctx, the session's life and its time limits. Inside a
// statement of the session, as called artifacts run theirs, that one's hold.
func (s *session) bounded(ctx context.Context, f func(context.Context) error) error {
	if s.statementOf(ctx) == nil {
		defer s.engine.metrics.began()()
		stmt := &statement{}
		ctx, stmt.stop = context.WithCancelCause(ctx)
		defer stmt.stop(nil)
		ctx = context.WithValue(ctx, statementKey{s}, stmt)
		stmt.ctx = ctx
		defer context.AfterFunc(s.life, func() { stmt.stop(ErrClosed) })()
		defer s.timers(stmt.stop)()
		defer s.enter(ctx)()
	}
	err := f(ctx)
	if cause := context.Cause(ctx); cause != nil && (err == nil || quiet(err)) {
		return cause
	}
	return err
}

// timers starts the session's time limits and returns how to end them.
func (s *session) timers(stop context.CancelCauseFunc) func() {
	var ends []func() bool
	if d := s.options.Limits.Timeout; d > 0 {
		s.mu.Lock()
		if s.deadline.IsZero() {
			s.deadline = time.Now().Add(d)
		}
		left := time.Until(s.deadline)
		s.mu.Unlock()
		ends = append(ends, time.AfterFunc(left, func() { stop(ErrTimeout) }).Stop)
	}
	if d := s.options.Limits.ProgressTimeout; d > 0 {
		ends = append(ends, s.watchProgress(d, stop))
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// watchProgress stops the statement when neither ops nor rows move for d.
func (s *session) watchProgress(d time.Duration, stop context.CancelCauseFunc) func() bool {
	last := s.limits.ops.Load() + uint64(s.emitted.Load())
	var timer *time.Timer
	ready := make(chan struct{}) // closed once timer is set; never blocks for long
	timer = time.AfterFunc(d, func() {
		<-ready
		now := s.limits.ops.Load() + uint64(s.emitted.Load())
		if now == last {
			stop(ErrNoProgress)
			return
		}
		last = now
		timer.Reset(d)
	})
	close(ready)
	return timer.Stop
}

// stream evaluates in a goroutine of its own, because the engine may end it (see
// watch). emit is called there, but never once stream has returned.
func (s *Scope) stream(ctx context.Context, stmt *Statement, emit func(*Dict) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !s.session.begin() {
		return ErrClosed
	}
	run := &evaluation{turn: make(chan struct{}, 1), done: make(chan error, 1)}
	run.turn <- struct{}{}
	go run.run(ctx, s, stmt, emit)
	select {
	case err := <-run.done:
		if run.panicked != nil {
			panic(run.panicked)
		}
		return err
	case <-ctx.Done():
		<-run.turn // a call of emit ends first
		return context.Cause(ctx)
	}
}

// evaluation is a statement that runs.
type evaluation struct {
	turn chan struct{} // holds one token: who has it calls emit, or lets nobody call it any more
	done chan error    // one result; never full

	panicked any // what emit panicked with; under the token, and read after done
}

func (r *evaluation) run(ctx context.Context, s *Scope, stmt *Statement, emit func(*Dict) error) {
	defer s.session.running.Done()
	var err error // stays when the engine or a panic ends the goroutine
	defer func() { r.done <- err }()
	defer s.session.recovered("query")
	err = s.evaluate(ctx, stmt, func(row *Dict) error {
		select {
		case <-r.turn:
		case <-ctx.Done():
			return ctx.Err()
		}
		return r.emit(ctx, row, emit)
	})
}

// emit calls the caller's emit and gives the token back. A panic is kept for the
// caller, or else it would be the plugin's whose row this came of.
func (r *evaluation) emit(ctx context.Context, row *Dict, emit func(*Dict) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.panicked, err = p, ErrStop
		}
		r.turn <- struct{}{}
	}()
	if err := ctx.Err(); err != nil || r.panicked != nil {
		return cmp.Or(err, ErrStop)
	}
	return emit(row)
}

// evaluate runs a statement; its rows are evaluated.
func (s *Scope) evaluate(ctx context.Context, stmt *Statement, emit func(*Dict) error) error {
	return s.statement(ctx, stmt, func(row Value) error { return emit(s.Row(ctx, row)) })
}

// statement runs a statement: a LET works on this scope.
func (s *Scope) statement(ctx context.Context, stmt *Statement, emit Emit) error {
	s.session.nest(stmt.nesting)
	s.session.boundDepth(s.inner)
	s.inner.AppendVars(&watch{session: s.session, query: stmt.Normal})
	if stmt.parsed.Query == nil {
		s.define(ctx, stmt)
		return nil
	}
	return s.runSelect(ctx, stmt.parsed, emit)
}

// drain lets the engine's goroutines run into their cancelled context; it does
// not wait for them.
func drain(rows <-chan types.Row) {
	go func() {
		for range rows { //nolint:revive // emptied on purpose
		}
	}()
}

// forward emits the rows of a query. Where ctx or emit ends it early the query is
// cancelled, and emptied beside us.
func forward(ctx context.Context, cancel context.CancelFunc, rows <-chan types.Row, emit Emit) error {
	for row := range rows {
		err := ctx.Err()
		if err == nil {
			err = emit(row)
		}
		if err != nil {
			cancel()
			drain(rows)
			return err
		}
	}
	return nil
}

// runStored runs a stored query in a child of s.
func (s *Scope) runStored(ctx context.Context, q types.StoredQuery, emit Emit) error {
	return s.runRecords(ctx, q, dictRows(emit))
}

// runRecords is runStored, but a SELECT's rows are records.
func (s *Scope) runRecords(ctx context.Context, q types.StoredQuery, emit Emit) error {
	switch t := q.(type) {
	case *materialised:
		return t.each(ctx, emit)
	case *valueQuery:
		return t.each(ctx, s, emit)
	case *storedQuery:
		return s.selectInChild(ctx, t.query, emit)
	}
	if query, ok := selectOf(q); ok {
		return s.selectInChild(ctx, query, emit)
	}
	child := s.with(s.inner.Copy())
	defer child.inner.Close()
	return child.runEngine(ctx, q, emit)
}

func (s *Scope) selectInChild(ctx context.Context, query *vfilter.VQL, emit Emit) error {
	child := s.with(s.inner.Copy())
	defer child.inner.Close()
	if child.inner.CheckForOverflow() {
		return nil
	}
	return child.runSelect(ctx, query, emit)
}

// generate runs f in a goroutine and gives its rows as the engine wants them. The
// channel is closed when f has ended; f's emit fails when ctx or its
// statement ends, so f never outlives them for long.
func generate(ctx context.Context, inner types.Scope, f func(Emit) error) <-chan types.Row {
	out := make(chan types.Row) // hand-over: the source waits until the row is wanted
	s := sessionOf(inner)
	running := s.lifeOf(ctx)
	if !s.begin() {
		close(out)
		return out
	}
	go func() {
		defer s.running.Done()
		defer close(out)
		defer s.recovered("query")
		_ = f(func(row Value) error { // f's error is ctx's or the consumer's
			select {
			case out <- row:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			case <-running.Done():
				return running.Err()
			}
		})
	}()
	return out
}

// home is what an engine scope keeps of ours.
type home struct {
	session *session
	depth   int // artifact calls above
}

// homeKey finds it in the engine scope's context.
const homeKey = "raptorpack.home"

// sessionOf finds the session of an engine scope.
func sessionOf(inner types.Scope) *session { return homeOf(inner).session }

func homeOf(inner types.Scope) home {
	v, _ := inner.GetContext(homeKey)
	h, _ := v.(*home)
	if h == nil {
		return home{}
	}
	return *h
}

// scopeOf wraps an engine scope.
func scopeOf(inner types.Scope) *Scope {
	h := homeOf(inner)
	return &Scope{session: h.session, inner: inner, depth: h.depth}
}

// lambda is a parsed lambda text.
type lambda struct{ parsed *vfilter.Lambda }

func (l *lambda) call(ctx context.Context, s *Scope, values []Value) Value {
	parameters := make([]types.Any, len(values))
	for i, v := range values {
		parameters[i] = v
	}
	return s.force(ctx, l.parsed.Reduce(ctx, s.inner, parameters))
}

// lambda parses a lambda text once per session.
func (s *session) lambda(text string) (Lambda, error) {
	if text == "" {
		return Lambda{}, nil
	}
	s.mu.Lock()
	parsed, ok := s.lambdas[text]
	s.mu.Unlock()
	if !ok {
		var err error
		if parsed, err = parseLambda(text); err != nil {
			return Lambda{}, fmt.Errorf("should be a lambda: %w", err)
		}
		s.mu.Lock()
		if len(s.lambdas) < maxDistinct {
			s.lambdas[text] = parsed
		}
		s.mu.Unlock()
	}
	return Lambda{text: text, parsed: parsed}, nil
}

// ParseLambda parses a lambda as a Lambda argument does.
func (s *Scope) ParseLambda(text string) (Lambda, error) { return s.session.lambda(text) }
