package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// Client is one agent. Make it with New; Run works until its context ends.
type Client struct {
	options  Options
	identity *Identity
	buffer   *Buffer
	runner   *runner
	monitor  *monitor
	servers  *servers
	comms    *comms
	nanny    *nanny
	urgent   *urgentQueue
	killed   chan struct{} // one slot: the server told us to exit
	rekeyer  *rekeyer
	logger   *slog.Logger
}

// New opens the writeback and the buffer and wires the agent; it starts
// nothing. ErrWriteback when the writeback is there but unreadable, ErrInUse
// when another agent uses the same buffer. An agent that is never run is
// closed with Close.
func New(o Options) (*Client, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o.setDefaults()
	identity := o.Identity
	var writeback *Writeback
	if identity == nil {
		var err error
		if writeback, err = OpenWriteback(o.WritebackPath, o.WritebackSuffix); err != nil {
			return nil, err
		}
		identity = writeback.Identity()
	}
	buffer, err := OpenBuffer(o.Buffer)
	if err != nil {
		return nil, err
	}
	rekeyer := &rekeyer{writeback: writeback, order: make(chan time.Duration, 1)}
	o.Services = append(slices.Clone(o.Services), rekeyer)
	c := &Client{
		rekeyer: rekeyer,
		options: o, identity: identity, buffer: buffer, killed: make(chan struct{}, 1),
		urgent: newUrgentQueue(2*o.MaxUploadSize, o.Metrics), nanny: newNanny(o.NannyDelay, o.MaxMemory),
		logger: o.Logger,
	}
	c.runner = newRunner(o, buffer, c.urgent)
	c.runner.installed = identity.InstallTime
	c.monitor = newMonitor(c.runner, writeback)
	c.servers = newServers(&c.options, identity, writeback)
	c.comms = &comms{
		options: &c.options, identity: identity, servers: c.servers, buffer: buffer, urgent: c.urgent, nanny: c.nanny,
		logger: o.Logger, metric: o.Metrics, dispatch: c.dispatch,
		enrolled: rate.NewLimiter(rate.Every(o.EnrolPause), 1), admitted: make(chan struct{}, 1),
	}
	return c, nil
}

// ID is the agent's identity.
func (c *Client) ID() ids.Client { return c.identity.ID }

// Pending is the number of messages that wait for their delivery.
func (c *Client) Pending() int64 { return c.buffer.Pending() }

// Running lists the flows at work or waiting for their turn.
func (c *Client) Running() []string { return c.runner.running() }

// Run works until ctx ends, which is nil, or until the agent cannot go on:
// ErrBroken, ErrStalled, ErrMemory and ErrRekeyed ask for a fresh start, ErrKilled for
// none.
// Flows at work when ctx ends are run again by the next Run on the same buffer.
func (c *Client) Run(ctx context.Context) error {
	group, work := errgroup.WithContext(ctx)
	c.monitor.restore(work)
	c.runner.recover(work)
	report := &selfReport{options: &c.options, identity: c.identity}
	group.Go(func() error { return newReader(c.comms, c.monitor, report).run(work) })
	group.Go(func() error { return newSender(c.comms, c.runner).run(work) })
	group.Go(func() error { return c.obey(work) })
	group.Go(func() error { return c.rekeyer.run(work) })
	if c.nanny.delay > 0 || c.nanny.memory > 0 {
		group.Go(func() error { return c.nanny.run(work) })
	}
	err := group.Wait() // work's context has ended
	c.monitor.close()
	c.runner.wait()
	if ctx.Err() != nil && !errors.Is(err, ErrBroken) {
		err = nil
	}
	err = errors.Join(err, c.buffer.Close())
	if errors.Is(err, ErrRekeyed) {
		if failure := c.rekey(); failure != nil {
			return failure
		}
	}
	return err
}

// Close lets go of the buffer of an agent that is not run.
func (c *Client) Close() error { return c.buffer.Close() }

// obey waits for the order to exit.
func (c *Client) obey(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.killed:
	}
	c.logger.Warn("server told the agent to exit", "in", c.options.KillDelay)
	sleep(ctx, c.options.KillDelay, nil) // so that what is buffered may still go out
	return ErrKilled
}

// dispatch hands out jobs. Orders to stop something come last: in one answer
// they may stand before what they mean.
func (c *Client) dispatch(ctx context.Context, jobs []*wirepb.VeloMessage) error {
	for _, stops := range []bool{false, true} {
		for _, job := range jobs {
			if stops != (job.GetCancel() != nil || job.GetKillKillKill() != nil) {
				continue
			}
			if err := c.obeyJob(ctx, job); err != nil {
				return fmt.Errorf("job for %.80q: %w", job.GetSessionId(), err)
			}
		}
	}
	return nil
}

func (c *Client) obeyJob(ctx context.Context, job *wirepb.VeloMessage) error {
	switch {
	case job.GetCancel() != nil:
		return c.runner.cancel(ctx, job.GetSessionId())
	case job.GetFlowRequest() != nil:
		return c.runner.accept(ctx, job)
	case job.GetResumeTransactions() != nil:
		return c.runner.resume(ctx, job)
	case job.GetUpdateEventTable() != nil:
		c.monitor.update(ctx, job.GetUpdateEventTable())
	case job.GetVqlClientAction() != nil, job.GetUpdateForeman() != nil:
		c.options.Metrics.ignored.Inc() // for agents of long ago
	case job.GetFlowStatsRequest() != nil:
		c.runner.report(job.GetFlowStatsRequest().GetFlowId())
	case job.GetKillKillKill() != nil:
		select {
		case c.killed <- struct{}{}:
		default:
		}
	default:
		return c.runner.unsupported(ctx, job.GetSessionId())
	}
	return nil
}
