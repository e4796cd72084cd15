package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkKilledNodeVanishes measures how long two nodes take to notice that a
// third was killed: from the kill until both have dropped it.
//
//	go test -run '^$' -bench KilledNodeVanishes -benchtime 20x ./cluster
func BenchmarkKilledNodeVanishes(b *testing.B) {
	first := launch(b, options(b, "a-1"))
	second := launch(b, options(b, "b-1", first.Address()))
	first.sees(b, "b-1")
	second.sees(b, "a-1")
	var took []time.Duration
	for run := range b.N {
		name := fmt.Sprintf("c-%d", run+1)
		third := launch(b, options(b, name, first.Address()))
		first.sees(b, "b-1 "+name)
		second.sees(b, "a-1 "+name)
		start := time.Now()
		third.kill(b)
		first.sees(b, "b-1")
		second.sees(b, "a-1")
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(took[0].Seconds(), "min-s")
	b.ReportMetric(took[len(took)/2].Seconds(), "median-s")
	b.ReportMetric(took[len(took)-1].Seconds(), "max-s")
}
