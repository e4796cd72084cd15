package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

const (
	lostText  = "the master changed while this ran on the server"
	askedText = "the server does not run this"

	settlePause = 200 * time.Millisecond // between looks at what others have not told yet
	againPause  = time.Second            // before messages that were not taken are sent again
)

// errCancelled ends the queries of a flow that an operator, or a limit, ended.
var errCancelled = errors.New("cancelled")

// Flows hand out tasks and take what comes of them: *flows.Room.
type Flows interface {
	Attach(org ids.Org, client ids.Client) *flows.Attachment
	Ingest(ctx context.Context, peer flows.Peer, messages []*wirepb.VeloMessage) error
	Flow(key flows.Key) (*flows.Flow, error)
	List(org ids.Org, client ids.Client, before ids.Flow, limit int) []*flows.Flow
}

// Options wire a Runner. All but the last block are required.
type Options struct {
	Flows  Flows
	Engine *vql.Engine

	// Session is what the queries of somebody may use. Env, log, artifacts and limits
	// are added. impersonated says that an artifact named them.
	Session func(principal string, impersonated bool) (vql.SessionOptions, error)

	// Settled reports that this node has applied all that any node, living or dead,
	// had to tell of collections on the server.
	Settled func(ctx context.Context) (bool, error)

	TempDir    string                // where large queries keep what does not fit into memory
	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default
}

// Runner runs the collections of the root org on the server. One node at a time
// runs it: the one that leads.
type Runner struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
}

// New wires a Runner; nothing runs before Run.
func New(o Options) *Runner {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Runner{o: o, log: o.Logger, metrics: newMetrics(o.Registerer)}
}

// term is one Run: what is under way while this node leads.
type term struct {
	*Runner
	leads func() bool

	mu   sync.Mutex
	jobs map[ids.Flow]*job
}

// Run works until ctx ends; its queries have ended then. leads reports whether the
// lease lasts at this moment: nothing is begun without it.
func (r *Runner) Run(ctx context.Context, leads func() bool) error {
	t := &term{Runner: r, leads: leads, jobs: map[ids.Flow]*job{}}
	// Before tasks are taken: what runs by then is surely not ours.
	if err := t.bury(ctx); err != nil {
		return ignoreEnd(ctx, err)
	}
	connection := r.o.Flows.Attach(ids.RootOrg, ids.Server)
	defer connection.Close()
	var working sync.WaitGroup
	defer working.Wait()
	for {
		var answers []*wirepb.VeloMessage
		for _, m := range connection.Next() {
			answers = append(answers, t.take(ctx, &working, m)...)
		}
		if len(answers) > 0 {
			if err := t.deliver(ctx, answers); err != nil {
				return ignoreEnd(ctx, err)
			}
			continue // what waits for the answers comes next
		}
		select {
		case <-ctx.Done():
			return nil
		case <-connection.Wake():
		}
	}
}

// ignoreEnd is nil for an error that only says that Run was told to stop.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// bury ends what an earlier master, or an earlier run of this node, left running: its
// queries ended with it.
func (t *term) bury(ctx context.Context) error {
	if err := t.settle(ctx); err != nil {
		return err
	}
	for _, f := range t.o.Flows.List(ids.RootOrg, ids.Server, ids.Flow{}, 0) {
		if f.State != flows.Running {
			continue
		}
		t.log.Warn("collection on the server ended with the master that ran it", "flow", f.Flow.String())
		t.metrics.ended.WithLabelValues("lost").Inc()
		if err := t.deliver(ctx, []*wirepb.VeloMessage{ended(f.Flow, lostText)}); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until what others made durable is applied here: a flow that had ended
// well must not be buried.
func (t *term) settle(ctx context.Context) error {
	told := false
	for {
		settled, err := t.o.Settled(ctx)
		if err != nil && !told && ctx.Err() == nil {
			told = true
			t.log.Warn("what other nodes know of collections on the server cannot be looked up yet", "err", err)
		}
		if settled && err == nil {
			return nil
		}
		if !pause(ctx, settlePause) {
			return ctx.Err()
		}
	}
}

// ended is the end of a flow whose queries nobody runs.
func ended(flow ids.Flow, text string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: flow.String(), FlowStats: &wirepb.FlowStats{
		FlowComplete: true,
		QueryStatus:  []*wirepb.VeloStatus{{Status: wirepb.VeloStatus_GENERIC_ERROR, ErrorMessage: text}},
	}}
}

// take does what a message says, and returns what is to be answered at once.
func (t *term) take(ctx context.Context, working *sync.WaitGroup, m *wirepb.VeloMessage) []*wirepb.VeloMessage {
	if m.GetFlowStatsRequest() != nil {
		return t.answer(m.GetFlowStatsRequest().GetFlowId())
	}
	flow, err := ids.ParseFlow(m.GetSessionId())
	if err != nil {
		return nil // nothing that concerns the server, as a table of event queries
	}
	switch {
	case m.GetCancel() != nil:
		if j := t.job(flow); j != nil {
			j.cancel(errCancelled)
		}
	case m.GetFlowRequest() != nil && t.job(flow) == nil:
		t.begin(ctx, working, flow, m.GetFlowRequest())
	}
	return nil
}

// answer says how flows stand, in the order of the question.
func (t *term) answer(flowIDs []string) []*wirepb.VeloMessage {
	var out []*wirepb.VeloMessage
	for _, text := range flowIDs {
		status := &wirepb.FlowStats{
			FlowComplete: true, QueryStatus: []*wirepb.VeloStatus{{Status: wirepb.VeloStatus_UNKNOWN_FLOW, ErrorMessage: askedText}},
		}
		if flow, err := ids.ParseFlow(text); err == nil {
			if j := t.job(flow); j != nil {
				status = j.stats(false)
			}
		}
		out = append(out, &wirepb.VeloMessage{SessionId: text, FlowStats: status})
	}
	return out
}

func (t *term) job(flow ids.Flow) *job {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.jobs[flow]
}

func (t *term) begin(ctx context.Context, working *sync.WaitGroup, flow ids.Flow, request *wirepb.FlowRequest) {
	life, cancel := context.WithCancelCause(ctx)
	j := newJob(t, flow, request, cancel)
	t.mu.Lock()
	t.jobs[flow] = j
	t.mu.Unlock()
	working.Go(func() {
		defer cancel(nil)
		defer func() {
			t.mu.Lock()
			delete(t.jobs, flow)
			t.mu.Unlock()
		}()
		j.run(ctx, life)
	})
}

// deliver brings messages to where those of clients go, again until they are durable.
func (t *term) deliver(ctx context.Context, messages []*wirepb.VeloMessage) error {
	for told := false; ; {
		err := t.o.Flows.Ingest(ctx, flows.Peer{Org: ids.RootOrg, Client: ids.Server, Received: time.Now()}, clones(messages))
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !told {
			told = true
			t.log.Warn("what a collection on the server gave is not durable yet", "err", err)
		}
		if !pause(ctx, againPause) {
			return ctx.Err()
		}
	}
}

// creator is in whose name a flow runs.
func (t *term) creator(flow ids.Flow) (string, error) {
	f, err := t.o.Flows.Flow(flows.Key{Org: ids.RootOrg, Client: ids.Server, Flow: flow})
	if err != nil {
		return "", fmt.Errorf("find who started the collection: %w", err)
	}
	return f.Spec.Creator, nil
}

// pause waits; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
