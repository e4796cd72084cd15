package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"raptorpack/proto/wirepb"
	"raptorpack/wire"
)

// attempts is how often a packet is tried at one server before the next one
// gets its turn (client protocol 3.5).
const attempts = 3

// comms is what the reader and the sender share.
type comms struct {
	options  *Options
	identity *Identity
	servers  *servers
	buffer   *Buffer
	urgent   *urgentQueue
	nanny    *nanny
	logger   *slog.Logger
	metric   *Metrics
	dispatch func(ctx context.Context, jobs []*wirepb.VeloMessage) error
	enrolled *rate.Limiter // of enrolment requests
	admitted chan struct{} // one slot: an enrolment request was answered; full: said already

	mu   sync.Mutex
	down bool // the last contact failed; told once
}

// channel is one loop's way to an endpoint of the present server. It belongs to
// one goroutine.
type channel struct {
	*comms
	path     string
	endpoint *wire.Endpoint
	url      string
}

// outcome is what became of one packet.
type outcome struct {
	verdict verdict
	jobs    []*wirepb.VeloMessage
	pause   time.Duration // before the next try
	broke   bool          // the packet may have been too large for the way there
}

// exchange seals and sends lists to the present server and opens the answer.
// It never gives up by itself: an error is only of ctx.
func (c *channel) exchange(ctx context.Context, urgent bool, lists ...[]byte) (outcome, error) {
	p, err := c.servers.peer(ctx)
	if err != nil {
		return c.trouble(ctx, p, err)
	}
	answer, err := c.try(ctx, p, urgent, lists)
	if err != nil {
		// A server that is away says nothing about the size of a packet.
		broke := !unreached(err)
		out, err := c.trouble(ctx, p, err)
		out.broke = broke
		return out, err
	}
	switch v := judge(answer.Code); v {
	case taken:
		jobs, err := p.session.Open(ctx, answer.Body)
		if err != nil {
			return c.trouble(ctx, p, err)
		}
		c.up(p)
		return outcome{verdict: taken, jobs: jobs}, nil
	case moved:
		pause, err := c.servers.redirect(p, answer.Location)
		if err != nil {
			return c.trouble(ctx, p, err)
		}
		c.logger.Info("server redirected the agent", "from", p.base, "to", answer.Location)
		return outcome{verdict: moved, pause: pause}, nil
	case refused:
		c.logger.Warn("server refused a packet", "url", p.base, "answer", shortText(answer.Text, 200))
		c.up(p)
		return outcome{verdict: refused, pause: c.options.MinPoll}, nil
	case stranger:
		c.up(p)
		return outcome{verdict: stranger, pause: c.options.MinPoll}, c.enrol()
	default:
		out, err := c.trouble(ctx, p, fmt.Errorf("%w: status %d", errAnswer, answer.Code))
		out.broke = answer.Code == http.StatusRequestTimeout || answer.Code == http.StatusRequestEntityTooLarge
		return out, err
	}
}

// unreached reports whether an error says that no connection came about: nobody has
// seen the packet, and another try at this address would fare alike.
func unreached(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial"
}

var errAnswer = errors.New("server cannot serve us now")

// try sends one packet, at most three times if the server says "later" or does
// not answer; where nobody is, other addresses do not wait for that.
func (c *channel) try(ctx context.Context, p peer, urgent bool, lists [][]byte) (wire.Answer, error) {
	packet, err := p.session.Seal(lists...)
	if err != nil {
		return wire.Answer{}, err
	}
	if err := c.connect(p); err != nil {
		return wire.Answer{}, err
	}
	var answer wire.Answer
	for n := range attempts {
		// An idle WebSocket waits for jobs as long as pings come; the transport
		// sees to those.
		if c.path != wire.PathReader || !strings.HasPrefix(p.url, "ws") {
			c.nanny.beat(c.path)
		}
		answer, err = c.endpoint.Exchange(ctx, wire.Request{Packet: packet, Urgent: urgent, Redirected: p.redirected})
		if ctx.Err() != nil {
			return answer, context.Cause(ctx)
		}
		if err == nil && judge(answer.Code) != again {
			return answer, nil
		}
		c.logger.Debug("packet was not taken", "url", p.url, "attempt", n+1, "status", answer.Code, "err", err)
		if unreached(err) {
			break
		}
	}
	return answer, err
}

// connect makes the endpoint that belongs to p.
func (c *channel) connect(p peer) error {
	if c.endpoint != nil && c.url == p.url {
		return nil
	}
	if err := c.close(); err != nil {
		c.logger.Debug("close connection", "err", err)
	}
	endpoint, err := c.options.Transport.Endpoint(p.url, c.path)
	if err != nil {
		return err
	}
	c.endpoint, c.url = endpoint, p.url
	return nil
}

func (c *channel) close() error {
	if c.endpoint == nil {
		return nil
	}
	e := c.endpoint
	c.endpoint = nil
	return e.Close()
}

// trouble moves on to the next server and says how long to wait first. That a server
// is lost which the other loop has left tells nothing about the present one.
func (c *channel) trouble(ctx context.Context, p peer, cause error) (outcome, error) {
	if ctx.Err() != nil {
		return outcome{}, context.Cause(ctx)
	}
	if err := c.close(); err != nil {
		c.logger.Debug("close connection", "err", err)
	}
	pause, present := c.servers.moveOn(p, cause)
	c.mu.Lock()
	first := present && !c.down
	c.down = c.down || present
	c.mu.Unlock()
	if first {
		c.logger.Warn("lost contact with the server", "url", p.base, "err", cause)
	} else {
		c.logger.Debug("no contact", "url", p.base, "err", cause)
	}
	return outcome{verdict: other, pause: max(pause, c.options.MinPoll)}, nil
}

func (c *comms) up(p peer) {
	c.servers.answered(p)
	c.mu.Lock()
	was := c.down
	c.down = false
	c.mu.Unlock()
	if was {
		c.logger.Info("contact with the server is back", "url", p.base)
	}
}

// enrol queues an enrolment request: the first at once, further ones at the
// configured pace.
func (c *comms) enrol() error {
	if !c.enrolled.Allow() {
		return nil
	}
	csr, err := wire.NewCSR(c.identity.Key)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	c.metric.enrolments.Inc()
	c.logger.Info("server does not know this client, enrolling", "client", c.identity.ID.String())
	c.urgent.put(wire.EnrolMessage(csr))
	return nil
}

// sleep waits for d, or less when wake comes or ctx ends.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}
