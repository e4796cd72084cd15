package hunts

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are one room's; without a Registerer they count and nobody looks.
type metrics struct {
	nominated prometheus.Counter
	declined  prometheus.Counter
	asked     prometheus.Counter
	undecided prometheus.Counter
	scattered prometheus.Counter
	overflow  prometheus.Counter
	admitted  prometheus.Counter
	refused   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, r *Room) *metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "raptorpack", Subsystem: "hunts", Name: name, Help: help})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string, value func() float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "raptorpack", Subsystem: "hunts", Name: name, Help: help,
		}, value))
	}
	m := &metrics{
		nominated: counter("nominated_clients_total", "Clients that this node found for hunts and told the ledger of."),
		declined:  counter("declined_clients_total", "Clients that a hunt's own condition said no of, at this node."),
		asked:     counter("asked_clients_total", "Clients that were asked for a hunt's own condition, at this node."),
		undecided: counter("undecided_clients_total", "Clients of which a hunt's condition or filter could say nothing, for an error; they count as declined."),
		scattered: counter("scattered_answers_total", "Answers to conditions that came to several nodes, and are asked for again."),
		overflow:  counter("overflow_total", "Clients that were not taken because too many findings wait."),
		admitted:  counter("admitted_clients_total", "Clients that this node admitted to hunts while it led."),
		refused:   counter("refused_admissions_total", "Batches of admissions that the ledger refused, and that are planned anew."),
	}
	gauge("running", "Hunts that run.", func() float64 { return float64(len(r.all(Running))) })
	gauge("pending_clients", "Clients that wait in hunts that run.", func() float64 { return r.sum(PendingClients) })
	gauge("running_clients", "Clients on which hunts that run collect now.", func() float64 { return r.sum(RunningClients) })
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}

// sum adds up one set of the hunts that run.
func (r *Room) sum(s Set) float64 {
	n := 0
	for _, h := range r.all(Running) {
		n += h.Counts[s]
	}
	return float64(n)
}

// resultsMetrics are those of one Results.
type resultsMetrics struct {
	rows    prometheus.Counter
	scanned prometheus.Counter
	sorts   *prometheus.HistogramVec
	exports *prometheus.CounterVec
}

func newResultsMetrics(reg prometheus.Registerer, r *Results) *resultsMetrics {
	m := &resultsMetrics{
		rows: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "raptorpack", Subsystem: "hunts", Name: "results_rows_total", Help: "Rows of hunts on pages.",
		}),
		scanned: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "raptorpack", Subsystem: "hunts", Name: "results_scanned_bytes_total", Help: "Plain bytes looked at for pages, sorts and exports.",
		}),
		sorts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "raptorpack", Subsystem: "hunts", Name: "results_sort_duration_seconds", Help: "Sorts of tables, by outcome.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 8),
		}, []string{"outcome"}),
		exports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "raptorpack", Subsystem: "hunts", Name: "results_exported_bytes_total", Help: "Bytes of exports, by format.",
		}, []string{"format"}),
	}
	used := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "raptorpack", Subsystem: "hunts", Name: "results_scratch_bytes", Help: "Temporary files of sorts.",
	}, func() float64 { return float64(r.disk.used.Load()) })
	if reg != nil {
		reg.MustRegister(m.rows, m.scanned, m.sorts, m.exports, used)
	}
	return m
}

func (m *resultsMetrics) sorted(took time.Duration, err error) {
	outcome := "ok"
	switch {
	case errors.Is(err, ErrTooLarge):
		outcome = "too_large"
	case errors.Is(err, ErrSortCancelled):
		outcome = "cancelled"
	case err != nil:
		outcome = "error"
	}
	m.sorts.WithLabelValues(outcome).Observe(took.Seconds())
}
