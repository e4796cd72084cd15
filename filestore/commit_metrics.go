package filestore

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// commitMetrics says how commits go.
type commitMetrics struct {
	duration    *prometheus.HistogramVec // a round, by class
	waited      *prometheus.HistogramVec // from Submit to its answer, by class
	tickets     *prometheus.HistogramVec // commits that share a round, by class
	files       prometheus.Histogram     // files synced in a round
	outcomes    *prometheus.CounterVec
	rows        prometheus.Counter
	plainBytes  prometheus.Counter
	storedBytes prometheus.Counter
	members     prometheus.Counter
	uploadBytes prometheus.Counter
	uploads     prometheus.Counter
	lateUploads prometheus.Counter
	badExtents  prometheus.Counter

	mixedUploads prometheus.Counter
	finished     *prometheus.CounterVec
	retried      prometheus.Counter
	queued       prometheus.Gauge
}

func newCommitMetrics(reg prometheus.Registerer) *commitMetrics {
	auto := promauto.With(reg)
	count := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: "raptorpack_filestore_" + name, Help: help})
	}
	byClass := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "raptorpack_filestore_" + name, Help: help, Buckets: buckets,
		}, []string{"class"})
	}
	times := prometheus.ExponentialBuckets(0.0005, 2.2, 14) // 0.5 ms to 14 s
	sizes := prometheus.ExponentialBuckets(1, 2, 11)
	return &commitMetrics{
		duration: byClass("commit_duration_seconds", "Time of one commit round: write, sync, facts.", times),
		waited:   byClass("commit_wait_seconds", "Time from a submit to its answer.", times),
		tickets:  byClass("commit_batches", "Submits that share one commit round.", sizes),
		files: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_filestore_commit_files", Help: "Files synced in one commit round.", Buckets: sizes,
		}),
		outcomes: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_filestore_commits_total", Help: "Submits by outcome.",
		}, []string{"outcome"}),
		rows:        count("commit_rows_total", "Rows written, written again included."),
		plainBytes:  count("commit_plain_bytes_total", "Bytes of rows before compression."),
		storedBytes: count("commit_stored_bytes_total", "Bytes of segments that became durable."),
		members:     count("commit_members_total", "Segment members that became durable."),
		uploadBytes: count("upload_bytes_total", "Upload bytes that became durable."),
		uploads:     count("uploads_total", "Uploads that got their name."),
		lateUploads: count("upload_late_total", "Upload pieces resent after the upload was finished, dropped."),
		badExtents:  count("upload_bad_extents_total", "Upload extents whose bytes have another checksum."),

		mixedUploads: count("upload_conflicts_total", "Uploads that came twice with different bytes, to several nodes."),
		finished: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_filestore_files_finished_total", Help: "Files given up after a failed write or sync.",
		}, []string{"kind"}),
		retried: count("commit_retries_total", "Submits tried again in a new part."),
		queued: auto.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_filestore_commit_queued_bytes", Help: "Bytes waiting to be committed.",
		}),
	}
}

// rounds notes one round.
func (m *commitMetrics) rounds(class Class, took time.Duration, tickets []*ticket, r *round) {
	m.duration.WithLabelValues(class.String()).Observe(took.Seconds())
	m.tickets.WithLabelValues(class.String()).Observe(float64(len(tickets)))
	m.files.Observe(float64(len(r.files)))
}

func (m *commitMetrics) settled(t *ticket, err error) {
	m.waited.WithLabelValues(t.commit.Class.String()).Observe(time.Since(t.since).Seconds())
	m.outcomes.WithLabelValues(commitOutcome(err)).Inc()
}

func (m *commitMetrics) refused(err error) { m.outcomes.WithLabelValues(commitOutcome(err)).Inc() }

// commitOutcome is the closed set of outcomes.
func commitOutcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrFull):
		return "full"
	case errors.Is(err, ErrBusy):
		return "busy"
	case errors.Is(err, ErrLeaseLost), errors.Is(err, ErrSealed):
		return "lease"
	case errors.Is(err, ErrStopped):
		return "stopped"
	}
	return "error"
}
