package frontend

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	poll        prometheus.Histogram
	commit      prometheus.Histogram
	answers     *prometheus.CounterVec // by route, code
	shed        *prometheus.CounterVec // by reason
	connections *prometheus.GaugeVec   // by kind
	enrolments  *prometheus.CounterVec // by outcome
	bytes       prometheus.Counter
	delivered   prometheus.Counter
	pings       *prometheus.CounterVec // by outcome
	dead        prometheus.Counter
	contested   prometheus.Counter
	noise       prometheus.Counter
	panics      prometheus.Counter
	published   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg) // a nil Registerer registers nothing
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help string, dimensions ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, dimensions)
	}
	return &metrics{
		poll: f.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_frontend_poll_duration_seconds", Help: "How long HTTP long polls were held.",
			Buckets: []float64{.01, .1, 1, 5, 15, 30, 60, 75, 90, 120},
		}),
		commit: f.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_frontend_commit_duration_seconds", Help: "From a control post opened to everything in it durable.",
			Buckets: []float64{.002, .005, .01, .025, .05, .1, .2, .5, 1, 2, 5, 10, 20},
		}),
		answers: counters("raptorpack_frontend_answers_total", "Answers to clients, by route and status (emulated over WebSocket).", "route", "code"),
		shed:    counters("raptorpack_frontend_shed_total", "Posts that clients were told to repeat later, by reason.", "reason"),
		connections: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "raptorpack_frontend_connections", Help: "Open client connections, by kind.",
		}, []string{"kind"}),
		enrolments: counters("raptorpack_frontend_enrolments_total", "Enrolment requests, by outcome; pinned is an alarm: another key for a known client.", "outcome"),
		bytes:      counter("raptorpack_frontend_received_bytes_total", "Bytes of client packets read."),
		delivered:  counter("raptorpack_frontend_delivered_messages_total", "Messages handed to client connections."),
		pings:      counters("raptorpack_frontend_pings_total", "WebSocket pings, by outcome.", "outcome"),
		dead:       counter("raptorpack_frontend_dead_letters_total", "Pieces of client packets that cannot be decoded, kept as dead letters."),
		contested:  counter("raptorpack_frontend_contested_readers_total", "Readers of one client that took turns from different addresses: a copied key."),
		published:  counter("raptorpack_frontend_public_bytes_total", "Bytes of public files sent: tools, mostly."),
		noise:      counter("raptorpack_frontend_protocol_errors_total", "Connections that spoke neither TLS nor HTTP as expected."),
		panics:     counter("raptorpack_frontend_panics_total", "Panics while clients were served: mistakes of ours, each with a log line."),
	}
}

// newAccepts counts connections at the door, which opens before the rest.
func newAccepts(reg prometheus.Registerer) *prometheus.CounterVec {
	return promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "raptorpack_frontend_accepts_total", Help: "TCP connections at the door, by outcome.",
	}, []string{"outcome"})
}
