package pool

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/client"
	"raptorpack/proto/wirepb"
)

// agent is one simulated client.
type agent struct {
	pool    *Pool
	number  int
	host    *Host
	address netip.Addr
	manner  manner
	place   float64 // from 0 to below 1: its turn in waves

	// Of the goroutine of Run alone.
	here  bool               // online, or told to be
	quiet int                // looks at which it held nothing
	stop  context.CancelFunc // ends its present life
	life  chan struct{}      // closed when that has ended; nil: it has not lived yet

	begun     time.Time    // of its first life; set before its goroutine starts
	away      atomic.Bool  // without network
	since     atomic.Int64 // Unix nanoseconds when it got its first connection
	delivered atomic.Bool  // a server has taken something from it
	answered  atomic.Bool  // a flow's end has been acknowledged
	client    atomic.Pointer[client.Client]

	mu    sync.Mutex
	conns []*conn
	last  [][]byte // of those that send again: what was acknowledged last
}

// holds notes an open connection, unless the agent has lost its network meanwhile.
func (a *agent) holds(c *conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away.Load() {
		return false
	}
	if a.conns = append(a.conns, c); len(a.conns) == 1 {
		a.since.Store(time.Now().UnixNano())
	}
	return true
}

func (a *agent) letGo(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := slices.Index(a.conns, c); at >= 0 {
		a.conns = slices.Delete(a.conns, at, at+1)
	}
}

// open are the connections that are open now.
func (a *agent) open() []*conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.conns)
}

func (a *agent) sockets() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.conns)
}

// live runs the agent until ctx ends. One that ends by itself is started again, as
// its service manager would.
func (a *agent) live(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.once(ctx)
		if ctx.Err() != nil {
			return
		}
		a.pool.count.failures.Add(1)
		a.pool.options.Logger.Warn("agent ended", "number", a.number, "err", err)
		wait(ctx, a.pool.options.Restart)
	}
}

func (a *agent) once(ctx context.Context) error {
	o := a.pool.base
	var err error
	if o.Identity, err = a.pool.options.Identities.At(a.number); err != nil {
		return err
	}
	o.Transport = a.pool.shared
	if o.Transport == nil {
		if o.Transport, err = a.pool.transport(); err != nil {
			return err
		}
		defer o.Transport.Close()
	}
	o.Services = []any{a.host}
	o.Info = func() (client.Info, error) { return a.host.info(), nil }
	o.Acknowledged = a.acknowledged
	if a.manner == slow || a.manner == mute {
		o.Artifacts = a.artifacts(ctx, o.Artifacts)
	}
	c, err := client.New(o)
	if err != nil {
		return err
	}
	a.client.Store(c)
	defer a.client.Store(nil)
	stop := a.misbehave(ctx, &o)
	return errors.Join(c.Run(ctx), stop(), errEnded)
}

var errEnded = errors.New("agent ended without being told to")

// acknowledged counts what a server has made durable.
func (a *agent) acknowledged(messages [][]byte) {
	p := a.pool
	if !a.delivered.Swap(true) {
		p.deliveries.add(time.Since(a.begun))
	}
	if a.manner == resend {
		a.keep(messages)
	}
	for _, data := range messages {
		var m wirepb.VeloMessage
		if proto.Unmarshal(data, &m) != nil {
			p.count.failures.Add(1) // our own message
			continue
		}
		switch {
		case m.GetVqlResponse() != nil:
			p.count.rows.Add(int64(m.GetVqlResponse().GetTotalRows()))
		case m.GetLogMessage() != nil:
			p.count.logs.Add(int64(m.GetLogMessage().GetNumberOfRows()))
		case m.GetFileBuffer() != nil:
			p.count.uploadBytes.Add(int64(m.GetFileBuffer().GetDataLength()))
		case m.GetFlowStats().GetFlowComplete():
			a.answered.Store(true)
			p.ended(m.GetFlowStats())
		}
	}
}
