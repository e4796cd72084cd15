package notifier

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	wakes    prometheus.Counter
	missed   prometheus.Counter
	replaced prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, count func() int) *metrics {
	f := promauto.With(reg) // a nil Registerer registers nothing
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "raptorpack_notifier_waiting_clients", Help: "Clients whose connection waits on this node.",
	}, func() float64 { return float64(count()) })
	return &metrics{
		wakes: f.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_notifier_wakes_total", Help: "Wakes that found the client's connection here.",
		}),
		missed: f.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_notifier_missed_wakes_total", Help: "Wakes that found no connection of the client on this node.",
		}),
		replaced: f.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_notifier_replaced_waiters_total", Help: "Connections whose place a newer one of the same client took.",
		}),
	}
}
