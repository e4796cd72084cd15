package vql

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

func eventPlugins() []*Plugin {
	return []*Plugin{
		NewPlugin(Spec{Name: "clock", Doc: "A row each period.", Columns: clockColumns}, clockPlugin),
		NewPlugin(Spec{Name: "diff", Doc: "Runs a query each period and reports rows added and removed.", Columns: []string{"Diff"}}, diffPlugin),
		NewPlugin(Spec{Name: "delay", Doc: "Holds each row for a number of seconds."}, delayPlugin),
	}
}

var clockColumns = []string{
	"Unix", "UnixNano", "UTC", "Year", "Month", "Day", "Hour", "Minute", "Second", "YearDay", "Weekday", "Zone", "String",
}

type clockArgs struct {
	Start  Value `vql:"start" doc:"When to begin."`
	Period int64 `vql:"period" doc:"Seconds between rows (1)."`
	MS     int64 `vql:"ms" doc:"Milliseconds between rows."`
}

func clockPlugin(ctx context.Context, scope *Scope, args *clockArgs, emit Emit) error {
	period := time.Duration(args.Period)*time.Second + time.Duration(args.MS)*time.Millisecond
	if period <= 0 {
		period = time.Second
	}
	if args.Start != nil && !IsNull(args.Start) {
		start, ok := scope.Time(args.Start)
		if !ok {
			return errors.New("start is no time")
		}
		if err := scope.wait(ctx, time.Until(start)); err != nil {
			return err
		}
	}
	for {
		if err := scope.wait(ctx, period); err != nil {
			return err
		}
		if err := emit(clockRow(time.Now())); err != nil {
			return err
		}
	}
}

func clockRow(t time.Time) *Dict {
	t = t.Round(0) // without the reading of the monotonic clock, which String would show
	zone, _ := t.Zone()
	return NewDict().Set("Unix", t.Unix()).Set("UnixNano", t.UnixNano()).Set("UTC", t.UTC()).
		Set("Year", int64(t.Year())).Set("Month", int64(t.Month())).Set("Day", int64(t.Day())).
		Set("Hour", int64(t.Hour())).Set("Minute", int64(t.Minute())).Set("Second", int64(t.Second())).
		Set("YearDay", int64(t.YearDay())).Set("Weekday", int64(t.Weekday())).
		Set("Zone", zone).Set("String", t.String())
}

type diffArgs struct {
	Query  Query  `vql:"query,required" doc:"The query."`
	Key    string `vql:"key,required" doc:"The column that tells rows apart."`
	Period int64  `vql:"period" doc:"Seconds between runs (60)."`
}

func diffPlugin(ctx context.Context, scope *Scope, args *diffArgs, emit Emit) error {
	period := time.Duration(args.Period) * time.Second
	if period <= 0 {
		period = time.Minute
	}
	before := &keyedRows{}
	for {
		now, err := scope.keyed(ctx, args.Query, args.Key)
		if err != nil {
			return err
		}
		if err := emitDiff(before, now, emit); err != nil {
			return err
		}
		before = now
		if err := scope.wait(ctx, period); err != nil {
			return err
		}
	}
}

// keyedRows are a query's rows by key, the last of each, in order.
type keyedRows struct {
	order []string
	byKey map[string]*Dict
}

func (s *Scope) keyed(ctx context.Context, q Query, column string) (*keyedRows, error) {
	out := &keyedRows{byKey: map[string]*Dict{}}
	err := q.Run(ctx, s, func(row Value) error {
		d := s.Row(ctx, row)
		v, ok := d.Get(column)
		if !ok {
			return fmt.Errorf("the query has no column %s", column)
		}
		key := s.String(ctx, v)
		if _, old := out.byKey[key]; !old {
			out.order = append(out.order, key)
		}
		out.byKey[key] = d
		return nil
	})
	return out, err
}

func emitDiff(before, now *keyedRows, emit Emit) error {
	for _, key := range now.order {
		if _, old := before.byKey[key]; old {
			continue
		}
		if err := emit(withColumn(now.byKey[key], "Diff", "added")); err != nil {
			return err
		}
	}
	for _, key := range before.order {
		if _, still := now.byKey[key]; still {
			continue
		}
		if err := emit(withColumn(before.byKey[key], "Diff", "removed")); err != nil {
			return err
		}
	}
	return nil
}

func withColumn(row *Dict, name string, v Value) *Dict {
	out := NewDict()
	out.MergeFrom(row)
	return out.Set(name, v)
}

