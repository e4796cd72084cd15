package pool

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

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

	count                                 counters
	connects, deliveries, flowTime, posts histogram
}

// counters are what all agents did together.
type counters struct {
	started, failures, dialErrors               atomic.Int64
	flows, failedFlows, rows, logs, uploadBytes atomic.Int64
	cuts, resends, garbage, forgeries, muted    atomic.Int64
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
	kind := &fleet{seed: o.Seed, mix: mixOf(o.Systems), bulk: o.Bulk, epoch: o.Identities.install}
	for n := o.First; n < o.First+o.Clients; n++ {
		a := &agent{pool: p, number: n, host: newHost(n, kind)}
		a.place = a.host.chance("turn").Float64()
		a.manner = o.Manners.of(a.host.chance("manners").Float64())
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
	b.CPU = client.NewCPUMeter() // one for all: the process's time is counted once
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

// Run starts the agents at the ramp's pace, takes them away and brings them back, and
// returns when ctx has ended and the last agent with it. Nil means told to stop.
func (p *Pool) Run(ctx context.Context) error {
	defer p.close()
	t := &tide{pool: p, pace: rate.NewLimiter(rate.Limit(p.options.Ramp), max(1, int(p.options.Ramp/20)))}
	t.run(ctx)
	return nil
}

func (p *Pool) close() {
	if p.shared != nil {
		p.shared.Close()
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
