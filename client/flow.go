package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// Flow timing when neither request nor configuration say (client protocol 3.10).
const (
	defaultLogBatch   = 5 * time.Second
	smallestLogBatch  = 100 * time.Millisecond // stock servers send 2 ms by mistake
	defaultFlowUpdate = 5 * time.Second
)

// stopped is why a flow's queries were ended by the flow. To the engine it is
// a cancellation, so that it says nothing; the flow says it once.
type stopped string

func (s stopped) Error() string { return string(s) }

// Is makes stopped a context.Canceled.
func (s stopped) Is(target error) bool { return target == context.Canceled } //nolint:errorlint // that is the test

// errTraceOver ends trace queries with their collection, which is their way to
// end well.
const errTraceOver = stopped("collection is over")

// errFlowCancelled has the text that the protocol gives to a cancelled query.
const errFlowCancelled = stopped("Cancelled")

// flow is one running collection.
type flow struct {
	runner  *runner
	id      string
	record  flowRecord // as the journal had it when this run began; not changed
	request *wirepb.FlowRequest
	resume  *wirepb.ResumeTransactions // instead of request
	log     *logSink
	started time.Time

	cancel  context.CancelCauseFunc // ends the queries, not the reporting
	rows    atomic.Int64
	bytes   atomic.Int64 // of uploads
	uploads *uploadBook

	mu      sync.Mutex
	queries []*query // those that have started, in start order
	carried []*wirepb.VeloStatus
	waiting int    // queries that have rows to see again before they are new
	sent    uint64 // number of the last progress message in the buffer
}

// newFlow prepares a run of the flow that record describes.
func newFlow(r *runner, record flowRecord) (*flow, error) {
	f := &flow{runner: r, id: record.ID, record: record, request: &wirepb.FlowRequest{}}
	if record.Resume != nil {
		f.resume = &wirepb.ResumeTransactions{}
		if err := proto.Unmarshal(record.Resume, f.resume); err != nil {
			return nil, fmt.Errorf("request of %s: %w", f.id, err)
		}
		f.request.MaxUploadBytes, f.request.Compression = f.resume.GetMaxUploadBytes(), f.resume.GetCompression()
		f.carried = f.resume.GetQueryStats()
	} else if err := proto.Unmarshal(record.Request, f.request); err != nil {
		return nil, fmt.Errorf("request of %s: %w", f.id, err)
	}
	f.started = time.Now()
	f.log = newLogSink(r.buffer, f.id, record.Logs, f.request.GetMaxLogs(), f.request.GetLogErrorRegex())
	f.uploads = newUploadBook(record.Uploads)
	for _, u := range record.Uploads {
		f.bytes.Add(u.Offset)
	}
	for _, q := range record.Queries {
		for _, p := range q.Names {
			f.rows.Add(p.Rows)
		}
	}
	return f, nil
}

// run takes the flow to its end, or returns early when ctx ends: then the
// journal still has it, and the next start of the agent runs it again.
func (f *flow) run(ctx, queries context.Context) {
	defer f.cancel(nil)

	over := make(chan struct{})
	var ticker sync.WaitGroup
	ticker.Go(func() { f.tick(ctx, over) })
	err := f.work(ctx, queries)
	close(over)
	ticker.Wait()
	if ctx.Err() != nil {
		return
	}
	f.end(ctx, err)
}

