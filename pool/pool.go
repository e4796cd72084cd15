package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"raptorpack/client"
	"raptorpack/proto/wirepb"
	"raptorpack/vql/endpoint"
	"raptorpack/wire"
)

// Pool is many agents. Make it with New; Run works until its context ends.
type Pool struct {
	options Options
	base    client.Options // for all agents
	shared  *wire.Transport
	agents  []*agent

	count                          counters
	connects, deliveries, flowTime histogram
}

// counters are what all agents did together.
type counters struct {
	started, failures, dialErrors               atomic.Int64
	flows, failedFlows, rows, logs, uploadBytes atomic.Int64
}

// agent is one simulated client.
type agent struct {
	pool    *Pool
	number  int
	host    *Host
	address netip.Addr

	sockets   atomic.Int32 // open connections
	since     atomic.Int64 // Unix nanoseconds when the first of those was opened
	delivered atomic.Bool  // a server has taken something from it
	begun     time.Time    // set before its goroutine starts
}

func (a *agent) connected(change int32) {
	if a.sockets.Add(change) == 1 && change > 0 {
		a.since.Store(time.Now().UnixNano())
	}
}

// settled is how long a connection stands before it counts as accepted: strangers
// are sent away at once, and clients without work are told nothing.
const settled = 2 * time.Second

// New checks the options and makes the agents' hosts and keys' numbers; it starts
// nothing.
func New(o Options) (*Pool, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	first, err := netip.ParseAddr(o.FirstAddress)
	if err != nil || !first.Is4() {
		return nil, fmt.Errorf("%w: first address %q", errOption, o.FirstAddress)
	}
	p := &Pool{options: o, base: o.Base}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	for n := o.First; n < o.First+o.Clients; n++ {
		a := &agent{pool: p, number: n, host: newHost(n, o.Bulk)}
		if a.address, err = address(first, n); err != nil {
			return nil, err
		}
		p.agents = append(p.agents, a)
	}
	return p, nil
}

// prepare fills in what all agents share.
func (p *Pool) prepare() error {
	engine, err := newEngine()
	if err != nil {
		return fmt.Errorf("pool engine: %w", err)
	}
	if !p.options.Polling {
		if p.shared, err = p.transport(); err != nil {
			return err
		}
	}
	accessors := maps.Clone(endpoint.Accessors())
	for _, name := range []string{"auto", "file", "raw_file"} {
		accessors[name] = fileAccessor{}
	}
	b := &p.base
	b.ServerURLs, b.UpgradeHTTP = p.options.urls(), false
	b.WritebackPath, b.WritebackSuffix = "", ""
	b.Buffer.Dir = ""
	b.Engine, b.Accessors = engine, accessors
	b.NannyDelay, b.MaxMemory = 0, 0 // would judge the process, which is not one agent's
	b.Logger, b.Buffer.Logger = p.options.AgentLogger, p.options.AgentLogger
	b.Metrics = client.NewMetrics(nil)
	b.Buffer.Metrics = b.Metrics
	return nil
}

func (p *Pool) transport() (*wire.Transport, error) {
	o := p.options.Wire
	o.Dial = p.dial
	t, err := wire.NewTransport(o)
	if err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	return t, nil
}

// Run starts the agents at the ramp's pace and returns when ctx has ended and the
// last agent with it. Nil means told to stop.
func (p *Pool) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer p.close()
	defer running.Wait()
	pace := rate.NewLimiter(rate.Limit(p.options.Ramp), max(1, int(p.options.Ramp/20)))
	for _, a := range p.agents {
		if err := pace.Wait(ctx); err != nil {
			return nil //nolint:nilerr // ctx ended
		}
		a.begun = time.Now()
		p.count.started.Add(1)
		running.Go(func() { a.live(context.WithValue(ctx, whose{}, a)) })
	}
	<-ctx.Done()
	return nil
}

func (p *Pool) close() {
	if p.shared != nil {
		p.shared.Close()
	}
}

// live runs the agent until ctx ends. One that ends by itself is started again, as
// its service manager would.
func (a *agent) live(ctx context.Context) {
	for {
		err := a.once(ctx)
		if ctx.Err() != nil {
			return
		}
		a.pool.count.failures.Add(1)
		a.pool.options.Logger.Warn("agent ended", "number", a.number, "err", err)
		timer := time.NewTimer(a.pool.options.Restart)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
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
	c, err := client.New(o)
	if err != nil {
		return err
	}
	return errors.Join(c.Run(ctx), errEnded)
}

var errEnded = errors.New("agent ended without being told to")

// acknowledged counts what a server has made durable.
func (a *agent) acknowledged(messages [][]byte) {
	p := a.pool
	if !a.delivered.Swap(true) {
		p.deliveries.add(time.Since(a.begun))
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
			p.ended(m.GetFlowStats())
		}
	}
}

// ended counts a flow whose end is durable at the server.
func (p *Pool) ended(s *wirepb.FlowStats) {
	p.count.flows.Add(1)
	var begun uint64
	failed := false
	for _, q := range s.GetQueryStatus() {
		if at := q.GetFirstActive(); at > 0 && (begun == 0 || at < begun) {
			begun = at
		}
		failed = failed || q.GetStatus() != wirepb.VeloStatus_OK
	}
	if failed {
		p.count.failedFlows.Add(1)
	}
	if begun > 0 {
		p.flowTime.add(time.Since(time.UnixMicro(int64(begun))))
	}
}
