package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"raptorpack/internal/retry"
	"raptorpack/vql"
)

const (
	maxForwardThreads    = 32
	maxForwardRows       = 100_000
	defaultForwardBuffer = 32 << 20
	minForwardBuffer     = 64 << 10
	// rowOverhead is what a held row costs beside its bytes.
	rowOverhead = 64
	// forwardLinger is how long the rows that are held may still be posted after the
	// query was cancelled.
	forwardLinger = 5 * time.Second
	// defaultForwardRetries outlast a target's restart, some seven to fourteen
	// minutes; the query's own time is the other bound.
	defaultForwardRetries = 18
)

// forwardTarget is where rows are posted to. Its methods are called by several
// goroutines at once, encode by the query's own.
type forwardTarget interface {
	// encode gives the bytes of one row as the target wants it.
	encode(ctx context.Context, scope *vql.Scope, row *vql.Dict) ([]byte, error)
	// post makes one attempt. The rows are not kept.
	post(ctx context.Context, rows [][]byte) forwardAnswer
	// row says what became of a batch.
	row(o *forwardOutcome) *vql.Dict
}

// forwardAnswer is what one attempt came to: rows that are in neither again nor
// refused are delivered.
type forwardAnswer struct {
	status  int
	text    string        // what the target said
	again   [][]byte      // rows that are worth another attempt
	refused int           // rows that the target will never take
	reason  string        // why rows are in again or refused
	after   time.Duration // what the target asks us to wait
	large   bool          // the rows in again are too many for one post
}

// answerFor reads an attempt that all rows of a post share their fate in.
func answerFor(r *reply, err error, rows [][]byte) forwardAnswer {
	if err == nil {
		err = r.statusErr()
	}
	var a forwardAnswer
	if r != nil {
		a.status, a.text, a.after = r.status, r.text(), retryAfter(r.header)
	}
	switch {
	case err == nil:
		return a
	case a.status == http.StatusRequestEntityTooLarge && len(rows) > 1:
		a.again, a.large = rows, true
	case passing(err):
		a.again = rows
	default:
		a.refused = len(rows)
	}
	a.reason = err.Error()
	return a
}

// forwardOptions bound one call of a plugin that posts rows. normal sets what is not given.
type forwardOptions struct {
	name       string
	threads    int64
	batchRows  int64
	batchBytes int64
	buffer     int64 // bytes of all rows that are held
	wait       time.Duration
	retries    int64                       // attempts after the first; negative: as long as the query runs
	pause      func(try int) time.Duration // after that many failed attempts
	stats      time.Duration               // pause between lines that tell how far we are; 0: none
}

func (o *forwardOptions) normal() {
	o.threads = min(max(o.threads, 1), maxForwardThreads)
	o.batchRows = min(max(o.batchRows, 1), maxForwardRows)
	if o.buffer <= 0 {
		o.buffer = defaultForwardBuffer
	}
	o.buffer = max(o.buffer, minForwardBuffer)
	o.batchBytes = min(o.batchBytes, o.buffer/2) // so that a batch that still gathers leaves room
	o.wait = max(o.wait, time.Millisecond)
}

// forwardOutcome is what became of a batch.
type forwardOutcome struct {
	rows, lost int // lost is part of rows
	bytes      int64
	status     int
	text       string
	reason     string // why rows were lost
	flush      string // why the batch was sent: count, bytes, time or end
	took       time.Duration
}

// response is the text for the result row: what the target said, and before it how
// many rows it never got.
func (o *forwardOutcome) response() string {
	if o.lost == 0 {
		return o.text
	}
	return fmt.Sprintf("gave up %d of %d rows: %s", o.lost, o.rows, o.reason)
}

// forwarder takes rows of a query to a target: in batches, by several threads, with
// retries, and holding a bounded number of bytes. While the buffer is full the query
// waits. A post whose answer got lost is sent again, so a target may see a row twice;
// a row is never dropped without being counted.
type forwarder struct {
	options forwardOptions
	target  forwardTarget
	scope   *vql.Scope
	room    *semaphore.Weighted // bytes left in the buffer

	rows     chan forwardRow         // hand-over: the query waits until the row is taken
	batches  chan *forwardBatch      // hand-over: a batch is queued until a thread is free
	outcomes chan *forwardOutcome    // hand-over: a thread waits until its row is wanted
	unfit    *forwardOutcome         // rows that never made it into a batch
	stop     context.CancelCauseFunc // ends the query

	mu    sync.Mutex
	total forwardTotal
}

// forwardTotal counts a whole call.
type forwardTotal struct {
	rows, lost, posts int
}

// forward runs the query and posts its rows; each post becomes a row. When ctx ends,
// or nobody wants further rows, the query is stopped and what is held may be posted
// for another forwardLinger.
func forward(ctx context.Context, scope *vql.Scope, options forwardOptions, target forwardTarget, query vql.Query, emit vql.Emit) error {
	options.normal()
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	posting, done := linger(asking, forwardLinger)
	defer done()
	f := &forwarder{
		options: options, target: target, scope: scope, stop: stop,
		room: semaphore.NewWeighted(options.buffer), unfit: &forwardOutcome{flush: "end"},
		rows: make(chan forwardRow), batches: make(chan *forwardBatch), outcomes: make(chan *forwardOutcome),
	}
	var all, threads sync.WaitGroup
	all.Go(f.collect)
	for range options.threads {
		threads.Go(func() { f.work(posting) })
	}
	all.Go(func() { threads.Wait(); close(f.outcomes) })
	all.Go(func() { f.report(emit) })
	defer all.Wait() // also when a row's panic passes through
	err := f.ask(asking, query)
	all.Wait()
	return errors.Join(f.finish(asking, emit), err)
}

