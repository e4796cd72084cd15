package cluster_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"raptorpack/cluster"
	"raptorpack/ids"
	"raptorpack/internal/testkit"
)

// Run says why a probe of a dead node may outlast it.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

var packKey = bytes.Repeat([]byte{7}, 32)

// node is a Cluster that runs in a test.
type node struct {
	*cluster.Cluster
	metrics *prometheus.Registry
	log     *logbook
	leave   func() error // ends Run, and returns what it did
}

func options(t testing.TB, incarnation string, join ...string) cluster.Options {
	name := incarnation[:strings.LastIndex(incarnation, "-")]
	id, err := ids.ParseNode(name)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.Options{
		Node: id, Incarnation: incarnation, BindAddress: "127.0.0.1", Key: packKey, Join: join,
		Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}
}

// launch runs a node till the test ends.
func launch(t testing.TB, o cluster.Options, with ...cluster.Tuning) *node {
	t.Helper()
	n := &node{metrics: o.Registerer.(*prometheus.Registry), log: &logbook{}}
	o.Logger = slog.New(slog.NewTextHandler(n.log, nil))
	var err error
	if n.Cluster, err = cluster.NewTuned(o, with...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1) // one answer of Run
	go func() { ended <- n.Run(ctx) }()
	n.leave = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := n.leave(); err != nil {
			t.Errorf("%s: %v", o.Incarnation, err)
		}
	})
	return n
}

// kill ends a node as a crash does: without a word.
func (n *node) kill(t testing.TB) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.leave(); err != nil {
		t.Fatal(err)
	}
}

func (n *node) names() string { return namesOf(n.Members()) }

func namesOf(members []cluster.Member) string {
	var names []string
	for _, m := range members {
		names = append(names, m.Incarnation)
	}
	return strings.Join(names, " ")
}

// sees waits until n sees these incarnations and no others, and returns them.
func (n *node) sees(t testing.TB, want string) (members []cluster.Member) {
	t.Helper()
	testkit.Eventually(t, "members "+want, func() (any, bool) {
		members = n.Members()
		return members, namesOf(members) == want
	})
	return members
}

// metric adds up the values of a counter or gauge over all its labels.
func (n *node) metric(t testing.TB, name string) float64 {
	t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// counts waits until n counts so many nodes of the pack.
func (n *node) counts(t testing.TB, want float64) {
	t.Helper()
	testkit.Eventually(t, "nodes counted", func() (any, bool) {
		value := n.metric(t, "raptorpack_cluster_nodes")
		return value, value == want
	})
}

// reaches waits until a metric is at least that high.
func (n *node) reaches(t testing.TB, name string, least float64) {
	t.Helper()
	testkit.Eventually(t, name, func() (any, bool) {
		value := n.metric(t, name)
		return value, value >= least
	})
}

// logbook keeps what a node logged.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// count returns how many lines contain text.
func (l *logbook) count(text string) int { return strings.Count(l.String(), text) }
