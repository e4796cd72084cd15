package client

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/encoding/protowire"

	"raptorpack/wire"
)

// maxRefusals is how often a batch may be answered by 400. A peer that cannot
// process it now may be able to a moment later. Then its messages are sent one
// by one, and one that is refused as often is dropped.
const maxRefusals = 3

// sender delivers what was produced, oldest first; urgent messages overtake.
type sender struct {
	channel
	runner    *runner
	bucket    *rate.Limiter
	bytes     int64 // of the next batch at most; a single message may be larger
	refusals  int   // of the oldest message, in a row
	strangers int
}

func newSender(c *comms, r *runner) *sender {
	period := c.options.MinPoll
	if period <= 0 {
		period = 100 * time.Millisecond
	}
	return &sender{
		channel: channel{comms: c, path: wire.PathControl}, runner: r, bucket: rate.NewLimiter(rate.Every(period), 100),
		bytes: c.options.MaxUploadSize,
	}
}

// run works until ctx ends or the buffer breaks.
func (s *sender) run(ctx context.Context) error {
	defer s.close()
	for ctx.Err() == nil {
		pause, err := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("sender: %w", err)
		}
		s.nanny.park(wire.PathControl)
		if pause > 0 {
			sleep(ctx, pause, nil)
			continue
		}
		select { // nothing to do
		case <-s.urgent.ready:
		case <-s.buffer.Ready():
			s.gather(ctx)
		case <-ctx.Done():
		}
	}
	return nil
}

// patience is the part of min_poll for which the first message after a rest waits for
// company.
const patience = 4

// gather waits while collections are at work. A small one puts its rows and its end
// within moments of each other, and what misses the first post waits a whole
// min_poll for the next.
func (s *sender) gather(ctx context.Context) {
	limit := time.NewTimer(s.options.MinPoll / patience)
	defer limit.Stop()
	for s.runner.busy() {
		select {
		case <-s.runner.ended:
		case <-s.urgent.ready:
			return
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// round sends at most one urgent and one ordinary batch. It says how long to
// rest; 0 means that nothing waits.
func (s *sender) round(ctx context.Context) (time.Duration, error) {
	if l := s.urgent.lease(s.options.MaxUploadSize); l != nil {
		out, err := s.post(ctx, true, l)
		if err != nil {
			return 0, err
		}
		switch out.verdict {
		case taken, refused:
			s.urgent.commit(l)
		case stranger: // an enrolment request is answered so
			s.urgent.commit(l)
			s.admit()
		default:
			return soon(out.pause), nil
		}
	}
	l, err := s.buffer.Lease(ctx, s.bytes)
	if err != nil || l == nil {
		return 0, err
	}
	if err := s.bucket.Wait(ctx); err != nil {
		return 0, err
	}
	out, err := s.post(ctx, false, l)
	if err != nil {
		return 0, err
	}
	return s.settle(ctx, l, out)
}

// admit tells the reader that it may be known now.
func (s *sender) admit() {
	select {
	case s.admitted <- struct{}{}:
	default:
	}
}

// soon is a pause that is not mistaken for "nothing waits".
func soon(pause time.Duration) time.Duration { return max(pause, time.Nanosecond) }

// settle commits or keeps a batch, as its answer says. A batch that met 406 is
// kept, though the protocol would have it dropped: the server has not looked at
// it, and will once we are enrolled. After a post that broke off the next one is
// half as large: the way to the server may be too slow for the time it is given.
func (s *sender) settle(ctx context.Context, l *Lease, out outcome) (time.Duration, error) {
	switch out.verdict {
	case refused:
		s.refusals++
		if s.refusals < maxRefusals {
			return out.pause, nil
		}
		if len(l.Messages) > 1 {
			s.bytes, s.refusals = 1, 0
			return out.pause, nil
		}
		s.logger.Error("server refuses a message for good, it is dropped", "bytes", l.Bytes)
	case stranger:
		s.strangers++
		return min(s.options.MaxPoll, s.options.MinPoll<<min(s.strangers, 10)), nil
	case taken:
		if s.options.Acknowledged != nil {
			s.options.Acknowledged(l.Messages)
		}
		sent := max(s.bytes, l.Bytes)
		s.bytes = min(s.options.MaxUploadSize, 2*sent)
	default:
		if out.broke {
			s.bytes = max(1, l.Bytes/2)
		}
		return soon(out.pause), nil
	}
	s.refusals, s.strangers = 0, 0
	if err := s.buffer.Commit(ctx, l); err != nil {
		return 0, err
	}
	if s.buffer.store.bytes() > s.options.MaxUploadSize {
		return soon(0), nil
	}
	return s.options.MinPoll, nil
}

// post sends a lease and dispatches the jobs that its answer may carry.
func (s *sender) post(ctx context.Context, urgent bool, l *Lease) (outcome, error) {
	out, err := s.exchange(ctx, urgent, elements(l.Messages, s.options.MaxUploadSize/4)...)
	if err != nil {
		return out, err
	}
	s.metric.posts.WithLabelValues(out.verdict.String()).Inc()
	if len(out.jobs) > 0 {
		err = s.dispatch(ctx, out.jobs)
	}
	return out, err
}

// elements packs serialized messages into MessageLists of about size bytes.
func elements(messages [][]byte, size int64) [][]byte {
	var out [][]byte
	var list []byte
	for _, m := range messages {
		if len(list) > 0 && int64(len(list)+len(m)) > size {
			out, list = append(out, list), nil
		}
		list = protowire.AppendTag(list, 1, protowire.BytesType)
		list = protowire.AppendBytes(list, m)
	}
	if len(list) > 0 {
		out = append(out, list)
	}
	return out
}
