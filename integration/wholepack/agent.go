package wholepack

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/client"
	"raptorpack/cmd/agent"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// doorPort is what agents and operators dial at a node's name; the Net knows where
// its present life listens.
const doorPort = "80"

// Agent is an agent that runs in this process. It knows all nodes.
type Agent struct {
	ID   string
	File string // of acknowledgements
	Log  *Log

	pack *Pack
	stop func()

	mu    sync.Mutex
	acked map[string]int64    // rows, by flow
	ended map[string]struct{} // flows whose end was acknowledged
	half  *half               // where it rests next; nil: nowhere
	rests []*half             // all of them
}

// half is a place in the middle of a collection at which an agent rests.
type half struct {
	rows    int64         // of one flow, acknowledged
	reached chan struct{} // closed: the agent rests
	goOn    func()        // lets it go on, and not rest if it has not
	passed  chan struct{} // closed by goOn
}

// AgentOptions say what an agent is; the zero value is the first one, who knows all
// nodes.
type AgentOptions struct {
	Key   int     // of the test keys; agents with one key are one client
	Nodes []*Node // whom it knows; nil: all

	Wait time.Duration // how long it waits for an answer; 0: 2 s
}

// AddAgent starts an agent. It may take a while until it gets in.
func (p *Pack) AddAgent(o AgentOptions) *Agent {
	p.t.Helper()
	key := wiretest.ClientKey(p.t, o.Key)
	a := &Agent{
		pack: p, ID: ids.ClientOfKey(&key.PublicKey).String(), Log: &Log{}, acked: map[string]int64{}, ended: map[string]struct{}{},
		File: filepath.Join(p.dir, "history-"+strconv.Itoa(len(p.agents))+".jsonl"),
	}
	options := a.options(o)
	options.Identity = &client.Identity{Key: key, ID: ids.ClientOfKey(&key.PublicKey), InstallTime: time.Now().UTC().Truncate(time.Second)}
	one, err := client.New(options)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1) // one answer
	go func() { done <- one.Run(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		a.goOn()
		if err := <-done; err != nil {
			p.t.Errorf("agent %s: %v", a.ID, err)
		}
		options.Transport.Close()
		if p.t.Failed() {
			p.t.Logf("log of agent %s ends:\n%s", a.ID, a.Log.Tail(2000))
		}
	})
	p.agents = append(p.agents, a)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops = append(p.stops, a.stop)
	return a
}

func (a *Agent) options(o AgentOptions) client.Options {
	p := a.pack
	p.t.Helper()
	nodes := o.Nodes
	if nodes == nil {
		nodes = p.Nodes
	}
	file := p.file.Client
	file.ServerURLs = nil
	for _, n := range nodes {
		file.ServerURLs = append(file.ServerURLs, "http://"+n.Name+":"+doorPort+"/")
	}
	options, err := agent.Options(file, agent.Settings{Logger: a.Log.Logger(), History: a.File, MinBackOff: 20 * time.Millisecond})
	if err != nil {
		p.t.Fatal(err)
	}
	transport := agent.TransportOptions(file)
	transport.ConnectionTimeout, transport.Dial = cmp.Or(o.Wait, 2*time.Second), p.dialDoor(p.crowd, (*Node).frontend)
	if options.Transport, err = wire.NewTransport(transport); err != nil {
		p.t.Fatal(err)
	}
	options.Buffer.Dir, options.MaxUploadSize = "", 4<<10
	options.MinPoll, options.MaxPoll, options.MaxPollStd = 10*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond
	options.EnrolPause, options.FlowUpdate, options.FallbackTime = 200*time.Millisecond, 100*time.Millisecond, time.Second
	take := options.Acknowledged
	options.Acknowledged = func(messages [][]byte) {
		take(messages)
		a.acknowledged(messages)
	}
	return options
}

func (a *Agent) acknowledged(messages [][]byte) {
	a.mu.Lock()
	var rest *half
	for _, raw := range messages {
		var m wirepb.VeloMessage
		if proto.Unmarshal(raw, &m) != nil {
			continue // the history has told already
		}
		a.acked[m.GetSessionId()] += int64(m.GetVqlResponse().GetTotalRows())
		if m.GetFlowStats().GetFlowComplete() {
			a.ended[m.GetSessionId()] = struct{}{}
		}
		if a.half != nil && a.acked[m.GetSessionId()] >= a.half.rows {
			rest, a.half = a.half, nil
		}
	}
	a.mu.Unlock()
	if rest != nil {
		close(rest.reached)
		<-rest.passed
	}
}

// restAt has the agent rest, sending no more rows, as soon as so many of one flow are
// acknowledged.
func (a *Agent) restAt(rows int64) *half {
	h := &half{rows: rows, reached: make(chan struct{}), passed: make(chan struct{})}
	h.goOn = sync.OnceFunc(func() { close(h.passed) })
	a.mu.Lock()
	defer a.mu.Unlock()
	a.half, a.rests = h, append(a.rests, h)
	return h
}

func (a *Agent) goOn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.rests {
		h.goOn()
	}
}

// Acked is how many rows of a flow the agent was told are durable, and whether its
// end was.
func (a *Agent) Acked(flow string) (rows int64, ended bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ended = a.ended[flow]
	return a.acked[flow], ended
}

// dialDoor dials a node by its name: a door of its present life.
func (p *Pack) dialDoor(from *host, door func(*Node) string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		name, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		for _, n := range p.Nodes {
			if n.Name == name {
				return p.Net.dialNode(ctx, from, name, func() string { return door(n) })
			}
		}
		return nil, fmt.Errorf("no node is called %q", name)
	}
}

func (n *Node) frontend() string {
	if one := n.Process(); one != nil {
		return one.FrontendAddress()
	}
	return ""
}

func (n *Node) operators() string {
	if one := n.Process(); one != nil {
		return one.OperatorsAddress()
	}
	return ""
}

// Agents are all agents, in the order in which they were added.
func (p *Pack) Agents() []*Agent { return p.agents }
