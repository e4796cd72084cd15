package monitoring

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	running  prometheus.Gauge
	broken   prometheus.Gauge
	restarts prometheus.Counter
	rounds   prometheus.Counter
	events   prometheus.Counter
	rows     prometheus.Counter
	retries  prometheus.Counter
	cut      prometheus.Counter
	logLost  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "raptorpack", Subsystem: "monitoring", Name: name, Help: help})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "raptorpack", Subsystem: "monitoring", Name: name, Help: help})
		all = append(all, g)
		return g
	}
	m := &metrics{
		running:  gauge("queries", "Server event queries that this node runs."),
		broken:   gauge("broken_artifacts", "Server event artifacts of the table that cannot be compiled."),
		restarts: counter("restarts_total", "Server event queries that ended, failed or panicked and were begun again."),
		rounds:   counter("rounds_total", "Rounds of server event queries that were stored with their place."),
		events:   counter("events_total", "Events that server event queries have worked off."),
		rows:     counter("rows_total", "Rows of server event queries made durable."),
		retries:  counter("store_retries_total", "Tries to store what server event queries made that failed and were repeated."),
		cut:      counter("cut_statements_total", "Statements that were stopped because they did not end with what they watch."),
		logLost:  counter("log_lines_dropped_total", "Log lines of server event queries beyond what is kept."),
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}
