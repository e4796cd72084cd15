package monitoring

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"raptorpack/flows"
	"raptorpack/internal/retry"
	"raptorpack/vql"
)

const (
	// minRound is how long a round lasts at least while events trickle: each is an
	// entry of the ledger.
	minRound = time.Second

	// settleWithin is how long a statement may go on when what it watches has ended.
	settleWithin = 10 * time.Second

	flushEvery = time.Second
	lastFlush  = 2 * time.Second // for what a query that is told to end has left
)

// restarts is how long a query that ended waits before it is begun again.
var restarts = retry.Policy{First: time.Second, Cap: time.Minute}

// healthyAfter is how long a query has to run for its failures to be forgotten.
const healthyAfter = 5 * time.Minute

var (
	errEnded   = errors.New("the query ended by itself")
	errPanic   = errors.New("panic")
	errSettled = errors.New("the statement does not end with what it watches")
)

func artifactOf(name string) string {
	artifact, _, _ := strings.Cut(name, "/")
	return artifact
}

// query is one source of an artifact, from its beginning to its end.
type query struct {
	t     *term
	r     *Runner
	plan  plan
	rows  *sink // of what it makes
	lines *sink // of its log

	watched *watched
}

func newQuery(t *term, p plan) *query {
	q := &query{t: t, r: t.r, plan: p}
	q.rows, q.lines = newSink(q, false), newSink(q, true)
	q.watched = newWatched(q)
	return q
}

// run runs the query until ctx ends, and begins it again whenever it ends.
func (q *query) run(ctx context.Context) {
	defer q.watched.close()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
		defer cancel()
		q.flush(last)
	}()
	log := q.r.log.With("artifact", q.plan.key.name)
	log.Info("server event query begins", "principal", q.plan.principal)
	for failures := 1; ; failures++ {
		begun := time.Now()
		err := q.life(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > healthyAfter {
			failures = 1
		}
		pause := restarts.Pause(failures)
		q.note(vql.LevelError, fmt.Sprintf("%v; it begins again in %v", err, pause.Round(time.Second)))
		q.flush(ctx)
		log.Warn("server event query is begun again", "err", err, "after", pause)
		q.r.metrics.restarts.Inc()
		q.watched.close() // a round that failed is worked off again
		if !retry.Sleep(ctx, pause) {
			return
		}
	}
}

// life runs the query in one session until it ends, with the reason.
func (q *query) life(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
			q.r.log.Error("server event query panicked", "artifact", q.plan.key.name, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	o := q.r.o.Session(q.plan.key.org, q.plan.principal, q.watched)
	o.Env = vql.NewDict()
	for _, e := range q.plan.args.GetEnv() {
		o.Env.Set(e.GetKey(), e.GetValue())
	}
	o.Log = q.note
	scope := q.r.o.Engine.NewScope(o)
	defer scope.Close()
	stop := q.flushing(ctx)
	defer stop()
	last, err := q.prepare(ctx, scope)
	if err != nil {
		return err
	}
	if last == nil {
		<-ctx.Done() // its precondition does not hold here; a change of the table asks again
		return ctx.Err()
	}
	for {
		began := time.Now()
		more, err := q.round(ctx, scope, last)
		if err != nil {
			return err
		}
		if left := minRound - time.Since(began); !more && left > 0 && !retry.Sleep(ctx, left) {
			return ctx.Err()
		}
	}
}

// prepare runs all statements but the last, and returns that; nil when the
// precondition gave no row.
func (q *query) prepare(ctx context.Context, scope *vql.Scope) (*vql.Statement, error) {
	if text := q.plan.args.GetPrecondition(); text != "" {
		program, err := vql.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("precondition: %w", err)
		}
		met := false
		if err := scope.RunProgram(ctx, program, func(*vql.Dict) error { met = true; return nil }); err != nil {
			return nil, fmt.Errorf("precondition: %w", err)
		}
		if !met {
			q.note(vql.LevelInfo, "Query skipped: its precondition gave no row.")
			return nil, nil
		}
	}
	var last *vql.Statement
	for _, request := range q.plan.args.GetQuery() {
		program, err := vql.Parse(request.GetVql())
		if err != nil {
			return nil, err
		}
		for _, statement := range program.Statements() {
			if last != nil {
				if err := scope.Run(ctx, last, nobodys); err != nil {
					return nil, err
				}
			}
			last = statement
		}
	}
	return last, nil
}

// nobodys takes the rows of a statement whose result has no name.
func nobodys(*vql.Dict) error { return nil }

// round runs the last statement once. It returns whether more events wait already.
func (q *query) round(ctx context.Context, scope *vql.Scope, last *vql.Statement) (more bool, err error) {
	r := q.watched.begin()
	child := scope.Child(nil)
	defer child.Close()
	running, cut := context.WithCancelCause(context.WithValue(ctx, roundKey{}, r))
	defer cut(nil)
	ended := make(chan struct{}) // closed when the statement has ended
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-r.closing:
		case <-ended:
			return
		}
		timer := time.NewTimer(settleWithin)
		defer timer.Stop()
		select {
		case <-timer.C:
			cut(errSettled)
		case <-ended:
		}
	}()
	err = child.Run(running, last, q.rows.add(child))
	close(ended)
	<-watching
	if errors.Is(err, errSettled) {
		q.r.metrics.cut.Inc()
		q.note(vql.LevelWarn, err.Error()+": it is begun anew")
		err = nil
	}
	if err != nil || ctx.Err() != nil {
		q.rows.drop()
		return false, errors.Join(err, ctx.Err())
	}
	read := r.end()
	if read == nil {
		if err := q.rows.flush(ctx); err != nil {
			return false, err
		}
		return false, errEnded
	}
	if err := q.rows.finish(ctx, read); err != nil {
		return false, err
	}
	q.r.metrics.rounds.Inc()
	q.r.metrics.events.Add(float64(read.Events))
	q.told(read)
	return r.more(), nil
}

// told notes a place that is durable.
func (q *query) told(read *flows.ServerRead) {
	q.t.keep(q.placeKey(), flows.ServerPlace{Round: read.Round, Places: read.Places})
}

func (q *query) placeKey() placeKey { return placeKey{q.plan.key, q.plan.added} }

// read is the fact that a query's next round has come so far.
func (q *query) read(places map[string]string, events int64) *flows.ServerRead {
	return &flows.ServerRead{
		Org: q.plan.key.org, Query: q.plan.key.name, Added: q.plan.added, Round: q.t.place(q.placeKey()).Round + 1,
		Places: places, Events: events,
	}
}

// note takes a line of the query's log.
func (q *query) note(level, message string) {
	line := vql.NewDict().Set("client_time", time.Now().Unix()).Set("level", level).Set("message", message)
	if !q.lines.take(vql.AppendJSON(nil, line)) {
		q.r.metrics.logLost.Inc()
	}
}

// flushing stores the log, and rows that are of no event, each second, until the
// returned function is called.
func (q *query) flushing(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				q.flush(ctx)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// flush stores what may be stored by itself. What cannot be is kept, and told when
// the query ends.
func (q *query) flush(ctx context.Context) {
	_ = q.rows.flush(ctx) // these only end with ctx
	_ = q.lines.flush(ctx)
}
