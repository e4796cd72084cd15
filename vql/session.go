package vql

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"www.velocidex.com/golang/vfilter/types"
)

// session is what all scopes made from one root share.
type session struct {
	engine  *Engine
	options SessionOptions
	root    types.Scope
	log     sessionLog
	cache   Cache

	// ctx is the running statement's context, or the session's life: engine code
	// that has no context of its own is stopped through it.
	ctx    atomic.Pointer[context.Context]
	ended  atomic.Bool // ctx is done: watchers stop evaluation
	life   context.Context
	end    context.CancelCauseFunc
	limits *limiter

	only atomic.Pointer[[]string] // see Scope.Restrict; nil restricts nothing

	spilled atomic.Uint64
	emitted atomic.Int64
	nesting atomic.Int64   // the deepest nesting of the statements so far
	running sync.WaitGroup // goroutines of sources; Add under mu, not after finished

	mu        sync.Mutex
	closed    bool               // no more statements
	resting   bool               // close waits: no goroutine begins
	finished  bool               // no more goroutines
	entered   []*context.Context // of running statements; the first is the session's life
	onClosed  []func()
	scanned   [3]uint64 // counters of scopes made by Clean that are closed
	accessors map[string]Accessor
	zones     map[string]*time.Location
	deadline  time.Time
	lambdas   map[string]*lambda
	sites     map[any]*functionAdapter // of aggregates that are called directly, by the engine's node

	patterns     map[string]*regexp.Regexp // of =~; nil for those that are none
	patternBytes int
}

func newSession(engine *Engine, o SessionOptions) *session {
	o.Limits.setDefaults()
	s := &session{
		engine: engine, options: o,
		log:       sessionLog{sink: o.Log, seen: map[string]*seenLine{}},
		accessors: maps.Clone(o.Accessors),
		zones:     map[string]*time.Location{},
		lambdas:   map[string]*lambda{},
	}
	if s.accessors == nil {
		s.accessors = map[string]Accessor{}
	}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.limits = newLimiter(o.Limits)
	s.enter(s.life)
	return s
}

// context returns the context that engine code without one runs under.
func (s *session) context() context.Context { return *s.ctx.Load() }

// statement is one that the host runs. What it calls runs as a part of it, also
// the statements of called artifacts.
type statement struct {
	ctx  context.Context //nolint:containedctx // of the statement, for whose time it lives
	stop context.CancelCauseFunc
}

// statementKey finds a session's statement in the contexts that come of it.
type statementKey struct{ session *session }

// statementOf returns the statement that ctx belongs to, or nil: also for a
// context that was detached from a statement and has outlived it.
func (s *session) statementOf(ctx context.Context) *statement {
	stmt, ok := ctx.Value(statementKey{s}).(*statement)
	if !ok || stmt.ctx.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return stmt
}

// apart returns the context of a query that no statement ends, but the session.
func (s *session) apart() (context.Context, context.CancelFunc) {
	stmt := &statement{}
	ctx, stop := context.WithCancelCause(s.life)
	stmt.stop = stop
	stmt.ctx = context.WithValue(ctx, statementKey{s}, stmt)
	return stmt.ctx, func() { stop(nil) }
}

// lifeOf returns the context of the statement that ctx belongs to, or else what
// engine code without a context runs under.
func (s *session) lifeOf(ctx context.Context) context.Context {
	if stmt := s.statementOf(ctx); stmt != nil {
		return stmt.ctx
	}
	return s.context()
}

