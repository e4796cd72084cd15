package client

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
	"raptorpack/wire"
)

// checkInSession is the well-known session of check-ins.
const checkInSession = "E.Foreman"

// reader asks for work: it checks in, waits for jobs, dispatches them, and
// checks in again.
type reader struct {
	channel
	monitor *monitor
	report  *selfReport

	// idle guards against a server that answers at once without work, or does not
	// take what we send: ten such answers are free, then there is one per half
	// max_poll. Answers with jobs cost nothing, so that a busy operator is not
	// made to wait.
	idle *rate.Limiter
}

func newReader(c *comms, m *monitor, s *selfReport) *reader {
	return &reader{
		channel: channel{comms: c, path: wire.PathReader}, monitor: m, report: s,
		idle: rate.NewLimiter(rate.Every(c.options.MaxPoll/2), 10),
	}
}

// run works until ctx ends or dispatching breaks.
func (r *reader) run(ctx context.Context) error {
	defer r.close()
	for ctx.Err() == nil {
		out, err := r.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reader: %w", err)
		}
		r.metric.polls.WithLabelValues(out.verdict.String()).Inc()
		r.nanny.park(wire.PathReader)
		if out.fruitless() {
			if err := r.idle.Wait(ctx); err != nil {
				return nil //nolint:nilerr // ctx ended
			}
		}
		var wake <-chan struct{}
		switch out.verdict {
		case taken:
			out.pause = r.options.MinPoll
		case stranger: // until the request that the sender has of us is answered
			wake = r.admitted
		}
		sleep(ctx, out.pause, wake)
	}
	return nil
}

// fruitless answers are those that a server could go on giving at once and for
// ever. Servers that fail or redirect are waited for elsewhere.
func (o outcome) fruitless() bool {
	switch o.verdict {
	case taken:
		return len(o.jobs) == 0
	case refused, stranger:
		return true
	default:
		return false
	}
}

// once does one round trip.
func (r *reader) once(ctx context.Context) (outcome, error) {
	now := time.Now()
	info, err := r.report.due(now)
	if err != nil {
		r.logger.Warn("self-report is not sent", "err", err)
	}
	list, err := checkIn(r.monitor.current(), info)
	if err != nil {
		return outcome{}, err
	}
	out, err := r.exchange(ctx, false, list)
	if err != nil || out.verdict != taken {
		return out, err
	}
	if info != nil {
		r.report.delivered(now)
	}
	return out, r.dispatch(ctx, out.jobs)
}

// checkIn is the list that a reader request carries.
func checkIn(version uint64, info *wirepb.VeloMessage) ([]byte, error) {
	list := &wirepb.MessageList{Job: []*wirepb.VeloMessage{{
		SessionId: checkInSession, ForemanCheckin: &wirepb.ForemanCheckin{LastEventTableVersion: version},
	}}}
	if info != nil {
		list.Job = append(list.Job, info)
	}
	data, err := proto.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encode check-in: %w", err)
	}
	return data, nil
}
