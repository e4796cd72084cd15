package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"raptorpack/internal/testkit"
)

// BenchmarkKilledNodeVanishes measures how long the rest of a pack takes to notice
// that a node was killed: from the kill until all have dropped it. Starting the
// node anew before each kill is not in these figures, but in ns/op.
//
//	go test -run '^$' -bench KilledNodeVanishes -benchtime 20x ./cluster
func BenchmarkKilledNodeVanishes(b *testing.B) {
	for _, nodes := range []int{3, 50} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) { benchmarkKill(b, nodes) })
	}
}

func benchmarkKill(b *testing.B, nodes int) {
	rest := []*node{launch(b, options(b, "n-1"))}
	for i := 1; i < nodes-1; i++ {
		rest = append(rest, launch(b, options(b, fmt.Sprintf("n%d-1", i), rest[0].Address())))
	}
	all := func(others int) {
		b.Helper()
		testkit.Eventually(b, "all see so many", func() (any, bool) {
			at := slices.IndexFunc(rest, func(n *node) bool { return len(n.Members()) != others })
			return at, at < 0
		})
	}
	all(nodes - 2)
	var took []time.Duration
	for run := range b.N {
		victim := launch(b, options(b, fmt.Sprintf("victim-%d", run+1), rest[0].Address()))
		all(nodes - 1)
		start := time.Now()
		victim.kill(b)
		all(nodes - 2)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(took[0].Seconds(), "min-s")
	b.ReportMetric(took[len(took)/2].Seconds(), "median-s")
	b.ReportMetric(took[len(took)-1].Seconds(), "max-s")
}