// join makes ctx a part of the running statement where it belongs to none: the
// engine reads indices and columns of queries under a context of its own.
func (s *session) join(ctx context.Context) (context.Context, func()) {
	stmt := s.statementOf(s.context())
	if stmt == nil || s.statementOf(ctx) != nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, statementKey{s}, stmt))
	stop := context.AfterFunc(stmt.ctx, func() { cancel(context.Cause(stmt.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// enter makes ctx the running one and returns a function that takes it back.
// Statements may overlap: the one entered last counts.
func (s *session) enter(ctx context.Context) func() {
	here := &ctx
	s.mu.Lock()
	s.entered = append(s.entered, here)
	s.current()
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock() // so that ended is not set for a statement that has just left
		defer s.mu.Unlock()
		if s.ctx.Load() == here {
			s.ended.Store(true)
		}
	})
	return func() {
		stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.entered = slices.DeleteFunc(s.entered, func(e *context.Context) bool { return e == here })
		s.current()
	}
}

// current takes the last of the entered contexts; under mu.
func (s *session) current() {
	last := s.entered[len(s.entered)-1]
	s.ctx.Store(last)
	s.ended.Store((*last).Err() != nil)
}

func (s *session) accessor(name string) (Accessor, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.accessors[name]
	return a, ok
}

func (s *session) setAccessor(name string, a Accessor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accessors[name] = a
}

// zone loads a time zone once; unknown names are logged once.
func (s *session) zone(name string) (*time.Location, bool) {
	s.mu.Lock()
	loc, ok := s.zones[name]
	s.mu.Unlock()
	if ok {
		return loc, loc != nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		s.log.add(LevelWarn, fmt.Sprintf("unknown time zone %s", name))
		loc = nil
	}
	s.mu.Lock()
	s.zones[name] = loc
	s.mu.Unlock()
	return loc, loc != nil
}

func (s *session) onClose(f func()) {
	s.mu.Lock()
	if !s.finished {
		s.onClosed = append(s.onClosed, f)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.guarded(f)()
}

// guarded wraps a clean-up function so that its panic is a log line.
func (s *session) guarded(f func()) func() {
	return func() {
		defer s.recovered("clean-up")
		f()
	}
}

// recovered turns a panic into log lines; deferred.
func (s *session) recovered(name string) {
	if r := recover(); r != nil {
		s.engine.metrics.panicked()
		s.log.add(LevelError, fmt.Sprintf("PANIC: %s: %v", name, r))
		s.log.add(LevelDebug, fmt.Sprintf("PANIC: %s: %s", name, debug.Stack()))
	}
}

// begin counts a goroutine in; false when the session has ended.
func (s *session) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished || s.resting {
		return false
	}
	s.running.Add(1)
	return true
}

const (
	// closingTime is how long what runs at the end of a session may take.
	closingTime = 60 * time.Second
	// graceTime is how long close waits for primitives that do not stop.
	graceTime = 10 * time.Second
)

func (s *session) close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed, s.resting = true, true
	s.mu.Unlock()
	s.end(ErrClosed)
	stopped := s.wait() // first, because clean-up takes away what primitives read
	s.mu.Lock()
	s.resting = false
	s.mu.Unlock()
	s.atEnd()
	s.mu.Lock()
	s.finished = true
	s.mu.Unlock()
	if !stopped || !s.wait() {
		s.log.add(LevelWarn, "a primitive did not stop when the query ended")
	}
	s.engine.metrics.closed(s)
	s.log.flush()
}

// atEnd runs the root's clean-up functions, which may still run queries.
func (s *session) atEnd() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.life), closingTime)
	defer cancel()
	defer s.enter(ctx)()
	for {
		s.mu.Lock()
		functions := s.onClosed
		s.onClosed = nil
		s.mu.Unlock()
		if len(functions) == 0 {
			return
		}
		for i := len(functions) - 1; i >= 0; i-- {
			s.guarded(functions[i])()
		}
	}
}

// wait waits for the goroutines of sources; false when some did not end in time.
func (s *session) wait() bool {
	ended := make(chan struct{}) // closed by the waiter; nobody sends
	go func() {
		defer close(ended)
		s.running.Wait()
	}()
	timer := time.NewTimer(graceTime)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}

var counterNames = [...]string{"RowsScanned", "PluginsCalled", "FunctionsCalled"}

func countersOf(inner types.Scope) (out [3]uint64) {
	snapshot := inner.GetStats().Snapshot()
	for i, name := range counterNames {
		v, _ := snapshot.Get(name)
		out[i], _ = v.(uint64)
	}
	return out
}

// keepCounters adds a scope's counters to the session's when it closes.
func (s *session) keepCounters(inner types.Scope) {
	n := countersOf(inner)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range n {
		s.scanned[i] += n[i]
	}
}

func (s *session) counters() Stats {
	n := countersOf(s.root)
	s.mu.Lock()
	for i := range n {
		n[i] += s.scanned[i]
	}
	s.mu.Unlock()
	return Stats{
		RowsScanned: n[0], PluginsCalled: n[1], FunctionsCalled: n[2],
		RowsEmitted:  uint64(s.emitted.Load()),
		BytesSpilled: s.spilled.Load(),
		Ops:          s.limits.ops.Load(),
	}
}

// charge charges one op under ctx.
func (s *session) charge(ctx context.Context) error {
	if err := s.alive(ctx); err != nil {
		return err
	}
	return s.limits.charge(ctx)
}

// limiter counts ops and holds them back.
type limiter struct {
	ops      atomic.Uint64
	rate     *rate.Limiter
	throttle Throttle
	memory   int64
}

func newLimiter(l Limits) *limiter {
	out := &limiter{throttle: l.Throttle, memory: l.MaxMemory}
	if l.OpsPerSecond > 0 {
		out.rate = rate.NewLimiter(rate.Limit(l.OpsPerSecond), max(1, int(l.OpsPerSecond/10)))
	}
	return out
}

// memoryEvery is how many ops pass between looks at the heap.
const memoryEvery = 256

