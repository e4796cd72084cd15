package wholepack

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"raptorpack/integration/history"
)

// WorkOptions say how busy a pack is.
type WorkOptions struct {
	Seed       uint64
	Operators  int   // who label clients; 0: two
	Readers    int   // who read labels; 0: two
	Collectors int   // who collect rows, one flow after the other; negative: none, 0: one
	Rows       int64 // of each flow; 0: 400
}

// Work is people who use a pack while a test breaks it. All that they see goes into
// the pack's history.
type Work struct {
	pack *Pack
	o    WorkOptions

	ctx     context.Context // of beginning something new
	cancel  context.CancelFunc
	workers sync.WaitGroup
}

// Work begins once every agent is enrolled.
func (p *Pack) Work(o WorkOptions) *Work {
	p.t.Helper()
	w := &Work{pack: p, o: o}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	p.Enrolled()
	p.SetNumbers()
	p.mu.Lock()
	p.works = append(p.works, w)
	p.mu.Unlock()
	chance := rand.New(rand.NewPCG(o.Seed, 1))
	for i := range orDefault(o.Operators, 2) {
		w.begin("op"+strconv.Itoa(i), chance, (*worker).label)
	}
	for i := range orDefault(o.Readers, 2) {
		w.begin("reader"+strconv.Itoa(i), chance, (*worker).read)
	}
	for i := range max(orDefault(o.Collectors, 1), 0) {
		w.begin("hunter"+strconv.Itoa(i), chance, (*worker).collect)
	}
	w.workers.Go(func() { p.watchReigns(w.ctx) })
	return w
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// pace is how long a worker rests between two things.
const pace = 10 * time.Millisecond

func (w *Work) begin(name string, chance *rand.Rand, do func(*worker)) {
	one := &worker{Operator: w.pack.NewOperator(name), work: w, chance: rand.New(rand.NewPCG(chance.Uint64(), 2)), mine: map[string][]string{}}
	w.workers.Go(func() {
		for w.ctx.Err() == nil {
			do(one)
			one.rest(pace)
		}
	})
}

// Stop has everybody come to the end of what they began, and returns then.
func (w *Work) Stop() {
	w.cancel()
	w.workers.Wait()
}

// Enrolled returns when every node knows every agent.
func (p *Pack) Enrolled() {
	p.t.Helper()
	op := p.NewOperator("clerk")
	for _, a := range p.agents {
		for _, n := range p.Nodes {
			p.Wait("agent "+a.ID+" to be known to "+n.Name, func() (bool, string) {
				if !n.Wanted() {
					return true, ""
				}
				err := op.Ask(n, http.MethodGet, "/clients/"+a.ID, nil, nil)
				return err == nil, errorText(err)
			})
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// watchReigns notes who leads, until ctx ends.
func (p *Pack) watchReigns(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for before := p.History.Now(); ; {
		for _, n := range p.Nodes {
			if one := n.Process(); one != nil {
				if epoch := one.Leads(); epoch != 0 {
					p.History.Leads(one.Incarnation(), epoch, before, p.History.Now())
				}
			}
		}
		before = p.History.Now()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// worker is one of those who work, with a mind of their own.
type worker struct {
	*Operator
	work   *Work
	chance *rand.Rand
	count  int                 // of changes asked for
	mine   map[string][]string // labels of mine that a client has, oldest first
	last   uint64              // newest entry that I was told of
}

// rest waits, unless the work is over.
func (w *worker) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.work.ctx.Done():
	}
}

// node picks a node, mostly one that somebody started.
func (w *worker) node() *Node {
	all := w.pack.Nodes
	n := all[w.chance.IntN(len(all))]
	for range 3 {
		if n.Wanted() {
			break
		}
		n = all[w.chance.IntN(len(all))]
	}
	return n
}

func (w *worker) agent() *Agent { return w.pack.agents[w.chance.IntN(len(w.pack.agents))] }

func (w *worker) token() string {
	w.count++
	return history.Token(w.count, w.Name)
}
