//go:build nfslab

package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ClusterOperator adds and removes labels of a client through all nodes, one after
// the other. What is not answered with yes is asked again, under the same key, of
// the next node. The last answered wish decides what a label has to be: a wish that
// is lost shows, and one that is carried out a second time, after a later one, too.
type ClusterOperator struct {
	c       *Cluster
	client  string
	ending  atomic.Bool
	workers sync.WaitGroup
	wishes  sync.RWMutex // held by a wish; by Check against all

	mu     sync.Mutex
	labels map[string]bool // whether it is there
	acked  int
	again  int
	worst  time.Duration
	failed []string
}

// labelsEach is how many labels a worker of an operator has.
const labelsEach = 40

// Operate starts an operator with the client of this agent, who goes on until End.
func (a *ClusterAgent) Operate() *ClusterOperator {
	o := &ClusterOperator{c: a.c, client: a.ID, labels: map[string]bool{}}
	for w := range 2 {
		o.workers.Go(func() { o.work(w) })
	}
	return o
}

func (o *ClusterOperator) work(worker int) {
	for i := 0; !o.ending.Load(); i++ {
		o.wish(fmt.Sprintf("w%d-%d", worker, i%labelsEach), fmt.Sprintf("%d-%d", worker, i), i, i/labelsEach%2 == 1)
	}
}

// wish asks one node after the other, from the i-th on, until one says yes.
func (o *ClusterOperator) wish(label, key string, i int, remove bool) {
	o.wishes.RLock()
	defer o.wishes.RUnlock()
	begin := time.Now()
	life, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	for at := i; life.Err() == nil; at++ {
		if n := o.c.nodes[at%len(o.c.nodes)]; n.Running() {
			if err = n.Label(o.client, label, key, remove); err == nil {
				o.answered(label, remove, at-i, time.Since(begin))
				return
			}
		}
		select {
		case <-life.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.labels, label)
	o.failed = append(o.failed, fmt.Sprintf("%s: %v", label, err))
}

func (o *ClusterOperator) answered(label string, remove bool, again int, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.labels[label] = !remove
	o.acked++
	o.again += again
	o.worst = max(o.worst, took)
}

// Answered is how many wishes were answered with yes so far.
func (o *ClusterOperator) Answered() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked
}

// Progress returns once so many more wishes were answered.
func (o *ClusterOperator) Progress(more int) {
	o.c.t.Helper()
	from := o.Answered()
	o.c.Wait("an operator's writes to be accepted", func() (bool, string) {
		return o.Answered() >= from+more, fmt.Sprintf("%d, %d at first", o.Answered(), from)
	})
}

// Check has the operator finish what is under way and hold still, and compares what
// it was told with the client's record at every node that is ready.
func (o *ClusterOperator) Check(t testing.TB) {
	t.Helper()
	o.wishes.Lock()
	defer o.wishes.Unlock()
	compared := 0
	for _, n := range o.c.nodes {
		if s, err := n.Status(); err == nil && s.Ready == "" {
			o.compare(n)
			compared++
		}
	}
	if compared == 0 {
		t.Error("no node was ready to show the labels")
	}
}

func (o *ClusterOperator) compare(n *ClusterNode) {
	o.c.t.Helper()
	o.c.Wait("the operator's labels at "+n.Machine, func() (bool, string) {
		labels, err := n.Labels(o.client)
		wrong := o.differences(labels)
		return err == nil && len(wrong) == 0, fmt.Sprintf("%v, %v", wrong, err)
	})
}

// End ends the operator, compares at all nodes, and tells how it fared.
func (o *ClusterOperator) End(t testing.TB) {
	t.Helper()
	o.ending.Store(true)
	o.workers.Wait()
	for _, n := range o.c.nodes {
		o.compare(n)
	}
	for _, text := range o.failed {
		t.Errorf("a write was never accepted: %s", text)
	}
	t.Logf("%d writes were accepted, at the first try but for %d tries more, the slowest after %v", o.acked, o.again, o.worst.Round(time.Millisecond))
}

// differences are labels that are lost, or there again.
func (o *ClusterOperator) differences(labels []string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var wrong []string
	for label, there := range o.labels {
		if slices.Contains(labels, label) != there {
			wrong = append(wrong, fmt.Sprintf("%s should be there: %v", label, there))
		}
	}
	for _, label := range labels {
		if _, known := o.labels[label]; strings.HasPrefix(label, "w") && !known {
			wrong = append(wrong, label+" was never answered")
		}
	}
	slices.Sort(wrong)
	return wrong
}
