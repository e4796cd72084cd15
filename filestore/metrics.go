package filestore

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// opKind names a kind of file call in metrics, counters and errors.
type opKind uint8

const (
	opOpen opKind = iota
	opCreate
	opOpenWrite
	opMkdir
	opLink
	opRename
	opRemove
	opReadDir
	opStat
	opSyncDir
	opRead
	opWrite
	opSync
	opTruncate
	opFstat
	opClose
	opUsage
	opCount // how many kinds there are
)

var opNames = [opCount]string{
	"open", "create", "openwrite", "mkdir", "link", "rename", "remove", "readdir", "stat", "syncdir",
	"read", "write", "sync", "truncate", "fstat", "close", "usage",
}

// String returns the kind as metrics name it.
func (k opKind) String() string { return opNames[k] }

type metrics struct {
	duration  [opCount]prometheus.Observer
	ops       *prometheus.CounterVec
	running   prometheus.Gauge
	abandoned prometheus.Counter
	retries   prometheus.Counter
	diskUsed  prometheus.Gauge
	diskAlarm prometheus.Gauge
	full      prometheus.Gauge
	renewals  *prometheus.HistogramVec
	leases    *prometheus.CounterVec

	counts [opCount]atomic.Int64 // exact, for Stats
}

// newMetrics makes one store's metrics; with a nil registerer they only count.
func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	duration := auto.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "raptorpack_filestore_op_duration_seconds",
		Help:    "Time of one file call.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14), // 0.1 ms to 15 s
	}, []string{"op"})
	m := &metrics{
		ops: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_filestore_ops_total", Help: "File calls by kind and outcome.",
		}, []string{"op", "outcome"}),
		running: auto.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_filestore_calls_running", Help: "File calls under way, hanging ones included.",
		}),
		abandoned: auto.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_filestore_calls_abandoned_total", Help: "File calls whose caller left before they returned.",
		}),
		retries: auto.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_filestore_retries_total", Help: "File calls repeated after ESTALE or EIO.",
		}),
		diskUsed: auto.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_filestore_disk_used_ratio", Help: "Used part of the filesystem, 0 to 1.",
		}),
		diskAlarm: auto.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_filestore_disk_alarm", Help: "1 while the used part is above the alarm level.",
		}),
		full: auto.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_filestore_full", Help: "1 while bulk writes are refused for want of space.",
		}),
		renewals: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "raptorpack_filestore_lease_renewal_duration_seconds",
			Help:    "Time of one completed lease renewal.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12), // 1 ms to 24 s
		}, []string{"lease"}),
		leases: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_filestore_leases_total", Help: "Leases by kind and how they went.",
		}, []string{"lease", "outcome"}),
	}
	for kind := range opCount {
		m.duration[kind] = duration.WithLabelValues(kind.String())
	}
	return m
}

func (m *metrics) done(kind opKind, took time.Duration, err error) {
	m.duration[kind].Observe(took.Seconds())
	m.ops.WithLabelValues(kind.String(), outcomeOf(err)).Inc()
}