// work runs the queries; an error is one of the flow as a whole.
func (f *flow) work(life, ctx context.Context) error {
	if f.record.Cancelled > 0 {
		return errFlowCancelled
	}
	release, err := f.runner.slot(ctx, f.record.Urgent)
	if err != nil {
		return context.Cause(ctx)
	}
	defer release()
	if err := f.mayRun(ctx); err != nil {
		return err
	}
	trace, endTrace := context.WithCancelCause(ctx)
	defer endTrace(nil)
	var all, traces sync.WaitGroup
	var queries []*query // all are entered before the first one runs
	for i, args := range f.request.GetVqlClientActions() {
		queries = append(queries, f.start(life, i, args))
	}
	for i, args := range f.request.GetTrace() {
		q := f.start(life, len(queries)+i, args)
		traces.Go(func() { q.run(trace) })
	}
	for _, q := range queries {
		all.Go(func() { q.run(ctx) })
	}
	if f.resume != nil {
		q := f.start(life, 0, &wirepb.VQLCollectorArgs{Timeout: f.resume.GetTimeout()})
		all.Go(func() { q.resume(ctx, f.resume.GetTransactions()) })
	}
	all.Wait()
	endTrace(errTraceOver)
	traces.Wait()
	return context.Cause(ctx)
}

// mayRun judges whether another run makes sense and notes that it begins.
func (f *flow) mayRun(ctx context.Context) error {
	next := f.record
	next.run()
	if next.Futile >= f.runner.options.MaxFutileRuns || next.Short >= f.runner.options.MaxShortRuns {
		return fmt.Errorf("interrupted %d times without progress", max(next.Futile, next.Short))
	}
	if err := f.runner.buffer.note(ctx, flowEvent{Op: opRun, Flow: f.id}); err != nil {
		return err
	}
	if f.record.Runs > 0 {
		f.runner.metric.reruns.Inc()
		_, err := f.log.add(ctx, "", vql.LevelInfo,
			fmt.Sprintf("The agent was interrupted; run %d of this collection continues where the last ended.", next.Runs))
		return err
	}
	return nil
}

// start makes a query and enters it into the statistics.
func (f *flow) start(life context.Context, index int, args *wirepb.VQLCollectorArgs) *query {
	q := newQuery(life, f, index, args)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queries = append(f.queries, q)
	if q.mustCatchUp() {
		f.waiting++
	}
	return q
}

// caughtUp is called once by each query that had rows to see again.
func (f *flow) caughtUp(ctx context.Context) error {
	f.mu.Lock()
	f.waiting--
	last := f.waiting == 0
	f.mu.Unlock()
	if !last {
		return nil
	}
	return f.runner.buffer.note(ctx, flowEvent{Op: opCaught, Flow: f.id})
}

// allow counts rows against the flow's limit. Rows seen again count once: they
// were counted from the journal.
func (f *flow) allow(n int64) error {
	total := f.rows.Add(n)
	limit := f.request.GetMaxRows()
	if limit == 0 || uint64(total) <= limit {
		return nil
	}
	f.rows.Add(-n)
	err := stopped(fmt.Sprintf("Rows %d exceeded limit %d", total, limit))
	f.stop(err)
	return err
}

// allowBytes counts upload bytes against the flow's limit.
func (f *flow) allowBytes(n int64) error {
	total := f.bytes.Add(n)
	limit := f.request.GetMaxUploadBytes()
	if limit == 0 || uint64(total) <= limit {
		return nil
	}
	f.bytes.Add(-n)
	err := stopped(fmt.Sprintf("Upload bytes %d exceeded limit %d", total, limit))
	f.stop(err)
	return err
}

// stop ends the flow's queries with a cause.
func (f *flow) stop(cause error) { f.cancel(cause) }

// tick flushes logs and waiting rows and reports progress until the queries are
// over. What it puts is not cut off by that. It also runs while the flow waits
// for its slot: then it reports that no query has started.
func (f *flow) tick(ctx context.Context, over <-chan struct{}) {
	batch := time.Duration(min(f.request.GetLogBatchTime(), 3_600_000)) * time.Millisecond
	if batch == 0 {
		batch = defaultLogBatch
	}
	update := time.Duration(min(f.request.GetFlowUpdateTime(), 3600)) * time.Second
	if update == 0 {
		update = f.runner.options.FlowUpdate
	}
	ticker := time.NewTicker(max(batch, smallestLogBatch))
	defer ticker.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case now := <-ticker.C:
			err := f.log.flush(ctx)
			if err == nil && now.Sub(last) >= update {
				last, err = now, f.progress(ctx)
			}
			for _, q := range f.running() {
				if err == nil {
					err = q.tick(ctx, now)
				}
			}
			if err != nil && ctx.Err() == nil {
				// A buffer that broke ends the agent's Run, which tells it.
				f.runner.logger.Debug("flow cannot report progress", "flow", f.id, "err", err)
			}
		}
	}
}

