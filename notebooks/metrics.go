package notebooks

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are one node's; without a Registerer they count and nobody looks.
type metrics struct {
	stored     prometheus.Counter
	storedRows prometheus.Counter
	readRows   prometheus.Counter
	missing    prometheus.Counter
	leftBehind prometheus.Counter
	swept      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg) // a nil Registerer registers nothing
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "raptorpack_notebooks_" + name, Help: help})
	}
	return &metrics{
		stored:     counter("stored_timelines_total", "Timelines whose rows this node made durable."),
		storedRows: counter("stored_rows_total", "Rows of those timelines."),
		readRows:   counter("read_rows_total", "Rows of timelines that this node merged."),
		missing:    counter("missing_rows_total", "Rows of timelines that should be there and could not be read."),
		leftBehind: counter("left_behind_folders_total", "Rows that no timeline came to name and that could not be removed: they go with their notebook."),
		swept:      counter("swept_folders_total", "Replaced and deleted timelines, and notebooks, whose files this node removed while it led."),
	}
}
