package vql

import (
	"context"
	"errors"
	"sync"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

func storeFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "memoize", Doc: "Runs a query and looks its rows up by a key column."}, memoizeFunction),
		NewFunction(Spec{Name: "cache", Doc: "Keeps a function's values by key."}, cacheFunction),
		NewFunction(Spec{Name: "generate", Doc: "Runs a query once for several readers."}, generateFunction),
	}
}

type memoizeArgs struct {
	Query    Query  `vql:"query,required" doc:"The query."`
	Key      string `vql:"key,required" doc:"The column to look up by."`
	Period   int64  `vql:"period" doc:"Seconds after which it runs again (60)."`
	Name     string `vql:"name" doc:"A name to share it by."`
	Filename string `vql:"filename" doc:"Kept in memory here."`
}

func memoizeFunction(_ context.Context, scope *Scope, args *memoizeArgs) (Value, error) {
	period := time.Duration(args.Period) * time.Second
	if period <= 0 {
		period = time.Minute
	}
	if args.Filename != "" {
		scope.Log(LevelWarn, "memoize: filename is not used, rows are kept in memory")
	}
	build := func() (any, error) {
		return &memo{scope: scope, query: args.Query, key: args.Key, period: period}, nil
	}
	if args.Name == "" {
		return build()
	}
	return scope.Cache().Get(memoKey(args.Name), build)
}

type memoKey string

// memo is what memoize gives. M.K and get(item=M, field=K) look rows up.
type memo struct {
	scope  *Scope
	query  Query
	key    string
	period time.Duration

	mu   sync.Mutex
	rows map[string]*Dict
	when time.Time
	busy chan struct{} // closed when the loading goroutine is done; nil when none loads
}

func (m *memo) lookup(ctx context.Context, scope *Scope, key Value) (Value, bool) {
	row, ok := m.load(ctx, scope)[scope.String(ctx, key)]
	if !ok {
		return NULL, false
	}
	return row, true
}

// load returns the rows, running the query when they are old; others wait.
func (m *memo) load(ctx context.Context, scope *Scope) map[string]*Dict {
	for {
		m.mu.Lock()
		if m.rows != nil && time.Since(m.when) < m.period {
			rows := m.rows
			m.mu.Unlock()
			return rows
		}
		if busy := m.busy; busy != nil {
			m.mu.Unlock()
			select {
			case <-busy:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		m.busy = make(chan struct{})
		m.mu.Unlock()
		m.reload(ctx, scope)
	}
}

func (m *memo) reload(ctx context.Context, scope *Scope) {
	rows := map[string]*Dict{}
	without := 0
	defer func() { // also when the goroutine is ended in the middle
		m.mu.Lock()
		m.rows, m.when = rows, time.Now()
		close(m.busy)
		m.busy = nil
		m.mu.Unlock()
	}()
	err := m.query.Run(ctx, scope, func(row Value) error {
		d := scope.Row(ctx, row)
		if key, ok := d.Get(m.key); ok {
			rows[scope.String(ctx, key)] = d
		} else {
			without++
		}
		return nil
	})
	if without > 0 {
		scope.Log(LevelWarn, "memoize: left out %d rows without the column %s", without, m.key)
	}
	if err != nil {
		scope.fail(ctx, "memoize", err)
	}
}

// AddColumn implements the engine's lazy row; it takes none.
func (m *memo) AddColumn(string, func(context.Context, types.Scope) types.Any) types.LazyRow {
	return m
}

// Has reports whether a row has the key.
func (m *memo) Has(key string) bool { _, ok := m.Get(key); return ok }

// Columns lists nothing: a memo prints as {}.
func (m *memo) Columns() []string { return nil }

// Get returns the row of a key, NULL when there is none.
func (m *memo) Get(key string) (types.Any, bool) {
	v, _ := m.lookup(m.scope.session.context(), m.scope, key)
	return v, true
}

type cacheArgs struct {
	Func     Lazy   `vql:"func" doc:"What to evaluate."`
	Lambda   Lambda `vql:"lambda" doc:"What to call with the key."`
	Name     string `vql:"name" doc:"The cache's name."`
	Key      Value  `vql:"key" doc:"The key."`
	Period   int64  `vql:"period" doc:"Seconds a value is kept (60)."`
	Filename string `vql:"filename" doc:"Kept in memory here."`
	MaxSize  int64  `vql:"max_size" doc:"How many values are kept (10000)."`
}

type cacheName string

func cacheFunction(ctx context.Context, scope *Scope, args *cacheArgs) (Value, error) {
	if !args.Func.Given() && !args.Lambda.Given() {
		return nil, errors.New("one of func or lambda is needed")
	}
	if args.Filename != "" {
		scope.Log(LevelWarn, "cache: filename is not used, values are kept in memory")
	}
	size, period := int(args.MaxSize), time.Duration(args.Period)*time.Second
	if size <= 0 {
		size = 10_000
	}
	if period <= 0 {
		period = time.Minute
	}
	v, err := scope.Cache().Get(cacheName(args.Name), func() (any, error) { return newExpiring(size), nil })
	if err != nil {
		return nil, err
	}
	kept, _ := v.(*expiring)
	key := scope.String(ctx, args.Key)
	if value, ok := kept.get(key); ok {
		return value, nil
	}
	value := args.Func.Value(ctx, scope)
	if args.Lambda.Given() {
		value = args.Lambda.Call(ctx, scope, args.Key)
	}
	value = scope.Real(ctx, value)
	kept.set(key, value, period)
	return value, nil
}
