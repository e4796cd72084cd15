package flows

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are one room's; without a Registerer they count and nobody looks.
type metrics struct {
	duration    prometheus.Histogram
	failed      prometheus.Counter
	rows        prometheus.Counter
	rowBytes    prometheus.Counter
	logLines    prometheus.Counter
	uploadBytes prometheus.Counter
	events      prometheus.Counter
	duplicates  prometheus.Counter
	conflicts   prometheus.Counter
	late        prometheus.Counter
	overLimit   prometheus.Counter
	waits       prometheus.Counter
	dead        *prometheus.CounterVec
	unkept      prometheus.Counter
	delivered   prometheus.Counter
	asked       prometheus.Counter
	stale       prometheus.Counter
	offered     prometheus.Counter
	inquiries   prometheus.Counter
	answered    prometheus.Counter
	views       prometheus.Counter
	caughtUp    prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "raptorpack", Subsystem: "flows", Name: name, Help: help})
		all = append(all, c)
		return c
	}
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "raptorpack", Subsystem: "flows", Name: "ingest_duration_seconds",
			Help:    "Time from a decoded packet to its durability.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		caughtUp: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "raptorpack", Subsystem: "flows", Name: "catch_up_duration_seconds",
			Help:    "Time that packets wait because they name what this node does not know yet, or nobody does.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		failed:      counter("ingest_failed_total", "Packets that were not made durable and come again."),
		rows:        counter("ingest_rows_total", "Rows made durable."),
		rowBytes:    counter("ingest_rows_bytes_total", "Bytes of rows made durable, as sent and inflated."),
		logLines:    counter("ingest_log_lines_total", "Query log lines made durable."),
		uploadBytes: counter("ingest_upload_bytes_total", "Bytes of uploads made durable."),
		events:      counter("ingest_event_batches_total", "Batches of event rows made durable."),
		duplicates:  counter("duplicates_total", "Batches that were here already."),
		conflicts:   counter("conflicts_total", "Batches that came again with other content."),
		late:        counter("late_total", "Messages of flows that are deleted or want no more."),
		overLimit:   counter("over_limit_total", "Batches beyond a limit of their flow."),
		waits:       counter("resend_waits_total", "Packets that waited for the same batch in another packet."),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "raptorpack", Subsystem: "flows", Name: "dead_letters_total", Help: "Messages that can never be processed.",
		}, []string{"kind"}),
		unkept:    counter("dead_letters_dropped_total", "Dead letters beyond their client's allowance."),
		delivered: counter("delivered_total", "Flow requests handed to connections."),
		asked:     counter("asked_total", "Flows that clients were asked about."),
		stale:     counter("stale_answers_total", "Answers about flows that tell nothing: to no question, or to an old one."),
		offered:   counter("offered_total", "Tasks offered to clients that did not know them."),
		inquiries: counter("inquiries_total", "Conditions of hunts handed to connections."),
		answered:  counter("answers_total", "Answers to conditions of hunts, asked here or elsewhere."),
		views:     counter("views_written_total", "Views of flows written to the filestore."),
	}
	if reg != nil {
		reg.MustRegister(append(all, m.duration, m.caughtUp, m.dead)...)
	}
	return m
}

func (m *metrics) ingest(took time.Duration, err error) {
	m.duration.Observe(took.Seconds())
	if err != nil {
		m.failed.Inc()
	}
}

func (m *metrics) took(held []reservation) {
	for _, h := range held {
		switch h.item.kind {
		case rowItem:
			m.rows.Add(float64(h.batch.count))
			m.rowBytes.Add(float64(h.item.size))
		case logItem:
			m.logLines.Add(float64(h.batch.count))
		case dataItem:
			m.uploadBytes.Add(float64(h.batch.count))
		}
	}
}

func (m *metrics) buried(kind string) { m.dead.WithLabelValues(kind).Inc() }
