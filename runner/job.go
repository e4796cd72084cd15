package runner

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

const (
	tickEvery      = 2 * time.Second // progress, and rows and log lines that wait
	queriesAtOnce  = 4               // of one flow
	maxErrorText   = 4 << 10         // bytes
	defaultTimeout = 600 * time.Second
)

// job is one flow under way.
type job struct {
	term    *term
	flow    ids.Flow
	request *wirepb.FlowRequest
	cancel  context.CancelCauseFunc
	log     *logBook

	turn chan struct{} // one slot: messages of a flow are delivered one after the other

	mu      sync.Mutex
	status  []*wirepb.VeloStatus // by query; those that have not begun say so
	rows    []*rows              // by query: of the statement that runs; nil: none
	uploads int64                // numbers given so far
}

func newJob(t *term, flow ids.Flow, request *wirepb.FlowRequest, cancel context.CancelCauseFunc) *job {
	j := &job{term: t, flow: flow, request: request, cancel: cancel, turn: make(chan struct{}, 1)}
	j.rows = make([]*rows, len(request.GetVqlClientActions()))
	now := uint64(time.Now().UnixMicro())
	for i := range request.GetVqlClientActions() {
		j.status = append(j.status, &wirepb.VeloStatus{
			Status: wirepb.VeloStatus_PROGRESS, QueryId: int64(i + 1), TotalQueries: int64(len(request.GetVqlClientActions())),
			FirstActive: now, LastActive: now,
		})
	}
	j.log = newLogBook(request.GetMaxLogs(), errorPattern(request.GetLogErrorRegex()))
	return j
}

// run takes the flow to its end. ctx ends with the term, and then nothing is told any
// more: the next master does. life ends also when the flow is cancelled.
func (j *job) run(ctx, life context.Context) {
	// What was taken is durable before anything is begun, and whoever leads by then
	// is this node: no other will ever run it.
	if j.send(ctx, j.message(&wirepb.VeloMessage{FlowStats: j.stats(false)})) != nil || !j.term.leads() {
		return
	}
	j.term.metrics.begun.Inc()
	ticking, stop := context.WithCancel(ctx)
	var ticker sync.WaitGroup
	ticker.Go(func() { j.tick(ticking) })
	j.queries(ctx, life)
	stop()
	ticker.Wait()
	if lost := j.log.lost(); lost > 0 {
		j.term.metrics.lostLines.Add(float64(lost))
		j.term.log.Warn("log lines of a collection on the server found no room", "flow", j.flow.String(), "rows", lost)
	}
	if j.flushLog(ctx) != nil {
		return
	}
	if j.send(ctx, j.message(&wirepb.VeloMessage{FlowStats: j.stats(true)})) == nil {
		j.term.metrics.ended.WithLabelValues(j.outcome()).Inc()
	}
}

func (j *job) outcome() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.status {
		if s.Status != wirepb.VeloStatus_OK {
			return "errored"
		}
	}
	return "completed"
}

func (j *job) queries(ctx, life context.Context) {
	principal, err := j.term.creator(j.flow)
	var all errgroup.Group
	all.SetLimit(queriesAtOnce)
	for i, args := range j.request.GetVqlClientActions() {
		all.Go(func() error {
			q := &query{job: j, index: i, args: args, principal: principal}
			failure := err
			if failure == nil {
				failure = q.run(ctx, life)
			}
			if life.Err() != nil && errors.Is(context.Cause(life), errCancelled) {
				failure = errCancelled
			}
			q.finish(failure)
			return nil
		})
	}
	_ = all.Wait() // each query tells its own
}

// tick tells progress and what waits, until ctx ends.
func (j *job) tick(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Errors are those of ctx.
		for _, waiting := range j.shown() {
			_ = waiting.flush(ctx, waiting.maxWait)
		}
		_ = j.flushLog(ctx)
		_ = j.send(ctx, j.message(&wirepb.VeloMessage{FlowStats: j.stats(false)}))
	}
}

func (j *job) message(m *wirepb.VeloMessage) *wirepb.VeloMessage {
	m.SessionId = j.flow.String()
	return m
}

// send delivers one message after those that were sent before. It fails only when ctx
// has ended.
func (j *job) send(ctx context.Context, m *wirepb.VeloMessage) error {
	select {
	case j.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-j.turn }()
	if err := ctx.Err(); err != nil {
		return err
	}
	return j.term.deliver(ctx, []*wirepb.VeloMessage{m})
}

// flushLog delivers the log lines that wait. They are numbered as they are taken, so
// the turn is had first.
func (j *job) flushLog(ctx context.Context) error {
	select {
	case j.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-j.turn }()
	for _, m := range j.log.take() {
		if err := j.term.deliver(ctx, []*wirepb.VeloMessage{j.message(&wirepb.VeloMessage{LogMessage: m})}); err != nil {
			return err
		}
	}
	return nil
}

// show makes the rows of a query's statement known to who looks what waits.
func (j *job) show(index int, r *rows) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rows[index] = r
}

func (j *job) shown() []*rows {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(j.rows), func(r *rows) bool { return r == nil })
}

// update changes the status of a query.
func (j *job) update(index int, change func(s *wirepb.VeloStatus)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(j.status[index])
	j.status[index].LastActive = uint64(time.Now().UnixMicro())
}

// logged keeps a line of a query's log; one that says that something went wrong makes
// the query fail, and the first such line is why.
func (j *job) logged(index int, level, text string) {
	level, kept := j.log.add(level, text)
	j.update(index, func(s *wirepb.VeloStatus) {
		s.LogRows += kept
		if level == vql.LevelError && s.ErrorMessage == "" {
			s.ErrorMessage = shorten(text, maxErrorText)
		}
	})
}

// stats is how the flow stands.
func (j *job) stats(complete bool) *wirepb.FlowStats {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := &wirepb.FlowStats{FlowComplete: complete}
	for _, s := range j.status {
		out.QueryStatus = append(out.QueryStatus, proto.CloneOf(s))
	}
	return out
}

// nextUpload numbers an upload of the flow.
func (j *job) nextUpload() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.uploads++
	return j.uploads - 1
}

// defaultErrors is what makes a log line an error when the request does not say
// (client protocol 8.1).
var defaultErrors = regexp.MustCompile(`(?i)Error:|Symbol.+not found|Expecting a path arg type, not|Field.+is required|Unexpected arg`)

// errorPattern reads what an operator says makes a line an error. A text that is no
// pattern is not worth a flow.
func errorPattern(text string) *regexp.Regexp {
	if text == "" {
		return defaultErrors
	}
	pattern, err := regexp.Compile("(?i)" + text)
	if err != nil {
		return defaultErrors
	}
	return pattern
}

// clones are messages that may be given away more than once.
func clones(messages []*wirepb.VeloMessage) []*wirepb.VeloMessage {
	out := make([]*wirepb.VeloMessage, len(messages))
	for i, m := range messages {
		out[i] = proto.CloneOf(m)
	}
	return out
}
