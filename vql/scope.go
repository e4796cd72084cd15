package vql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

// The levels of a query's log.
const (
	LevelDefault = "DEFAULT"
	LevelError   = "ERROR"
	LevelWarn    = "WARN"
	LevelInfo    = "INFO"
	LevelDebug   = "DEBUG"
	LevelAlert   = "ALERT"
)

// SessionOptions says how a session's queries run.
type SessionOptions struct {
	// Env holds the root variables; may be nil. Values are used as they are.
	Env *Dict

	// Log takes the query's log lines, level one of the Level constants. It may be
	// called from several goroutines at once; nil drops the lines. A message that
	// repeats comes once, and once more with its count when the session closes.
	Log func(level, message string)

	// Permissions decides what the session may use; nil allows everything, as on
	// clients.
	Permissions Permissions

	// Limits bounds the session; the zero value takes the defaults.
	Limits Limits

	// Services are what the host offers to primitives; see Service.
	Services []any

	// Artifacts answers Artifact.X.Y() calls; nil means that there are none.
	Artifacts Artifacts

	// Accessors are the session's file accessors by name.
	Accessors map[string]Accessor

	// Location is the zone of times in output and free-form parsing when the
	// variable TZ does not name one; nil is UTC.
	Location *time.Location
}

// Scope is where a query runs: variables, log, limits and services of its
// session. The host makes a root scope with Engine.NewScope; primitives are
// handed the scope of their call. A Scope is safe for concurrent use.
type Scope struct {
	session *session
	inner   types.Scope
	depth   int    // artifact calls above
	name    string // the primitive being called
	state   *stateKey
	isClean bool // made by Clean: has counters of its own
}

func (s *Scope) with(inner types.Scope) *Scope {
	return &Scope{session: s.session, inner: inner, depth: s.depth, name: s.name}
}

// Log writes a line to the query's log. level is one of the Level constants.
func (s *Scope) Log(level, format string, args ...any) {
	s.session.log.add(level, fmt.Sprintf(format, args...))
}

// LogAlways is Log without dropping repeated messages.
func (s *Scope) LogAlways(level, format string, args ...any) {
	s.session.log.send(level, fmt.Sprintf(format, args...))
}

// Lookup returns the variable of a name, with stored expressions evaluated and
// stored queries as they are (see Scope.Query). Nothing is logged when it is
// missing.
func (s *Scope) Lookup(name string) (Value, bool) {
	if s.session.ended.Load() {
		return NULL, false
	}
	v, ok := s.inner.Resolve(name)
	if !ok {
		return NULL, false
	}
	return s.force(s.session.context(), v), true
}

// LookupString returns a variable as a string, "" when it is missing or NULL.
func (s *Scope) LookupString(name string) string {
	v, ok := s.Lookup(name)
	if !ok || IsNull(v) {
		return ""
	}
	return s.String(s.session.context(), v)
}

// LookupInt returns a variable as an integer, reading strings as decimal, or
// otherwise the fallback.
func (s *Scope) LookupInt(name string, fallback int64) int64 {
	v, ok := s.Lookup(name)
	if !ok || IsNull(v) {
		return fallback
	}
	if i, ok := toInt(v); ok {
		return i
	}
	if text, ok := v.(string); ok {
		if i, ok := parseInt(text); ok {
			return i
		}
	}
	return fallback
}

// Charge charges one op: it may sleep to keep to the session's limits and those of
// the query() that ctx belongs to, and returns an error when the query has to stop.
// The error is to be returned.
func (s *Scope) Charge(ctx context.Context) error {
	if err := ownLimits(ctx).hold(ctx); err != nil {
		return err
	}
	return s.session.charge(ctx)
}

