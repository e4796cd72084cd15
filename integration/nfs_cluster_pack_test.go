//go:build nfslab

package integration_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"raptorpack/integration"
)

// TestClusterKillsOfAnyNodeLoseAndDoubleNothing kills nodes at random while rows and
// labels come in. On hosts of their own nobody sees that a process is gone, so the
// others wait for its lease: how long a write waits at the minion is reported.
func TestClusterKillsOfAnyNodeLoseAndDoubleNothing(t *testing.T) {
	masters, others := 3, 3
	if *long {
		masters, others = 20, 10
	}
	s := newClusterStory(t, os.Getenv("RAPTORPACK_BINARY"))
	agent := s.agent()
	s.operate()
	victims := slices.Concat(slices.Repeat([]bool{true}, masters), slices.Repeat([]bool{false}, others))
	rand.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	var took []time.Duration
	for i, kills := range victims {
		agent.progress()
		if kills {
			took = append(took, s.killMaster(i))
			continue
		}
		n := s.lab.Nodes()[rand.N(len(s.lab.Nodes()))]
		s.tell("kill -9 of %s, which leads: %v", n.Machine, n.Leads())
		n.Kill()
		n.Start()
		n.WaitReady()
	}
	slices.Sort(took)
	s.tell("kill -9 of the master to the first accepted write at the minion, %d kills: p50 %v, p99 %v, max %v", masters, took[masters/2], took[masters*99/100], took[masters-1])
	s.end()
	for _, n := range s.lab.Nodes() {
		n.Stop()
	}
}

// killMaster kills whoever leads and returns when another does and the killed one is
// back, with the time until the minion had a write accepted.
func (s *clusterStory) killMaster(kill int) time.Duration {
	s.t.Helper()
	master, minion := s.lab.Master(), s.lab.Nodes()[2]
	label := fmt.Sprintf("after kill %d", kill)
	begin := time.Now()
	master.Kill()
	s.lab.Wait(label, func() (bool, string) {
		err := minion.Label(s.agents[0].ID, label, label, false)
		return err == nil, fmt.Sprint(err)
	})
	took := time.Since(begin).Round(time.Millisecond)
	s.tell("kill -9 of %s, which led: a write at %s was accepted after %v", master.Machine, minion.Machine, took)
	master.Start()
	master.WaitReady()
	return took
}

// TestClusterPausedMasterChangesNothing stops the master for longer than its lease,
// at full size also until the others have given up its incarnation, minutes later.
// What it writes when it goes on lies beyond the seal.
func TestClusterPausedMasterChangesNothing(t *testing.T) {
	pauses := 2
	if *long {
		pauses = 10
	}
	s := newClusterStory(t, os.Getenv("RAPTORPACK_BINARY"))
	agent := s.agent()
	s.operate()
	for pause := range pauses {
		agent.progress()
		s.pauseMaster(*long && pause%5 == 1)
	}
	s.end()
}

// pauseMaster stops the master until another leads, or until the others have buried
// it.
func (s *clusterStory) pauseMaster(buried bool) {
	s.t.Helper()
	zombie := s.lab.Master()
	s.operator.Progress(5) // it is in the middle of writes
	begin, restarts := time.Now(), zombie.Restarts()
	zombie.Pause()
	next := s.lab.Master(zombie)
	s.tell("%s stands still, %s led after %v", zombie.Machine, next.Machine, time.Since(begin).Round(time.Millisecond))
	before := zombie.Burials(next)
	if buried {
		s.lab.Wait("the others to bury "+zombie.Machine, func() (bool, string) { return zombie.Burials(next) > before, "" })
	}
	s.operator.Progress(5)
	zombie.Resume()
	s.lab.Wait(zombie.Machine+" to follow", func() (bool, string) {
		its, err := zombie.Status()
		now, other := next.Status()
		return err == nil && other == nil && its.Role != "master" && its.Epoch == now.Epoch, fmt.Sprintf("%+v %v, %s is at %+v %v", its, err, next.Machine, now, other)
	})
	s.lab.WaitAllReady()
	s.tell("%s, which stood still, follows after %v, with %d restarts", zombie.Machine, time.Since(begin).Round(time.Millisecond), zombie.Restarts()-restarts)
	s.operator.Check(s.t)
	s.rowsSoFar("the pause of the master")
}

// hang is how long a mount hangs: longer than any lease lasts.
const hang = time.Minute

// TestClusterHungMountHurtsOneNodeOnly has the mount of one node hang. What it was
// about to acknowledge has to wait, what it knows it tells, and others go on.
func TestClusterHungMountHurtsOneNodeOnly(t *testing.T) {
	rounds := 1
	if *long {
		rounds = 4
	}
	s := newClusterStory(t, os.Getenv("RAPTORPACK_BINARY"))
	master, minion := s.lab.Master(), s.lab.Nodes()[2]
	at, elsewhere := s.agent(master), s.agent(minion)
	s.operate()
	for round := range rounds {
		hung, held, free := master, at, elsewhere
		if round%2 == 1 {
			hung, held, free = minion, elsewhere, at
		}
		held.progress()
		s.hangMount(hung, held, free)
	}
	s.end()
}

// hangMount has the mount of a node hang, to which one agent is connected and the
// other is not.
func (s *clusterStory) hangMount(hung *integration.ClusterNode, held, free *clusterAgent) {
	s.t.Helper()
	led, restarts := hung.Leads(), hung.Restarts()
	s.tell("the mount of %s hangs, which leads: %v", hung.Machine, led)
	begin := time.Now()
	hung.Hang()
	asked := s.askHung(hung, begin, led)
	free.progress()
	s.operator.Progress(5)
	asked()
	hung.Mend()
	mended := time.Now()
	hung.WaitReady()
	s.tell("%s serves again %v after the end of the hang, with %d restarts", hung.Machine, time.Since(mended).Round(time.Millisecond), hung.Restarts()-restarts)
	s.lab.WaitAllReady()
	held.progress()
	s.operator.Check(s.t)
	s.rowsSoFar("the hang")
}

// askHung asks a node whose mount hangs for its status all the while. The function
// that it returns waits until the hang is to end.
func (s *clusterStory) askHung(hung *integration.ClusterNode, begin time.Time, led bool) func() {
	var asked int
	var slowest time.Duration
	var wrong []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(200 * time.Millisecond)
		defer pace.Stop()
		for ; time.Since(begin) < hang; <-pace.C {
			status, took, err := hung.Prompt()
			asked++
			slowest = max(slowest, took)
			if err != nil {
				wrong = append(wrong, err.Error())
			} else if status.Connected == 0 {
				wrong = append(wrong, fmt.Sprintf("after %v the agent is gone", time.Since(begin)))
			}
		}
	}()
	return func() {
		s.t.Helper()
		<-done
		if len(wrong) > 0 {
			s.t.Errorf("%d of %d questions to the hung node went wrong, first: %s", len(wrong), asked, wrong[0])
		}
		if led {
			s.tell("%s leads now", s.lab.Master(hung).Machine)
		}
		if hung.Leads() {
			s.t.Errorf("%s still says that it leads", hung.Machine)
		}
		s.tell("/status of the hung node was asked %d times, the slowest answer took %v", asked, slowest.Round(time.Millisecond))
	}
}
