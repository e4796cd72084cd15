package cluster_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/cluster"
	"raptorpack/internal/testkit"
)

func TestThreeNodesFindEachOtherFromOneSeed(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	second := options(t, "b-12", a.Address())
	second.BusPort, second.Candidate, second.Version = 8002, true, "1.2.3"
	second.Clients = func() int { return 40 }
	b := launch(t, second)
	c := launch(t, options(t, "c-3", a.Address()))

	a.sees(t, "b-12 c-3")
	b.sees(t, "a-1 c-3")
	members := c.sees(t, "a-1 b-12")

	want := cluster.Member{Incarnation: "b-12", Node: "b", Bus: "127.0.0.1:8002", Candidate: true, Version: "1.2.3", Clients: 40}
	if got := members[1]; got != want {
		t.Errorf("c sees %+v, want %+v", got, want)
	}
	if got, want := members[0], (cluster.Member{Incarnation: "a-1", Node: "a"}); got != want {
		t.Errorf("c sees %+v, want %+v", got, want)
	}
	a.counts(t, 3)
}

func TestChangedRingsAfterMembersChanged(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	b := launch(t, options(t, "b-1", a.Address()))
	<-a.Changed()
	if got := a.names(); got != "b-1" {
		t.Errorf("after the first ring a sees %q", got)
	}
	b.sees(t, "a-1")
	b.kill(t)
	<-a.Changed()
	if got := a.names(); got != "" {
		t.Errorf("after the second ring a sees %q", got)
	}
}

func TestMembersBelongToTheCaller(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	launch(t, options(t, "b-1", a.Address()))
	a.sees(t, "b-1")[0].Incarnation = "changed"
	if got := a.names(); got != "b-1" {
		t.Errorf("a sees %q", got)
	}
}

func TestKilledNodeVanishes(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	b := launch(t, options(t, "b-1", a.Address()))
	c := launch(t, options(t, "c-1", a.Address()))
	a.sees(t, "b-1 c-1")
	b.sees(t, "a-1 c-1")

	c.kill(t)

	a.sees(t, "b-1")
	b.sees(t, "a-1")
	a.reaches(t, "raptorpack_cluster_members_gone_total", 1)
	testkit.Eventually(t, "a says so", func() (any, bool) {
		return a.log.String(), a.log.count(`msg="node gone" node=c incarnation=c-1`) == 1
	})
}

// Nobody probes here, so only its farewell can make the node vanish.
func TestNodeThatLeavesVanishesWithoutBeingProbed(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"), cluster.NeverProbe())
	b := launch(t, options(t, "b-1", a.Address()), cluster.NeverProbe())
	c := launch(t, options(t, "c-1", a.Address()), cluster.NeverProbe())
	a.sees(t, "b-1 c-1")
	b.sees(t, "a-1 c-1")

	if err := c.leave(); err != nil {
		t.Fatal(err)
	}

	a.sees(t, "b-1")
	b.sees(t, "a-1")
	if got := c.Members(); got != nil {
		t.Errorf("after Run c still sees %v", got)
	}
}

func TestRestartOnTheSamePortIsTheNewRun(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	b := launch(t, options(t, "b-9", a.Address()))
	c := launch(t, options(t, "c-1", a.Address()))
	a.sees(t, "b-9 c-1")
	c.sees(t, "a-1 b-9")
	b.kill(t)

	again := options(t, "b-10", a.Address())
	again.BindPort = portIn(t, b.Address())
	next := launch(t, again)

	if next.Address() != b.Address() {
		t.Fatalf("the new run is at %s, the old one was at %s", next.Address(), b.Address())
	}
	a.sees(t, "b-10 c-1")
	c.sees(t, "a-1 b-10")
	next.sees(t, "a-1 c-1")
	a.reaches(t, "raptorpack_cluster_members_gone_total", 1) // the old run, now found dead
	a.sees(t, "b-10 c-1")
	a.counts(t, 3)
}

func TestWrongKeyNeverJoinsAndSaysSoOnce(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	o := options(t, "b-1", a.Address())
	o.Key = bytes.Repeat([]byte{8}, 32)
	b := launch(t, o, cluster.Rejoin(20*time.Millisecond))

	b.reaches(t, "raptorpack_cluster_joins_failed_total", 5)
	a.reaches(t, "raptorpack_cluster_troubles_total", 5)

	if a.names() != "" || b.names() != "" {
		t.Errorf("a sees %q, b sees %q", a.names(), b.names())
	}
	if n := b.log.count("has another gossip key"); n != 1 {
		t.Errorf("b says it %d times:\n%s", n, b.log)
	}
	if n := a.log.count("gossip under another key refused"); n != 1 {
		t.Errorf("a says it %d times:\n%s", n, a.log)
	}
	if log := a.log.String() + b.log.String(); strings.Count(log, "\n") != 2 {
		t.Errorf("more than these two lines:\n%s", log)
	}
}

func TestLoadIsToldWhenItChangedMuch(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	var clients, asked atomic.Int64
	clients.Store(1000)
	o := options(t, "b-1", a.Address())
	o.Clients = func() int {
		asked.Add(1)
		return int(clients.Load())
	}
	launch(t, o, cluster.Tell(5*time.Millisecond))
	a.sees(t, "b-1")
	seen := func() int { return a.sees(t, "b-1")[0].Clients }

	clients.Store(1062) // not more than a sixteenth
	looks := asked.Load()
	testkit.Eventually(t, "some looks", func() (any, bool) { return asked.Load(), asked.Load() > looks+3 })
	if got := seen(); got != 1000 {
		t.Errorf("a small change was told: %d", got)
	}
	for _, now := range []int{1063, 0, 1, -5 /* none */} {
		clients.Store(int64(now))
		testkit.Eventually(t, "the new load", func() (any, bool) { return seen(), seen() == max(now, 0) })
	}
}

func TestTakenPortIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	first, err := cluster.New(options(t, "a-1"))
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, "b-1")
	o.BindPort = portIn(t, first.Address())

	if _, err := cluster.New(o); err == nil || !strings.Contains(err.Error(), first.Address()) {
		t.Errorf("a taken port: %v", err)
	}

	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := cluster.New(o) // on the same registry: what failed left nothing there
	if err != nil {
		t.Fatalf("after Close the port is free: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

// TCP and UDP ports are apart: one alone is not enough.
func TestPortTakenForUDPOnly(t *testing.T) {
	t.Parallel()
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	o := options(t, "a-1")
	o.BindPort = taken.LocalAddr().(*net.UDPAddr).Port
	if _, err := cluster.New(o); err == nil || !strings.Contains(err.Error(), taken.LocalAddr().String()) {
		t.Errorf("a taken port: %v", err)
	}
}

func TestRunsOnce(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	b := launch(t, options(t, "b-1", a.Address()))
	a.sees(t, "b-1")
	if err := a.Run(t.Context()); err == nil {
		t.Error("a second Run was taken")
	}
	for range 2 {
		b.kill(t)
	}
	never, err := cluster.New(options(t, "c-1"))
	if err != nil {
		t.Fatal(err)
	}
	if got := never.Members(); got != nil {
		t.Errorf("before Run it sees %v", got)
	}
	for range 2 {
		if err := never.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := never.Run(t.Context()); err == nil {
		t.Error("Run after Close was taken")
	}
}

func TestRunEndsAtOnceWhenItsContextHas(t *testing.T) {
	t.Parallel()
	c, err := cluster.New(options(t, "a-1", "127.0.0.1:9"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
}
