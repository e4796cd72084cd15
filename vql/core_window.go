package vql

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

func windowPlugins() []*Plugin {
	return []*Plugin{
		NewPlugin(Spec{Name: "batch", Doc: "Groups rows into rows of one column.", Columns: []string{"rows"}}, batchPlugin),
		NewPlugin(Spec{Name: "fifo", Doc: "The last rows of an event query; each select reads the window."}, fifoPlugin),
		NewPlugin(Spec{Name: "dedup", Doc: "The first row of each key within a time."}, dedupPlugin),
		NewPlugin(Spec{Name: "sequence", Doc: "For each row of an event query, the rows of the last seconds."}, sequencePlugin),
	}
}

type batchArgs struct {
	Query     Query  `vql:"query,required" doc:"The rows."`
	BatchSize int64  `vql:"batch_size" doc:"Rows in a batch (10)."`
	BatchFunc Lambda `vql:"batch_func" doc:"A lambda over the rows; true sends the batch."`
	Timeout   int64  `vql:"timeout" doc:"Seconds after which a batch is sent anyway (3600)."`
}

func batchPlugin(ctx context.Context, scope *Scope, args *batchArgs, emit Emit) error {
	size, timeout := args.BatchSize, time.Duration(args.Timeout)*time.Second
	if size <= 0 && !args.BatchFunc.Given() {
		size = 10
	}
	if timeout <= 0 {
		timeout = time.Hour
	}
	ctx, cancel := context.WithCancel(ctx)
	rows := make(chan Value) // hand-over: the source waits for the batch
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var failed error
	wg.Go(func() {
		defer close(rows)
		defer scope.session.recovered("batch")
		failed = args.Query.Run(ctx, scope, func(row Value) error {
			select {
			case rows <- scope.Row(ctx, row):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	full := func(batch []any) bool {
		return size > 0 && int64(len(batch)) >= size ||
			args.BatchFunc.Given() && scope.Truth(args.BatchFunc.Call(ctx, scope, batch))
	}
	if err := collectBatches(ctx, rows, timeout, full, emit); err != nil {
		return err
	}
	return failed
}

func collectBatches(ctx context.Context, rows <-chan Value, timeout time.Duration, full func([]any) bool, emit Emit) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var batch []any
	send := func() error {
		timer.Reset(timeout)
		if len(batch) == 0 {
			return nil
		}
		out := batch
		batch = nil
		return emit(NewDict().Set("rows", out))
	}
	for {
		select {
		case row, ok := <-rows:
			if !ok {
				return send()
			}
			batch = append(batch, row)
			if !full(batch) {
				continue
			}
			if err := send(); err != nil {
				return err
			}
		case <-timer.C:
			if err := send(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type dedupArgs struct {
	Key     string `vql:"key,required" doc:"The column that tells rows apart."`
	Query   Query  `vql:"query,required" doc:"The rows."`
	Timeout int64  `vql:"timeout" doc:"Seconds a key is remembered (60)."`
	Size    int64  `vql:"size" doc:"Keys remembered (1000)."`
}

func dedupPlugin(ctx context.Context, scope *Scope, args *dedupArgs, emit Emit) error {
	life, size := time.Duration(args.Timeout)*time.Second, int(args.Size)
	if life <= 0 {
		life = time.Minute
	}
	if size <= 0 {
		size = 1000
	}
	seen := newExpiring(size)
	return args.Query.Run(ctx, scope, func(row Value) error {
		v, ok := scope.Member(row, args.Key)
		if !ok {
			v = NULL
		}
		if !seen.add(scope.String(ctx, v), life) {
			return nil
		}
		return emit(row)
	})
}

type fifoArgs struct {
	Query   Query `vql:"query,required" doc:"An event query."`
	MaxAge  int64 `vql:"max_age" doc:"Seconds a row stays (5)."`
	MaxRows int64 `vql:"max_rows" doc:"Rows in the window (10)."`
	Flush   bool  `vql:"flush" doc:"Empty the window when it is read."`
}

type fifoKey struct {
	query         types.StoredQuery
	age, rows     int64
	flushOnSelect bool
}

func fifoPlugin(ctx context.Context, scope *Scope, args *fifoArgs, emit Emit) error {
	if args.MaxAge <= 0 {
		args.MaxAge = 5
	}
	if args.MaxRows <= 0 {
		args.MaxRows = 10
	}
	if live, ok := ctx.Value(liveKey{}).(*liveQuery); ok && live.depth == scope.depth {
		live.reads.Store(true)
	}
	key := fifoKey{args.Query.stored, args.MaxAge, args.MaxRows, args.Flush}
	v, err := scope.Cache().Get(key, func() (any, error) {
		w := &window{age: time.Duration(args.MaxAge) * time.Second, size: int(args.MaxRows)}
		w.ended.Store(true)
		return w, nil
	})
	if err != nil {
		return err
	}
	w, _ := v.(*window)
	if w.ended.CompareAndSwap(true, false) { // or not yet begun
		if err := w.start(scope, args.Query); err != nil {
			return err
		}
	}
	for _, row := range w.read(args.Flush) {
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
}

// liveQuery is a query that is being materialised: whether it reads a window itself,
// not in an artifact that it calls, and so is to be run at each use.
type liveQuery struct {
	depth int
	reads atomic.Bool
}

// liveKey finds it in the context of the query.
type liveKey struct{}

// windowQuery is a materialised query over a window.
type windowQuery struct{ types.StoredQuery }

// Eval implements the engine's stored query. What materialises its rows stays as
// it is then.
func (q *windowQuery) Eval(ctx context.Context, inner types.Scope) <-chan types.Row {
	return q.StoredQuery.Eval(context.WithValue(ctx, liveKey{}, nil), inner)
}

// window holds the last rows of an event query that runs beside it.
type window struct {
	age   time.Duration
	size  int
	ended atomic.Bool // the query does not run

	mu   sync.Mutex
	rows []delayedRow // due is when the row came
}

// start runs the query until the session ends: the statement that made the window
// may be a LET, and others read it.
func (w *window) start(scope *Scope, q Query) error {
	if !scope.session.begin() {
		return ErrClosed
	}
	ctx, cancel := scope.session.apart()
	own := scope.session.ownScope(scope)
	own.inner.SetThrottler(windowThrottler{session: scope.session, ctx: ctx})
	go func() {
		defer scope.session.running.Done()
		defer w.ended.Store(true)
		defer cancel()
		defer own.Close()
		defer scope.session.recovered("fifo")
		err := q.Run(ctx, own, func(row Value) error {
			w.add(own.Row(ctx, row))
			return ctx.Err()
		})
		if err != nil {
			scope.fail(ctx, "fifo", err)
		}
	}()
	return nil
}

// windowThrottler charges a window's query, not the statement that runs.
type windowThrottler struct {
	session *session
	ctx     context.Context //nolint:containedctx // the engine gives none
}

// ChargeOp implements the engine's throttler.
func (t windowThrottler) ChargeOp() {
	if t.session.charge(t.ctx) != nil {
		runtime.Goexit()
	}
}

// Close implements the engine's throttler.
func (t windowThrottler) Close() {}

// ownScope copies a scope so that it lives on when the original closes.
func (s *session) ownScope(scope *Scope) *Scope { return scope.with(scope.inner.Copy()) }

func (w *window) add(row *Dict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rows = append(w.rows, delayedRow{row: row, due: time.Now()})
	w.trim()
}

func (w *window) trim() {
	from := max(0, len(w.rows)-w.size)
	for from < len(w.rows) && time.Since(w.rows[from].due) > w.age {
		from++
	}
	w.rows = append([]delayedRow(nil), w.rows[from:]...)
}

func (w *window) read(flush bool) []Value {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trim()
	out := make([]Value, len(w.rows))
	for i, r := range w.rows {
		out[i] = r.row
	}
	if flush {
		w.rows = nil
	}
	return out
}

type sequenceArgs struct {
	Query  Query `vql:"query,required" doc:"An event query."`
	MaxAge int64 `vql:"max_age" doc:"Seconds a row stays (60)."`
}

// sequencePlugin emits, for each new row, the rows of the window with it.
func sequencePlugin(ctx context.Context, scope *Scope, args *sequenceArgs, emit Emit) error {
	if args.MaxAge <= 0 {
		args.MaxAge = 60
	}
	w := &window{age: time.Duration(args.MaxAge) * time.Second, size: 10_000}
	return args.Query.Run(ctx, scope, func(row Value) error {
		w.add(scope.Row(ctx, row))
		for _, r := range w.read(false) {
			if err := emit(r); err != nil {
				return err
			}
		}
		return nil
	})
}
