package runner

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are one node's; without a Registerer they count and nobody looks.
type metrics struct {
	begun     prometheus.Counter
	ended     *prometheus.CounterVec // by outcome
	lostLines prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg) // a nil Registerer registers nothing
	return &metrics{
		begun: f.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_runner_begun_flows_total", Help: "Collections on the server that this node began while it led.",
		}),
		ended: f.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_runner_ended_flows_total", Help: "Collections on the server that this node ended, by outcome; lost: the master that ran it had changed.",
		}, []string{"outcome"}),
		lostLines: f.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_runner_lost_log_lines_total", Help: "Log lines of collections on the server that came faster than they could be stored.",
		}),
	}
}
