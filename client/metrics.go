package client

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what agents of one process do. One value may serve thousands
// of agents.
type Metrics struct {
	buffered, delivered, dropped prometheus.Counter
	full, torn, damaged          prometheus.Counter
	bytes                        prometheus.Gauge
	posts                        *prometheus.CounterVec
	polls                        *prometheus.CounterVec
	enrolments, rotations        prometheus.Counter
	flows                        *prometheus.CounterVec
	reruns, ignored              prometheus.Counter
	urgentDropped, eventErrors   prometheus.Counter
	rows, uploadBytes            prometheus.Counter
}

// NewMetrics makes and registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "raptorpack_client_" + name, Help: help}))
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "raptorpack_client_" + name, Help: help}, labels))
	}
	return &Metrics{
		buffered:  counter("buffer_messages_total", "Messages put into the local buffer."),
		delivered: counter("buffer_delivered_total", "Messages acknowledged by the server."),
		dropped:   counter("buffer_cancelled_total", "Messages dropped because their flow was cancelled."),
		full:      counter("buffer_full_total", "Times that a producer had to wait for room."),
		torn:      counter("buffer_torn_total", "Torn tails cut off at start."),
		damaged:   counter("buffer_damaged_total", "Buffer segments found damaged at start."),
		bytes: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_client_buffer_bytes", Help: "Room taken by the local buffer.",
		})),
		posts:         vector("posts_total", "Batches sent to the server by outcome.", "outcome"),
		polls:         vector("polls_total", "Reader round trips by outcome.", "outcome"),
		enrolments:    counter("enrolments_total", "Certificate requests queued."),
		rotations:     counter("rotations_total", "Times that the next server address was taken."),
		flows:         vector("flows_total", "Flows ended by outcome.", "outcome"),
		reruns:        counter("flow_reruns_total", "Runs of a flow after an interruption."),
		ignored:       counter("jobs_ignored_total", "Jobs that carried nothing this agent obeys."),
		urgentDropped: counter("urgent_dropped_total", "Urgent replies dropped because their queue was full."),
		eventErrors:   counter("event_errors_total", "Event queries that ended with an error."),
		rows:          counter("rows_total", "Rows put into the buffer."),
		uploadBytes:   counter("upload_bytes_total", "Bytes of uploads put into the buffer, uncompressed."),
	}
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}
