package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// runner runs flows: those that the server asks for, and those that a crash
// interrupted.
type runner struct {
	options Options
	buffer  *Buffer
	urgent  *urgentQueue
	logger  *slog.Logger
	metric  *Metrics

	installed time.Time // when this agent first started

	slots chan struct{} // one for each flow at work; when full flows wait (urgent ones never)

	ended chan struct{} // one slot: a flow is over; full: said already

	mu    sync.Mutex
	flows map[string]*flow
	tasks sync.WaitGroup
}

func newRunner(o Options, b *Buffer, u *urgentQueue) *runner {
	return &runner{
		options: o, buffer: b, urgent: u, logger: o.Logger, metric: o.Metrics,
		slots: make(chan struct{}, o.Concurrency), ended: make(chan struct{}, 1), flows: map[string]*flow{},
	}
}

// config is what queries see of this agent under that name.
func (r *runner) config() *vql.Dict {
	version := vql.NewDict().Set("Name", agentName).Set("Version", r.options.Version).Set("BuildTime", r.options.BuildTime).
		Set("CiBuildUrl", r.options.BuildURL).Set("InstallTime", r.installed.Unix())
	return vql.NewDict().Set("server_urls", r.options.ServerURLs).Set("ca_certificate", string(r.options.CA)).
		Set("Version", version).Set("Labels", r.options.Labels)
}

// slot waits for the right to run; urgent flows need none.
func (r *runner) slot(ctx context.Context, urgent bool) (release func(), err error) {
	if urgent {
		return func() {}, nil
	}
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// recover starts every flow that an earlier process accepted and did not end.
func (r *runner) recover(ctx context.Context) {
	for _, record := range r.buffer.unfinished() {
		r.logger.Info("flow is run again after an interruption", "flow", record.ID, "runs", record.Runs)
		r.launch(ctx, record)
	}
}

// accept takes a FlowRequest. A flow that is running or has ended here is not
// run twice: one id is one collection.
func (r *runner) accept(ctx context.Context, v *wirepb.VeloMessage) error {
	id := v.GetSessionId()
	if known, ok := r.buffer.flow(id); ok {
		if known.ended() {
			r.answer(id, known)
		}
		r.logger.Info("flow was requested again", "flow", id, "ended", known.ended())
		return nil
	}
	request, err := proto.Marshal(v.GetFlowRequest())
	if err != nil {
		return fmt.Errorf("accept flow %s: %w", id, err)
	}
	return r.begin(ctx, flowEvent{
		Op: opAccept, Flow: id, Request: request, Urgent: v.GetUrgent(), Accepted: time.Now().UTC(),
	})
}

// resume takes a ResumeTransactions: the flow is open again until its uploads
// are through.
func (r *runner) resume(ctx context.Context, v *wirepb.VeloMessage) error {
	id := v.GetSessionId()
	if known, ok := r.buffer.flow(id); ok && !known.ended() {
		r.logger.Info("flow to resume is still running", "flow", id)
		return nil
	}
	request, err := proto.Marshal(v.GetResumeTransactions())
	if err != nil {
		return fmt.Errorf("resume flow %s: %w", id, err)
	}
	return r.begin(ctx, flowEvent{
		Op: opReopen, Flow: id, Resume: request, Urgent: v.GetUrgent(), Accepted: time.Now().UTC(),
		Uploads: uploadsToResume(v.GetResumeTransactions()),
	})
}

func (r *runner) begin(ctx context.Context, e flowEvent) error {
	if err := r.buffer.note(ctx, e); err != nil {
		return fmt.Errorf("accept flow %s: %w", e.Flow, err)
	}
	record, ok := r.buffer.flow(e.Flow)
	if !ok {
		return fmt.Errorf("accept flow %s: not in the journal", e.Flow)
	}
	r.launch(ctx, record)
	return nil
}

// launch starts the goroutine of a flow. wait waits for it.
func (r *runner) launch(ctx context.Context, record flowRecord) {
	f, err := newFlow(r, record)
	if err != nil {
		r.giveUp(ctx, record.ID, err)
		return
	}
	queries, cancel := context.WithCancelCause(ctx)
	f.cancel = cancel
	r.mu.Lock()
	r.flows[f.id] = f
	r.mu.Unlock()
	r.tasks.Go(func() {
		f.run(ctx, queries)
		r.over(f)
	})
}

// over forgets a flow that is not at work any more.
func (r *runner) over(f *flow) {
	r.mu.Lock()
	if r.flows[f.id] == f {
		delete(r.flows, f.id)
	}
	r.mu.Unlock()
	select {
	case r.ended <- struct{}{}:
	default:
	}
}

// busy reports whether flows are at work.
func (r *runner) busy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.flows) > 0
}

