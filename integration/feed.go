package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/client"
	"raptorpack/cmd/agent"
	"raptorpack/pool"
	"raptorpack/proto/wirepb"
)

// Feed is agents of this process that have rows for one node all the time. It
// knows when their data was acknowledged.
type Feed struct {
	stop func()

	mu    sync.Mutex
	acks  []time.Time
	wrong error
}

// stream yields rows until somebody ends the flow.
const stream = `name: Custom.Integration.Stream
sources:
- query: SELECT Unix FROM clock(ms=50)
`

// Feed starts agents that know one node only, and returns when all have sent rows.
func (p *Pack) Feed(n *Node, agents int) *Feed {
	p.t.Helper()
	p.SetArtifact(stream)
	identities, err := pool.LoadIdentities(context.Background(), p.path("feed"), agents)
	if err != nil {
		p.t.Fatal(err)
	}
	f := &Feed{}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	f.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	p.t.Cleanup(f.stop)
	began := make([]chan struct{}, agents)
	for i := range agents {
		identity, err := identities.At(i)
		if err != nil {
			p.t.Fatal(err)
		}
		began[i] = make(chan struct{})
		one, err := f.agent(n, identity, began[i])
		if err != nil {
			p.t.Fatal(err)
		}
		done.Go(func() { f.ended(ctx, one.Run(ctx)) })
		p.wait("agent "+strconv.Itoa(i)+" of a feed", func() (bool, string) {
			var c struct{ Online bool }
			err := p.Get("/clients/"+identity.ID.String(), &c)
			return err == nil && c.Online, fmt.Sprint(err)
		})
		p.Collect(&Agent{ID: identity.ID.String()}, "Custom.Integration.Stream", nil)
	}
	for i := range began {
		<-began[i]
	}
	return f
}

// agent makes one that posts as often as it has something.
func (f *Feed) agent(n *Node, identity *client.Identity, began chan struct{}) (*client.Client, error) {
	settings := n.file.Client
	settings.ServerURLs = []string{"https://localhost:" + strconv.Itoa(n.file.Frontend.BindPort) + "/"}
	o, err := agent.Options(settings, agent.Settings{Version: "feed", MinBackOff: 50 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	o.Identity, o.WritebackPath, o.Buffer.Dir = identity, "", ""
	o.MinPoll, o.MaxWait = 50*time.Millisecond, 50*time.Millisecond
	first := sync.OnceFunc(func() { close(began) })
	o.Acknowledged = func(messages [][]byte) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.acks = append(f.acks, time.Now())
		for _, text := range messages {
			var m wirepb.VeloMessage
			if err := proto.Unmarshal(text, &m); err == nil && m.GetVqlResponse().GetTotalRows() > 0 {
				first()
			}
		}
	}
	return client.New(o)
}

func (f *Feed) ended(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = errors.Join(f.wrong, fmt.Errorf("an agent of a feed ended: %w", err))
}

// Stop ends all agents and returns what went wrong.
func (f *Feed) Stop() error {
	f.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wrong
}

// Taken tells how much was acknowledged between two moments, and for how long at
// most nothing was.
func (f *Feed) Taken(from, to time.Time) (posts int, pause time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, _ := slices.BinarySearchFunc(f.acks, from, time.Time.Compare)
	last := from
	for ; i < len(f.acks) && f.acks[i].Before(to); i++ {
		pause = max(pause, f.acks[i].Sub(last))
		last = f.acks[i]
		posts++
	}
	return posts, max(pause, to.Sub(last))
}
