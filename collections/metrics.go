package collections

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	downloads  *prometheus.CounterVec // by outcome
	bytes      prometheus.Counter
	leftBehind prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		downloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_collections_downloads_total", Help: "Zips that were made on the filestore for people to fetch, by outcome.",
		}, []string{"outcome"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_collections_download_bytes_total", Help: "Bytes of such zips that were written.",
		}),
		leftBehind: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_collections_left_behind_total", Help: "Files of broken downloads that could not be removed.",
		}),
	}
	reg.MustRegister(m.downloads, m.bytes, m.leftBehind)
	return m
}

func (m *metrics) made(err error) {
	outcome := "made"
	if err != nil {
		outcome = "failed"
	}
	m.downloads.WithLabelValues(outcome).Inc()
}
