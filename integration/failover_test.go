package integration_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"raptorpack/integration"
)

// TestKilledMasterIsReplaced kills the master again and again while an agent's rows
// and an operator's labels go on at the others. It reports how long writes waited.
func TestKilledMasterIsReplaced(t *testing.T) {
	kills := 3
	if *long {
		kills = 100
	}
	o := options(t)
	o.Masters, o.Minions, o.Apart = 2, 1, os.Getuid() == 0
	pack := integration.Launch(t, o)
	pack.StartAll()
	agent := pack.AddAgent()
	minion := pack.Nodes()[2]
	feed := pack.Feed(minion, 10)
	var took, pauses, usual []time.Duration
	for kill := range kills {
		master := pack.Master()
		_, pause := feed.Taken(time.Now().Add(-3*time.Second), time.Now())
		usual = append(usual, pause)
		begin := time.Now()
		master.Kill()
		label := fmt.Sprintf("after kill %d", kill)
		pack.WaitFor(label, func() (bool, string) {
			err := minion.Label(agent.ID, label, label)
			return err == nil, fmt.Sprint(err)
		})
		took = append(took, time.Since(begin))
		posts, pause := feed.Taken(begin, time.Now())
		pauses = append(pauses, pause)
		if posts == 0 {
			t.Errorf("the minion took nothing from agents while nobody led")
		}
		master.Rename(fmt.Sprintf("again-%d", kill))
		master.Start()
		master.WaitReady()
	}
	if err := feed.Stop(); err != nil {
		t.Error(err)
	}
	slices.Sort(took)
	slices.Sort(pauses)
	slices.Sort(usual)
	t.Logf("longest time without an acknowledgement of agents' data at the minion: p50 %v, max %v; in the 3 s before the kills p50 %v, max %v",
		pauses[kills/2], pauses[kills-1], usual[kills/2], usual[kills-1])
	t.Logf("kill -9 of the master to the first accepted write at a minion, %d kills: p50 %v, p99 %v, max %v",
		kills, took[kills/2], took[(kills*99-1)/100], took[kills-1])
	labels := pack.Labels(agent)
	for kill := range kills {
		if want := fmt.Sprintf("after kill %d", kill); !slices.Contains(labels, want) {
			t.Errorf("the acknowledged label %q is lost", want)
		}
	}
}
