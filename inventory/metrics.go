package inventory

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are one node's; without a Registerer they count and nobody looks.
type metrics struct {
	stored      prometheus.Counter
	storedBytes prometheus.Counter
	swept       prometheus.Counter
	leftBehind  prometheus.Counter
	fetches     *prometheus.CounterVec // by outcome
	fetching    prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg) // a nil Registerer registers nothing
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "raptorpack_inventory_" + name, Help: help})
	}
	return &metrics{
		stored:      counter("stored_files_total", "Files of tools that this node made durable."),
		storedBytes: counter("stored_bytes_total", "Bytes of those files."),
		swept:       counter("swept_files_total", "Files that no tool named any more, removed by this node while it led."),
		leftBehind:  counter("left_behind_files_total", "Files that no tool names and that could not be removed: they take space, nobody is given them."),
		fetches: f.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_inventory_fetches_total", Help: "Tools that this node fetched while it led, by outcome.",
		}, []string{"outcome"}),
		fetching: f.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_inventory_fetch_duration_seconds", Help: "How long fetching a tool took.",
			Buckets: []float64{.1, .5, 1, 5, 15, 60, 300, 900},
		}),
	}
}
