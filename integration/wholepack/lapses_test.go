package wholepack_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"raptorpack/cmd/node"
	"raptorpack/filestore/filestoretest"
	"raptorpack/integration/wholepack"
	"raptorpack/internal/seeded"
)

// A process whose disk hung for so long that its name went to another, and whose
// files were sealed meanwhile, gets what it had under way done at last. It must not
// tell its clients so.
func TestLapsedNodeAcknowledgesNothing(t *testing.T) {
	p, minion, a := atMinion(t, func(u *node.Tuning) { u.CommitWait, u.IncarnationTTL = 25*time.Second, 600*time.Millisecond })
	c := p.CollectHalf(p.Master(), a, 3000, 100)
	hung := minion.FS().Inject(filestoretest.Fault{Hang: true, Times: filestoretest.Always})
	c.GoOn()
	p.Wait("rows to hang", func() (bool, string) { return hung.Hanging() > 2, "" })
	old := minion.Orphan()
	told, _ := a.Acked(c.ID)
	minion.Start()
	store := p.Store()
	p.Wait("the old life to be sealed", func() (bool, string) {
		names, err := store.ReadDir(t.Context(), "nodes/"+minion.Name)
		return slices.Contains(names, "1.seal"), fmt.Sprint(names, err)
	})
	if err := store.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if now, _ := a.Acked(c.ID); now != told {
		t.Errorf("%d rows were acknowledged while the disk hung", now-told)
	}
	old.FS().Clear()
	<-old.Ended()
	p.Finish()
}

// Everything stops at once, and the disk keeps what was synced.
func TestPowerCutsLoseNothingThatWasAcknowledged(t *testing.T) {
	with, cuts := chance(t), 20
	switch {
	case seeded.Out("sync"):
		cuts = 5 // one is enough to lose something
	case *long:
		cuts = 50
	}
	disk := filestoretest.NewPowerCut(t, with)
	p := launch(t, wholepack.Options{Candidates: 2, Minions: 1, Disk: disk})
	p.Work(wholepack.WorkOptions{Seed: with})
	for range cuts {
		acked := p.History.Acknowledged()
		p.Wait("changes to be acknowledged", func() (bool, string) { return p.History.Acknowledged() > acked+10, "" })
		disk = disk.MustCut(t)
		for _, n := range p.Nodes {
			n.Kill()
		}
		p.Mount(disk)
		for _, n := range p.Nodes {
			n.Start()
		}
		if ok := p.AwaitWhole(); !ok {
			break // Finish says what is wrong
		}
	}
	p.Finish()
}

// A node that is told to end ends, whether its disk answers or not, and however far
// it has come.
func TestNodesEndThoughTheirDiskHangs(t *testing.T) {
	for name, path := range map[string]string{"at the first call": "*", "while it claims its name": "nodes/a", "while it loads": "ledger/*"} {
		t.Run(name, func(t *testing.T) {
			p := wholepack.New(t, wholepack.Options{})
			n := p.Nodes[0]
			p.Start()
			n.Stop()
			hangs(p, n.StartWith(filestoretest.Fault{Path: path, Hang: true, Times: filestoretest.Always})[0])
			<-n.KillHanging()
		})
	}
	t.Run("while it leads", func(t *testing.T) {
		p := wholepack.New(t, wholepack.Options{})
		p.Start()
		hangs(p, p.Nodes[0].FS().Inject(filestoretest.Fault{Hang: true, Times: filestoretest.Always}))
		<-p.Nodes[0].KillHanging()
	})
}
