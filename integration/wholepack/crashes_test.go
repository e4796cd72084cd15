package wholepack_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"raptorpack/filestore/filestoretest"
	"raptorpack/integration/wholepack"
)

// storm breaks a pack at random, again and again.
type storm struct {
	t       *testing.T
	p       *wholepack.Pack
	chance  *rand.Rand
	crashes int
	step    int
	cures   []cure
	diary   []string
}

// cure ends a fault some steps later.
type cure struct {
	at   int
	what string
	end  func()
	node *wholepack.Node // that is ailing; nil: a link is
}

// maxDown is how many nodes are dead or ailing at once, at most.
const maxDown = 2

// fault is something that can happen to a node.
type fault struct {
	name   string
	weight int
	begin  func(s *storm, n *wholepack.Node) (end func())
}

var faults = []fault{
	{"kill -9", 20, func(s *storm, n *wholepack.Node) func() {
		s.crashes++
		n.Kill()
		return n.Start
	}},
	{"kill -9 on a disk that does not answer", 2, func(s *storm, n *wholepack.Node) func() {
		s.crashes++
		n.FS().Inject(filestoretest.Fault{Hang: true, Times: filestoretest.Always})
		n.KillHanging()
		return n.Start
	}},
	{"kill -9 of a host: nobody is told", 2, func(s *storm, n *wholepack.Node) func() {
		s.crashes++
		s.p.Pause(n)
		n.Kill()
		return func() {
			s.p.Rejoin(n)
			n.Start()
		}
	}},
	{"SIGTERM", 1, func(s *storm, n *wholepack.Node) func() {
		n.Stop()
		return n.Start
	}},
	{"cut off from everybody", 2, func(s *storm, n *wholepack.Node) func() {
		s.p.Isolate(n)
		return func() { s.p.Rejoin(n) }
	}},
	{"cut off from nodes", 2, func(s *storm, n *wholepack.Node) func() {
		for _, other := range s.p.Others(n) {
			s.p.Net.Cut(n.Name, other.Name)
		}
		return func() { s.p.Rejoin(n) }
	}},
	{"network paused", 2, func(s *storm, n *wholepack.Node) func() {
		s.p.Pause(n)
		return func() { s.p.Rejoin(n) }
	}},
	{"nobody hears it", 2, func(s *storm, n *wholepack.Node) func() {
		for _, other := range s.p.Others(n) {
			s.p.Net.SilenceWay(n.Name, other.Name)
		}
		return func() { s.p.Isolate(n); s.p.Rejoin(n) } // and what it said is lost
	}},
	{"slow network", 1, func(s *storm, n *wholepack.Node) func() {
		for _, other := range s.p.Others(n) {
			s.p.Net.Slow(n.Name, other.Name, 20*time.Millisecond)
		}
		return func() { s.p.Rejoin(n) }
	}},
	{"disk hangs", 3, func(_ *storm, n *wholepack.Node) func() {
		return n.FS().Inject(filestoretest.Fault{Hang: true, Times: filestoretest.Always}).Lift
	}},
	{"disk hangs and network paused", 2, func(s *storm, n *wholepack.Node) func() {
		hang := n.FS().Inject(filestoretest.Fault{Hang: true, Times: filestoretest.Always})
		s.p.Pause(n)
		return func() { hang.Lift(); s.p.Rejoin(n) }
	}},
	{"writes hang half-way", 1, func(_ *storm, n *wholepack.Node) func() {
		return n.FS().Inject(filestoretest.Fault{Op: filestoretest.Sync, Hang: true, Times: filestoretest.Always}).Lift
	}},
	{"a sync fails and drops data", 2, func(s *storm, n *wholepack.Node) func() {
		return n.FS().Inject(filestoretest.Fault{Op: filestoretest.Sync, Err: syscall.EIO, Drop: true, Skip: s.chance.IntN(5)}).Lift
	}},
	{"a write is torn", 2, func(s *storm, n *wholepack.Node) func() {
		return n.FS().Inject(filestoretest.Fault{Op: filestoretest.Write, Err: syscall.EIO, Torn: 1 + s.chance.IntN(60), Skip: s.chance.IntN(5)}).Lift
	}},
	{"stale handles", 1, func(s *storm, n *wholepack.Node) func() {
		return n.FS().Inject(filestoretest.Fault{Err: syscall.ESTALE, Times: 3, Skip: s.chance.IntN(20)}).Lift
	}},
	{"stale attributes", 1, func(_ *storm, n *wholepack.Node) func() {
		n.Stale(5 * time.Second)
		return func() { n.Stale(0) }
	}},
}

// pick is a fault by its weight.
func (s *storm) pick() fault {
	sum := 0
	for _, f := range faults {
		sum += f.weight
	}
	at := s.chance.IntN(sum)
	for _, f := range faults {
		if at -= f.weight; at < 0 {
			return f
		}
	}
	panic("weights that do not add up")
}

// blow lets something happen, and something end.
func (s *storm) blow() {
	s.step++
	s.cure(s.step)
	n := s.p.Nodes[s.chance.IntN(len(s.p.Nodes))]
	f, lasts := s.pick(), 1+s.chance.IntN(3)
	down := slices.ContainsFunc(s.cures, func(c cure) bool { return c.node == n })
	if down || len(s.cures) >= maxDown || !n.Wanted() {
		return
	}
	s.note("%s: %s, for %d steps", n.Name, f.name, lasts)
	s.cures = append(s.cures, cure{s.step + lasts, n.Name + ": " + f.name, f.begin(s, n), n})
}

// cure ends what has lasted long enough by a step.
func (s *storm) cure(step int) {
	s.cures = slices.DeleteFunc(s.cures, func(c cure) bool {
		if c.at <= step {
			s.note("%s ends", c.what)
			c.end()
		}
		return c.at <= step
	})
}

func (s *storm) note(format string, args ...any) {
	s.diary = append(s.diary, fmt.Sprintf("%s step %d: %s", s.p.History.Now(), s.step, fmt.Sprintf(format, args...)))
}

// rest lets the pack work for a while: until something was acknowledged, or for a
// moment in which nobody could.
func (s *storm) rest() {
	enough := s.p.History.Acknowledged() + 1 + s.chance.IntN(8)
	limit := time.NewTimer(time.Duration(300+s.chance.IntN(900)) * time.Millisecond)
	defer limit.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for s.p.History.Acknowledged() < enough {
		select {
		case <-limit.C:
			return
		case <-look.C:
		}
	}
}

// Whatever breaks, and in whatever order: what was acknowledged is there once, in
// its order, and nobody is shown what is not.
func TestCrashesLoseAndDoubleNothing(t *testing.T) {
	with, want := chance(t), 30
	if *long {
		want = 1000
	}
	s := &storm{t: t, chance: rand.New(rand.NewPCG(with, 3))}
	sizes := [][2]int{{2, 1}, {3, 0}, {2, 2}, {3, 2}}
	size := sizes[s.chance.IntN(len(sizes))]
	s.p = launch(t, wholepack.Options{Candidates: size[0], Minions: size[1]})
	s.p.Work(wholepack.WorkOptions{Seed: with})
	begin := time.Now()
	for s.crashes < want {
		s.blow()
		s.rest()
	}
	t.Logf("%d crashes in %d steps of %d candidates and %d minions in %v", s.crashes, s.step, size[0], size[1], time.Since(begin).Round(time.Second))
	s.cure(s.step + 100)
	s.p.Finish()
	if t.Failed() {
		t.Logf("what happened:\n%s", strings.Join(s.diary[max(0, len(s.diary)-200):], "\n"))
	}
}