func (f *flow) running() []*query {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*query(nil), f.queries...)
}

// progress puts the statistics, unless the last ones still wait: an agent that
// is offline for a week needs one of them, not a hundred thousand.
func (f *flow) progress(ctx context.Context) error {
	f.mu.Lock()
	sent := f.sent
	f.mu.Unlock()
	if sent > 0 && !f.runner.buffer.done(sent) {
		return nil
	}
	number, err := f.runner.buffer.putNumbered(ctx, mark{Flow: f.id, Kind: markStats}, f.statsMessage(f.stats(false)))
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = number
	return nil
}

// stats gives the present statistics.
func (f *flow) stats(complete bool) *wirepb.FlowStats {
	s := &wirepb.FlowStats{FlowComplete: complete}
	s.QueryStatus = append(s.QueryStatus, f.carried...)
	for _, q := range f.running() {
		s.QueryStatus = append(s.QueryStatus, q.status.snapshot(q.began))
		s.TransactionsOutstanding += uint64(q.uploads.outstanding())
	}
	return s
}

func (f *flow) statsMessage(s *wirepb.FlowStats) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: f.id, RequestId: requestStats, FlowStats: s}
}

// end puts the rest of the log and the final statistics, in this order: a
// server that has seen the end has seen everything.
func (f *flow) end(ctx context.Context, cause error) {
	if cause != nil {
		f.explain(ctx, cause)
	}
	err := f.log.flush(ctx)
	final := f.stats(true)
	if cause != nil && len(final.QueryStatus) == 0 {
		final.QueryStatus = []*wirepb.VeloStatus{{
			Status: wirepb.VeloStatus_GENERIC_ERROR, ErrorMessage: shortText(cause.Error(), maxErrorText),
			FirstActive: uint64(f.record.Accepted.UnixMicro()), LastActive: uint64(time.Now().UnixMicro()),
		}}
	}
	outcome := "completed"
	for i, s := range final.QueryStatus {
		if s.Status == wirepb.VeloStatus_PROGRESS { // carried from before a resume
			final.QueryStatus[i] = proto.Clone(s).(*wirepb.VeloStatus)
			final.QueryStatus[i].Status = wirepb.VeloStatus_OK
		}
		if s.Status == wirepb.VeloStatus_GENERIC_ERROR {
			outcome = "errored"
		}
	}
	if err == nil {
		err = f.runner.buffer.put(ctx, mark{Flow: f.id, Kind: markStats, Final: true}, f.statsMessage(final))
	}
	if err != nil {
		f.runner.logger.Warn("flow ended but its end is not in the buffer", "flow", f.id, "err", err)
		return
	}
	f.runner.metric.flows.WithLabelValues(outcome).Inc()
	f.runner.logger.Info("flow ended", "flow", f.id, "outcome", outcome, "rows", f.rows.Load(), "took", time.Since(f.started))
}

// explain writes the one line that says why the flow ended early.
func (f *flow) explain(ctx context.Context, cause error) {
	level, text := vql.LevelError, cause.Error()
	if errors.Is(cause, errFlowCancelled) {
		level, text = vql.LevelDefault, "Cancelled all in-flight queries for flow "+f.id
	}
	if _, err := f.log.add(ctx, "", level, text); err != nil {
		f.runner.logger.Debug("flow cannot log its end", "flow", f.id, "err", err)
	}
}
