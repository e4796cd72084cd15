package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"raptorpack/integration"
)

// operator writes labels through one node after the other, as through a balancer: a
// node that takes no connection is passed over, any other answer than yes is a
// failed write.
type operator struct {
	pack    *integration.Pack
	client  string
	patient bool // tries again, under the same key, until it is answered with yes
	life    context.Context
	stop    func()

	mu     sync.Mutex
	acked  []string
	failed []error
	worst  time.Duration
}

func operate(pack *integration.Pack, client string, patient bool) *operator {
	o := &operator{pack: pack, client: client, patient: patient}
	life, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	o.life, o.stop = life, func() { cancel(); done.Wait() }
	for w := range 2 {
		done.Go(func() { o.write(w) })
	}
	return o
}

func (o *operator) write(worker int) {
	nodes := o.pack.Nodes()
	for i := 0; o.life.Err() == nil; i++ {
		label := fmt.Sprintf("w%d-%d", worker, i%80)
		begin := time.Now()
		for at := 0; at < len(nodes) || o.patient; at++ {
			n := nodes[(i+at)%len(nodes)]
			if !n.Running() {
				continue
			}
			err := n.Label(o.client, label, fmt.Sprintf("%d-%d", worker, i))
			if refused(err) || err != nil && o.patient {
				continue
			}
			o.mu.Lock()
			if err != nil {
				o.failed = append(o.failed, fmt.Errorf("%s at %s: %w", label, n.Name, err))
			} else {
				o.acked = append(o.acked, label)
			}
			o.worst = max(o.worst, time.Since(begin))
			o.mu.Unlock()
			break
		}
	}
}

// refused reports a connection that was never made, or one that an idle client kept
// and the server had closed: a balancer tries the next node.
func refused(err error) bool {
	var dial *net.OpError
	var request *url.Error
	return errors.As(err, &request) && errors.As(err, &dial)
}

// check ends the operator and holds what it was told against the client's record.
func (o *operator) check(t *testing.T, agent *integration.Agent) {
	t.Helper()
	o.stop()
	for _, err := range o.failed {
		t.Errorf("a write failed: %v", err)
	}
	labels := o.pack.Labels(agent)
	for _, label := range o.acked {
		if !slices.Contains(labels, label) {
			t.Errorf("the acknowledged label %s is lost", label)
		}
	}
	t.Logf("%d writes, the slowest took %v", len(o.acked), o.worst)
}

func TestRollingRestartFailsNobody(t *testing.T) {
	rounds, rows := 1, int64(100_000)
	if *long {
		rounds, rows = 5, 2_000_000
	}
	o := options(t)
	o.Masters, o.Minions = 2, 1
	pack := integration.Launch(t, o)
	pack.StartAll()
	agent := pack.AddAgent()
	pack.SetArtifact(numbers)
	flow := pack.Collect(agent, "Custom.Integration.Numbers", map[string]string{"Rows": strconv.FormatInt(rows, 10)})
	writer := operate(pack, agent.ID, false)
	for range rounds {
		for _, n := range pack.Nodes() {
			n.Stop()
			n.Start()
			n.WaitReady()
		}
	}
	if f := pack.Await(agent, flow); f.State != "completed" || f.Rows != rows {
		t.Errorf("the flow is %+v, want %d rows", f, rows)
	}
	writer.check(t, agent)
	for _, n := range pack.Nodes() {
		n.Stop()
	}
	stored := integration.Check{
		Store: pack.Store(), Client: agent.ID, Flow: flow, Result: "Custom.Integration.Numbers", Rows: rows, History: agent.History(),
	}
	if err := stored.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPlannedHandOverIsShort(t *testing.T) {
	hands := 3
	if *long {
		hands = 100
	}
	o := options(t)
	o.Masters, o.Minions = 2, 1
	pack := integration.Launch(t, o)
	pack.StartAll()
	agent := pack.AddAgent()
	minion := pack.Nodes()[2]
	var took []time.Duration
	for hand := range hands {
		master := pack.Master()
		var worst time.Duration
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			master.Stop()
		}()
		for i := 0; ; i++ {
			label := fmt.Sprintf("h%d", hand)
			begin := time.Now()
			if err := minion.Label(agent.ID, label, fmt.Sprintf("%d-%d", hand, i)); err != nil {
				t.Errorf("a write failed: %v", err)
			}
			worst = max(worst, time.Since(begin))
			select {
			case <-ended:
			default:
				continue
			}
			break
		}
		took = append(took, worst)
		master.Start()
		master.WaitReady()
	}
	slices.Sort(took)
	t.Logf("longest write at a minion while the master stops, %d times: p50 %v, p99 %v, max %v", hands, took[hands/2], took[(hands*99-1)/100], took[hands-1])
}