// giveUp ends a flow that cannot even be begun.
func (r *runner) giveUp(ctx context.Context, id string, cause error) {
	final := unknownFlow()
	final.QueryStatus[0].Status, final.QueryStatus[0].ErrorMessage = wirepb.VeloStatus_GENERIC_ERROR, shortText(cause.Error(), maxErrorText)
	err := r.buffer.put(ctx, mark{Flow: id, Kind: markStats, Final: true}, &wirepb.VeloMessage{
		SessionId: id, RequestId: requestStats, FlowStats: final,
	})
	r.logger.Error("flow cannot be run", "flow", id, "err", errors.Join(cause, err))
}

// wait returns when no flow is running any more.
func (r *runner) wait() { r.tasks.Wait() }

// cancel ends a running flow; an unknown or ended one is left alone.
func (r *runner) cancel(ctx context.Context, id string) error {
	known, ok := r.buffer.flow(id)
	if !ok || known.ended() {
		return nil
	}
	// First the journal: what the queries put from now on is refused.
	if err := r.buffer.note(ctx, flowEvent{Op: opCancel, Flow: id}); err != nil {
		return fmt.Errorf("cancel flow %s: %w", id, err)
	}
	r.mu.Lock()
	f := r.flows[id]
	r.mu.Unlock()
	if f != nil {
		f.stop(errFlowCancelled)
	}
	return nil
}

// report answers a FlowStatsRequest, one urgent message for each flow.
func (r *runner) report(ids []string) {
	for _, id := range ids {
		r.mu.Lock()
		f := r.flows[id]
		r.mu.Unlock()
		if f != nil {
			r.reply(id, f.stats(false))
			continue
		}
		known, ok := r.buffer.flow(id)
		switch {
		case !ok:
			r.reply(id, unknownFlow())
		case known.ended():
			r.answer(id, known)
		default: // accepted, not at work: the agent is stopping
		}
	}
}

// answer repeats the final statistics of an ended flow, unless they are still
// on their way: then they must not overtake its rows.
func (r *runner) answer(id string, known flowRecord) {
	var final wirepb.FlowStats
	if err := proto.Unmarshal(known.Final, &final); err != nil {
		r.logger.Error("final statistics in the journal are unreadable", "flow", id, "err", err)
		return
	}
	if !r.buffer.done(known.EndedAt) {
		final.FlowComplete = false
		for _, s := range final.QueryStatus {
			s.Status = wirepb.VeloStatus_PROGRESS
		}
	}
	r.reply(id, &final)
}

func (r *runner) reply(id string, s *wirepb.FlowStats) {
	r.urgent.put(&wirepb.VeloMessage{SessionId: id, RequestId: requestStats, Urgent: true, FlowStats: s})
}

func unknownFlow() *wirepb.FlowStats {
	return &wirepb.FlowStats{FlowComplete: true, QueryStatus: []*wirepb.VeloStatus{{
		Status:       wirepb.VeloStatus_UNKNOWN_FLOW,
		ErrorMessage: "Flow not known - maybe the client crashed?",
	}}}
}

// running lists the flows at work or waiting for their slot.
func (r *runner) running() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.flows))
}

// unsupported is the log line that a job nobody understands is answered with.
// Log lines of flows are numbered, so none is slipped in between those.
func (r *runner) unsupported(ctx context.Context, session string) error {
	r.metric.ignored.Inc()
	if _, ok := r.buffer.flow(session); ok || session == "" {
		return nil
	}
	l := newLogSink(r.buffer, session, 0, 0, "")
	_, err := l.add(ctx, "", vql.LevelError, "Unsupported payload")
	return errors.Join(err, l.flush(ctx))
}
