package wire

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	opens    *prometheus.CounterVec // by outcome
	sessions *prometheus.CounterVec // by how a session was recognised
	replays  *prometheus.CounterVec // by kind
	private  *prometheus.CounterVec // by kind of private-key operation
	wait     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg) // a nil Registerer registers nothing
	return &metrics{
		opens: f.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_wire_opens_total", Help: "Packets by what came of opening them.",
		}, []string{"outcome"}),
		sessions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_wire_sessions_total", Help: "Packets by how their session was recognised.",
		}, []string{"kind"}),
		replays: f.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_wire_replays_total", Help: "Packets seen before in their session, or hours behind its newest.",
		}, []string{"kind"}),
		private: f.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_wire_private_key_operations_total", Help: "Operations with the server's private key; refused ones found no capacity.",
		}, []string{"kind"}),
		wait: f.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_wire_private_key_wait_seconds", Help: "Wait until an operation with the private key began.",
			Buckets: []float64{.001, .01, .1, .5, 1, 2, 5, 10},
		}),
	}
}
