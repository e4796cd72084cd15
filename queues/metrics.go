package queues

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	rows    prometheus.Counter
	commits prometheus.Counter
	retries prometheus.Counter
	large   prometheus.Counter
	unread  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, room *Room) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "raptorpack", Subsystem: "queues", Name: name, Help: help})
	}
	m := &metrics{
		rows:    counter("rows_total", "Rows of internal queues made durable."),
		commits: counter("commits_total", "Commits that rows of internal queues went in."),
		retries: counter("store_retries_total", "Tries to store rows of internal queues that failed and were repeated."),
		large:   counter("cut_rows_total", "Rows of internal queues that were too large, and were stored without their record."),
		unread:  counter("unread_uploads_total", "Flows whose uploads were not told of, as they could not be listed."),
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "raptorpack", Subsystem: "queues", Name: "waiting_rows", Help: "Rows of internal queues that nobody has written yet.",
	}, func() float64 {
		n, _ := room.Waiting()
		return float64(n)
	})
	lost := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "raptorpack", Subsystem: "queues", Name: "lost_rows", Help: "Rows of internal queues that were never written, as too many waited.",
	}, func() float64 {
		_, n := room.Waiting()
		return float64(n)
	})
	if reg != nil {
		reg.MustRegister(m.rows, m.commits, m.retries, m.large, m.unread, waiting, lost)
	}
	return m
}