type delayArgs struct {
	Query  Query `vql:"query,required" doc:"The rows."`
	Delay  int64 `vql:"delay,required" doc:"Seconds."`
	Buffer int64 `vql:"buffer_size" doc:"Rows held at most (1000)."`
}

// maxDelayed bounds the rows that one delay holds.
const maxDelayed = 100_000

type delayedRow struct {
	row Value
	due time.Time
}

func delayPlugin(ctx context.Context, scope *Scope, args *delayArgs, emit Emit) error {
	size := args.Buffer
	if size <= 0 {
		size = 1000
	}
	size = min(size, maxDelayed)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	held := make(chan delayedRow, size) // full: the source waits
	wait := time.Duration(args.Delay) * time.Second
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var failed error
	wg.Go(func() {
		defer close(held)
		defer scope.session.recovered("delay")
		failed = args.Query.Run(ctx, scope, func(row Value) error {
			select {
			case held <- delayedRow{row: row, due: time.Now().Add(wait)}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for h := range held {
		if err := scope.wait(ctx, time.Until(h.due)); err != nil {
			return err
		}
		if err := emit(h.row); err != nil {
			return err
		}
	}
	return failed
}

type generateArgs struct {
	Name        string `vql:"name" doc:"A name to share it by."`
	Query       Query  `vql:"query" doc:"The query; without it the source of that name."`
	Delay       int64  `vql:"delay" doc:"Milliseconds to wait for readers (100)."`
	FileBuffer  bool   `vql:"with_file_buffer" doc:"Not needed here: slow readers hold the source back."`
	FanOut      int64  `vql:"fan_out" doc:"Readers to wait for."`
	Description string `vql:"description" doc:"For people."`
}

type sourceKey string

func generateFunction(_ context.Context, scope *Scope, args *generateArgs) (Value, error) {
	delay := time.Duration(args.Delay) * time.Millisecond
	if delay <= 0 {
		delay = 100 * time.Millisecond
	}
	build := func() (any, error) {
		if !args.Query.Given() {
			return nil, fmt.Errorf("there is no source named %s", args.Name)
		}
		src := &source{scope: scope, query: args.Query, delay: delay, fanOut: int(args.FanOut), ready: make(chan struct{})}
		return src, nil
	}
	if args.Name == "" {
		return build()
	}
	return scope.Cache().Get(sourceKey(args.Name), build)
}

// source runs a query once for all its readers. It starts with the first reader,
// after the delay or when enough readers have come.
type source struct {
	scope  *Scope
	query  Query
	delay  time.Duration
	fanOut int

	mu      sync.Mutex
	begun   bool
	ended   bool
	full    bool
	ready   chan struct{} // closed when fanOut readers have come
	readers []*sourceReader
}

type sourceReader struct {
	rows chan Value      // a few rows; full: the source waits for the slowest reader
	gone context.Context //nolint:containedctx // tells the source that the reader left
}

// Eval implements the engine's stored query: one more reader.
func (s *source) Eval(ctx context.Context, inner types.Scope) <-chan types.Row {
	reader := &sourceReader{rows: make(chan Value, 16), gone: ctx}
	if !s.join(ctx, reader) {
		return generate(ctx, inner, func(Emit) error { return nil })
	}
	return generate(ctx, inner, func(emit Emit) error {
		for {
			select {
			case row, ok := <-reader.rows:
				if !ok {
					return nil
				}
				if err := emit(row); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

func (s *source) join(ctx context.Context, r *sourceReader) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.readers = append(s.readers, r)
	if s.fanOut > 0 && len(s.readers) >= s.fanOut && !s.full {
		s.full = true
		close(s.ready)
	}
	if s.begun {
		return true
	}
	if !s.scope.session.begin() {
		return false
	}
	s.begun = true
	go s.run(s.scope.session.lifeOf(ctx))
	return true
}

func (s *source) run(ctx context.Context) {
	defer s.scope.session.running.Done()
	defer s.finish()
	defer s.scope.session.recovered("generate")
	timer := time.NewTimer(s.delay)
	defer timer.Stop()
	select {
	case <-s.ready:
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	if err := s.query.Run(ctx, s.scope, func(row Value) error { return s.send(ctx, row) }); err != nil {
		s.scope.fail(ctx, "generate", err)
	}
}

func (s *source) send(ctx context.Context, row Value) error {
	s.mu.Lock()
	readers := append([]*sourceReader(nil), s.readers...)
	s.mu.Unlock()
	for _, r := range readers {
		select {
		case r.rows <- row:
		case <-r.gone.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

func (s *source) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, r := range s.readers {
		close(r.rows)
	}
	s.readers = nil
}