// linger gives a context that ends d after ctx. done ends it at once.
func linger(ctx context.Context, d time.Duration) (context.Context, func()) {
	long, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		retry.Sleep(long, d)
		cancel()
	})
	return long, func() {
		unused := stop()
		cancel()
		if !unused {
			<-ended
		}
	}
}

// ask runs the query on the caller's goroutine, where a panic is caught.
func (f *forwarder) ask(ctx context.Context, query vql.Query) error {
	defer close(f.rows)
	err := query.Run(ctx, f.scope, func(row vql.Value) error { return f.take(ctx, row) })
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (f *forwarder) take(ctx context.Context, row vql.Value) error {
	data, err := f.target.encode(ctx, f.scope, f.scope.Row(ctx, row))
	if err != nil {
		f.refuse(err)
		return nil // one bad row does not end the others' way
	}
	held := min(int64(len(data))+rowOverhead, f.options.buffer)
	if !f.room.TryAcquire(held) { // which takes a row that fits also when the query has just ended
		if err := f.room.Acquire(ctx, held); err != nil {
			f.refuse(fmt.Errorf("the query ended while the buffer was full: %w", err))
			return err
		}
	}
	f.rows <- forwardRow{data: data, held: held} // the collector takes rows to the end
	return nil
}

// refuse counts a row that never made it into a batch. Only the query's goroutine
// calls it.
func (f *forwarder) refuse(err error) {
	f.unfit.rows++
	f.unfit.lost++
	f.unfit.reason = err.Error()
}

// ticker tells when it is time for a line of statistics; its channel may be nil.
func (f *forwarder) ticker() (<-chan time.Time, func()) {
	if f.options.stats <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(f.options.stats)
	return t.C, t.Stop
}

func (f *forwarder) tell() {
	t := f.totals()
	f.scope.Log(vql.LevelInfo, "%s: %d rows in %d posts, %d given up", f.options.name, t.rows-t.lost, t.posts, t.lost)
}

func (f *forwarder) totals() forwardTotal {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

func (f *forwarder) work(ctx context.Context) {
	for b := range f.batches {
		begin := time.Now()
		o := &forwardOutcome{rows: len(b.rows), bytes: b.bytes, flush: b.reason}
		f.deliver(ctx, b.rows, o)
		o.took = time.Since(begin)
		f.room.Release(b.held)
		f.outcomes <- o // report reads to the end
	}
}

// deliver posts rows until none is worth another attempt.
func (f *forwarder) deliver(ctx context.Context, rows [][]byte, o *forwardOutcome) {
	for try := int64(1); ; try++ {
		if err := f.scope.Charge(ctx); err != nil {
			f.stop(err) // no further rows; those that are held still go
		}
		a := f.target.post(ctx, rows)
		f.count(func(t *forwardTotal) { t.posts++ })
		o.status, o.text = a.status, a.text
		if o.lost += a.refused; a.refused > 0 {
			o.reason = a.reason
		}
		if rows = a.again; len(rows) == 0 {
			return
		}
		if a.large && len(rows) > 1 {
			f.deliver(ctx, rows[:len(rows)/2], o)
			f.deliver(ctx, rows[len(rows)/2:], o)
			return
		}
		f.scope.Log(vql.LevelDebug, "%s: attempt %d: %s", f.options.name, try, a.reason)
		spent := f.options.retries >= 0 && try > f.options.retries
		if spent || !retry.Sleep(ctx, max(f.options.pause(int(min(try, 1000))), a.after)) {
			o.lost += len(rows)
			o.reason = fmt.Sprintf("%s (after %d attempts)", a.reason, try)
			return
		}
	}
}

func (f *forwarder) count(change func(*forwardTotal)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.total)
}

// report emits a row for each batch. When nobody wants them the query ends, and the
// outcomes are only counted.
func (f *forwarder) report(emit vql.Emit) {
	var ended bool
	for o := range f.outcomes {
		f.note(o)
		if ended {
			continue
		}
		if err := emit(f.target.row(o)); err != nil {
			f.stop(err)
			ended = true
		}
	}
}

// note counts an outcome, and logs the first loss at once: a query may run for ever.
func (f *forwarder) note(o *forwardOutcome) {
	t := f.totals()
	f.count(func(t *forwardTotal) { t.rows += o.rows; t.lost += o.lost })
	if o.lost > 0 && t.lost == 0 {
		f.scope.Log(vql.LevelError, "%s: %s", f.options.name, o.response())
	}
}

// finish tells of rows that never made it into a batch, and how many were lost in all.
func (f *forwarder) finish(ctx context.Context, emit vql.Emit) error {
	var err error
	if f.unfit.lost > 0 {
		f.note(f.unfit)
		if ctx.Err() == nil {
			err = emit(f.target.row(f.unfit))
		}
	}
	t := f.totals()
	level, loss := vql.LevelDebug, ""
	if t.lost > 0 {
		level, loss = vql.LevelError, fmt.Sprintf(", gave up %d", t.lost)
	}
	f.scope.Log(level, "%s: delivered %d rows in %d posts%s", f.options.name, t.rows-t.lost, t.posts, loss)
	return err
}