func (l *limiter) charge(ctx context.Context) error {
	n := l.ops.Add(1)
	if l.memory > 0 && n%memoryEvery == 0 && heapBytes() > l.memory {
		return ErrMemory
	}
	if l.rate != nil {
		if err := l.rate.Wait(ctx); err != nil {
			return err
		}
	}
	if l.throttle != nil {
		return l.throttle.Charge(ctx)
	}
	return nil
}

// largeText is from which length on a text is a reason to look at the heap: less
// is charged with the ops.
const largeText = 1 << 20

// weigh returns ErrMemory when a large text has come where there is no room for
// more: a row may make any number of them without an op.
func (s *session) weigh(v Value) error {
	text, ok := v.(string)
	if !ok || len(text) < largeText || s.limits.memory <= 0 || heapBytes() <= s.limits.memory {
		return nil
	}
	return ErrMemory
}

func heapBytes() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// engineThrottler ends the engine's source goroutine when the query has to stop:
// the engine offers no error here, but closes its channels by defer.
type engineThrottler struct{ session *session }

func (t engineThrottler) ChargeOp() {
	s := t.session
	ctx := s.context()
	err := s.charge(ctx)
	if err == nil {
		return
	}
	if ctx.Err() == nil {
		s.stop(ctx, err)
	}
	runtime.Goexit()
}

func (t engineThrottler) Close() {}

// stop ends the statement that ctx belongs to, or else the running one.
func (s *session) stop(ctx context.Context, cause error) {
	if stmt := s.statementOf(s.lifeOf(ctx)); stmt != nil {
		stmt.stop(cause)
	}
}

// watch is a frame of the scope that every look-up of an outer name passes. It
// answers $Query, and ends evaluation that goes on without rows or calls after
// the query was stopped, as a function that calls itself twice does.
type watch struct {
	session *session
	query   string
	late    atomic.Int64 // look-ups since the query was stopped
}

// maxLate is how many look-ups a stopped query may still make. It keeps the
// host's own look-ups, which are few, safe from being ended.
const maxLate = 10_000

// AddColumn implements the engine's lazy row; it takes none.
func (w *watch) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return w
}

// Has reports whether the frame has a name.
func (w *watch) Has(name string) bool { return name == queryVariable }

// Columns lists the frame's names.
func (w *watch) Columns() []string { return []string{queryVariable} }

const queryVariable = "$Query"

// Get returns the running statement's text for $Query.
func (w *watch) Get(name string) (types.Any, bool) {
	if w.session.ended.Load() && w.late.Add(1) > maxLate {
		runtime.Goexit()
	}
	if name == queryVariable {
		return w.query, true
	}
	return nil, false
}

// sessionLog drops repeated messages and counts them.
type sessionLog struct {
	sink func(level, message string)

	mu   sync.Mutex
	seen map[string]*seenLine
}

type seenLine struct {
	level, message string
	repeats        int
}

// maxDistinct bounds the messages remembered; beyond it their counts are written
// and remembering starts anew.
const maxDistinct = 2000

func (l *sessionLog) add(level, message string) {
	key := level + message
	l.mu.Lock()
	line, old := l.seen[key]
	if old {
		line.repeats++
		l.mu.Unlock()
		return
	}
	var full []*seenLine
	if len(l.seen) >= maxDistinct {
		full = l.take()
	}
	l.seen[key] = &seenLine{level: level, message: message}
	l.mu.Unlock()
	l.report(full)
	l.send(level, message)
}

func (l *sessionLog) send(level, message string) {
	if l.sink != nil {
		l.sink(level, message)
	}
}

func (l *sessionLog) take() []*seenLine {
	var out []*seenLine
	for _, line := range l.seen {
		if line.repeats > 0 {
			out = append(out, line)
		}
	}
	clear(l.seen)
	return out
}

func (l *sessionLog) flush() {
	l.mu.Lock()
	lines := l.take()
	l.mu.Unlock()
	l.report(lines)
}

func (l *sessionLog) report(lines []*seenLine) {
	for _, line := range lines {
		l.send(line.level, fmt.Sprintf("%s (repeated %d times)", shorten(line.message, 500), line.repeats))
	}
}

func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}

// logWriter takes the engine's log lines.
type logWriter struct{ session *session }

func (w logWriter) Write(p []byte) (int, error) {
	message := string(p)
	for len(message) > 0 && message[len(message)-1] == '\n' {
		message = message[:len(message)-1]
	}
	if len(message) >= 19 && message[:19] == "Scope already close" {
		return len(p), nil // Scope.OnClose copes
	}
	level, text := levelOf(message)
	w.session.log.add(level, text)
	return len(p), nil
}

func (s *session) logger() *log.Logger { return log.New(logWriter{session: s}, "", 0) }

// quiet reports whether an error only means that the query was told to stop.
func quiet(err error) bool {
	return err == nil || errors.Is(err, ErrStop) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrClosed)
}