// Call calls a function of the engine as a query does, and returns its error instead
// of logging it.
func (s *Scope) Call(ctx context.Context, name string, args *Dict) (Value, error) {
	f, ok := s.session.engine.Function(name)
	if !ok {
		return nil, fmt.Errorf("there is no function %s", name)
	}
	scope := scopeOf(s.inner)
	scope.name, scope.state = name, &stateKey{id: name}
	out, err := (&functionAdapter{function: f, engine: s.session.engine}).run(ctx, scope, args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// Cache returns what the session's primitives keep until the root scope closes.
func (s *Scope) Cache() *Cache { return &s.session.cache }

// OnClose runs f when this scope closes, last in first out: for a primitive, when
// the query or row that called it ends. A scope that is closed already hands f to
// the root scope.
func (s *Scope) OnClose(f func()) {
	if s.inner.IsClosed() || s.inner.AddDestructor(s.session.guarded(f)) != nil {
		s.OnRootClose(f)
	}
}

// OnRootClose runs f when the session's root scope closes.
func (s *Scope) OnRootClose(f func()) { s.session.onClose(f) }

// Child returns a scope with vars on top of this one's. The caller closes it.
func (s *Scope) Child(vars *Dict) *Scope {
	inner := s.inner.Copy()
	if vars != nil {
		inner.AppendVars(vars)
	}
	return s.with(inner)
}

// ChildRow is Child with any row, a dict or an object with members, on top.
func (s *Scope) ChildRow(row Value) *Scope {
	inner := s.inner.Copy()
	if !IsNull(row) {
		inner.AppendVars(row)
	}
	return s.with(inner)
}

// Clean returns a scope that sees none of this one's variables but env, with the
// session's services, limits, cache and log: what a called artifact runs in. The
// caller closes it.
func (s *Scope) Clean(env *Dict) *Scope {
	inner := s.session.engine.newInner(s.session, env)
	inner.SetContext(homeKey, &home{session: s.session, depth: s.depth + 1})
	return &Scope{session: s.session, inner: inner, depth: s.depth + 1, name: s.name, isClean: true}
}

// Set adds a variable to this scope, visible to it and to children made later.
func (s *Scope) Set(name string, v Value) { s.inner.AppendVars(NewDict().Set(name, v)) }

// Close ends the scope: children first, then its OnClose functions. Closing the
// root scope ends the session.
func (s *Scope) Close() {
	if s.inner == s.session.root {
		s.session.end(ErrClosed)
		s.inner.Close()
		s.session.close()
		return
	}
	closed := s.inner.IsClosed()
	s.inner.Close()
	if s.isClean && !closed {
		s.session.keepCounters(s.inner)
	}
}

// Allowed returns a *PermissionError unless the session may use permission.
func (s *Scope) Allowed(permission string) error {
	if permission == "" {
		return nil
	}
	p, only := s.session.options.Permissions, s.session.only.Load()
	if (p == nil || p.Allowed(permission)) && (only == nil || slices.Contains(*only, permission)) {
		return nil
	}
	return &PermissionError{Permission: permission}
}

// Restrict leaves the session, of the permissions it has, only those named; nil
// gives all of them back. It never adds one.
func (s *Scope) Restrict(permissions []string) {
	if permissions == nil {
		s.session.only.Store(nil)
		return
	}
	only := slices.Clone(permissions)
	s.session.only.Store(&only)
}

// Engine returns the engine, for primitives that report on primitives.
func (s *Scope) Engine() *Engine { return s.session.engine }

// ArtifactDepth returns how many artifact calls are above this scope.
func (s *Scope) ArtifactDepth() int { return s.depth }

// Session returns the options the session was made with; read only.
func (s *Scope) Session() *SessionOptions { return &s.session.options }

// Stats returns the session's counters so far.
func (s *Scope) Stats() Stats { return s.session.counters() }

// Location returns the zone of times: the variable TZ, else the session's.
func (s *Scope) Location() *time.Location {
	if name := s.LookupString("TZ"); name != "" {
		if loc, ok := s.session.zone(name); ok {
			return loc
		}
	}
	if loc := s.session.options.Location; loc != nil {
		return loc
	}
	return time.UTC
}

// State keeps one value per call site and aggregate context (group, or query
// without GROUP BY), for aggregate functions: modify gets the old value, nil at
// first, and returns the new one, which State returns. It runs under a lock and
// must not evaluate queries.
func (s *Scope) State(modify func(old Value) Value) Value {
	key := s.name
	if s.state != nil {
		key = s.state.id
	}
	return s.inner.GetAggregatorCtx().Modify(key, func(old types.Any, ok bool) types.Any {
		if !ok {
			old = nil
		}
		return modify(old)
	})
}

// Cache keeps values by key for the life of a session.
type Cache struct {
	mu      sync.Mutex
	entries map[any]*cacheEntry
}

var errMaker = errors.New("making the cached value panicked")

type cacheEntry struct {
	once  sync.Once
	value any
	err   error
}

// Get returns the value of key, making it on first use; callers of the same key
// wait for one maker. An error is returned to all of them and not kept.
func (c *Cache) Get(key any, maker func() (any, error)) (any, error) {
	c.mu.Lock()
	if c.entries == nil {
		c.entries = map[any]*cacheEntry{}
	}
	e, ok := c.entries[key]
	if !ok {
		e = &cacheEntry{}
		c.entries[key] = e
	}
	c.mu.Unlock()
	e.once.Do(func() {
		e.err = errMaker // stays when the maker panics
		e.value, e.err = maker()
	})
	if e.err != nil {
		c.drop(key, e)
	}
	return e.value, e.err
}

// Set keeps a value; nil forgets the key.
func (c *Cache) Set(key, value any) {
	e := &cacheEntry{value: value}
	e.once.Do(func() {})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[any]*cacheEntry{}
	}
	if value == nil {
		delete(c.entries, key)
		return
	}
	c.entries[key] = e
}

func (c *Cache) drop(key any, e *cacheEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[key] == e {
		delete(c.entries, key)
	}
}

// levelOf splits the level prefix off a message.
func levelOf(message string) (level, text string) {
	for _, l := range []string{LevelError, LevelWarn, LevelInfo, LevelDebug, LevelAlert, LevelDefault} {
		if rest, ok := strings.CutPrefix(message, l+":"); ok {
			return l, strings.TrimSpace(rest)
		}
	}
	return LevelDefault, message
}
