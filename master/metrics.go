package master

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	epoch   prometheus.Gauge
	leading prometheus.Gauge
	terms   *prometheus.CounterVec
	taking  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	m := &metrics{
		epoch: auto.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_master_epoch", Help: "The epoch that this node led last, 0 before the first.",
		}),
		leading: auto.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_master_leading", Help: "1 while this node leads and its ledger takes entries.",
		}),
		terms: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_master_terms_total", Help: "Terms of this node by how they ended.",
		}, []string{"outcome"}),
		taking: auto.NewHistogram(prometheus.HistogramOpts{
			Name:    "raptorpack_master_takeover_duration_seconds",
			Help:    "Time from the claim of an epoch until its ledger took entries.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 12), // 10 ms to 20 s
		}),
	}
	for _, outcome := range []string{outcomeReleased, outcomeLost, outcomeFailed} {
		m.terms.WithLabelValues(outcome)
	}
	return m
}
