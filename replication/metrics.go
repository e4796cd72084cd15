package replication

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are one node's numbers; nothing is global.
type metrics struct {
	index         prometheus.Gauge
	epoch         prometheus.Gauge
	entries       *prometheus.CounterVec
	propose       *prometheus.HistogramVec
	commit        prometheus.Histogram
	ledgerBytes   prometheus.Counter
	syncFailures  prometheus.Counter
	epochsLost    prometheus.Counter
	repeats       prometheus.Counter
	gaps          prometheus.Counter
	tornBytes     prometheus.Counter
	beyondSeal    prometheus.Gauge
	reloads       prometheus.Counter
	snapshots     *prometheus.CounterVec
	snapshotTook  prometheus.Histogram
	snapshotBytes prometheus.Gauge
	snapshotIndex prometheus.Gauge
	pruned        *prometheus.CounterVec
	facts         *prometheus.CounterVec
	outboxBytes   prometheus.Gauge
	outboxLag     prometheus.Gauge
	outboxFailed  prometheus.Counter
	foreignLag    prometheus.Gauge
	foreignFailed prometheus.Counter

	apply            prometheus.Histogram
	followsEnded     prometheus.Counter
	digestMismatches prometheus.Counter
	stateMismatches  prometheus.Counter
	compared         prometheus.Gauge
	compareTook      prometheus.Histogram
	peersLost        prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help, dimension string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{dimension})
	}
	fine := prometheus.ExponentialBuckets(0.0005, 2, 16)
	return &metrics{
		index:   gauge("raptorpack_replication_index", "Last entry applied on this node."),
		epoch:   gauge("raptorpack_replication_epoch", "Epoch of the last entry applied on this node."),
		entries: counters("raptorpack_replication_entries_total", "Entries by what became of them: applied, refused, repeated, misplaced.", "outcome"),
		propose: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "raptorpack_replication_propose_duration_seconds", Help: "Time from Propose to its answer.", Buckets: fine,
		}, []string{"outcome"}),
		commit: f.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_replication_commit_duration_seconds", Help: "Time to append and sync one group of entries.", Buckets: fine,
		}),
		ledgerBytes:  counter("raptorpack_replication_ledger_written_bytes_total", "Bytes of records written to the ledger."),
		syncFailures: counter("raptorpack_replication_ledger_failures_total", "Failed writes and syncs of the ledger; each ends an epoch."),
		epochsLost:   counter("raptorpack_replication_epochs_lost_total", "Epochs led by this node that ended by an error."),
		repeats:      counter("raptorpack_replication_repeats_total", "Mutations offered that were in the ledger already."),
		gaps:         counter("raptorpack_replication_gaps_total", "Mutations offered that were not the next of their stream."),
		tornBytes:    counter("raptorpack_replication_torn_bytes_total", "Bytes found beyond the valid end of an epoch's ledger when it was sealed."),
		beyondSeal:   gauge("raptorpack_replication_beyond_seal_bytes", "Bytes beyond the seal in the last replayed epoch that has any: written by a master that was none any more, or torn."),
		reloads:      counter("raptorpack_replication_reloads_total", "Times this node threw its state away because the ledger says otherwise."),
		snapshots:    counters("raptorpack_replication_snapshots_total", "Snapshots by outcome: verified, failed, damaged.", "outcome"),
		snapshotTook: f.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_replication_snapshot_duration_seconds", Help: "Time to write and verify a snapshot.", Buckets: prometheus.ExponentialBuckets(0.01, 4, 10),
		}),
		snapshotBytes: gauge("raptorpack_replication_snapshot_bytes", "Size of the last verified snapshot."),
		snapshotIndex: gauge("raptorpack_replication_snapshot_index", "Index of the last verified snapshot."),
		pruned:        counters("raptorpack_replication_pruned_total", "Files removed because two snapshots cover them, by kind: ledger, snapshot, outbox, blob.", "kind"),
		facts:         counters("raptorpack_replication_facts_total", "Facts delivered, by whose outbox: own, foreign.", "outbox"),
		outboxBytes:   gauge("raptorpack_replication_outbox_bytes", "Bytes of this node's facts that no master has taken yet."),
		outboxLag:     gauge("raptorpack_replication_outbox_lag_entries", "This node's durable facts that no master has taken yet."),
		outboxFailed:  counter("raptorpack_replication_outbox_failures_total", "Failed writes and syncs of this node's outbox."),
		foreignLag:    gauge("raptorpack_replication_foreign_outboxes", "Outboxes of other incarnations that the master has not read to their end."),
		apply: f.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_replication_apply_duration_seconds", Help: "Time to apply one batch of entries that the master sent.", Buckets: fine,
		}),
		followsEnded:     counter("raptorpack_replication_follows_ended_total", "Times this node lost the master that it followed."),
		digestMismatches: counter("raptorpack_replication_digest_mismatches_total", "Times this node's state was not the master's at the same entry; each is healed by loading again, and is a defect."),
		stateMismatches:  counter("raptorpack_replication_state_mismatches_total", "Times what this node has in memory was not what the master has at the same entry; each is a defect. The first is healed by loading again."),
		compared:         gauge("raptorpack_replication_compared_index", "Entry before which this node's states were hashed last, to be compared with the master's."),
		compareTook: f.NewHistogram(prometheus.HistogramOpts{
			Name: "raptorpack_replication_compare_duration_seconds", Help: "Time to hash all states for a comparison.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}),
		peersLost:     counter("raptorpack_replication_peers_lost_total", "Conversations with other nodes that ended."),
		foreignFailed: counter("raptorpack_replication_foreign_outbox_failures_total", "Reads of other incarnations' outboxes that met damage or a gap."),
	}
}

// newStandingMetrics are those that are worked out when somebody asks.
func newStandingMetrics(reg prometheus.Registerer, n *Node) {
	f := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	gauge("raptorpack_replication_age_seconds", "How much older than the ledger this node's state may be; -1: nobody has told.", func() float64 {
		age, known := n.Age()
		if !known {
			return -1
		}
		return age.Seconds()
	})
	gauge("raptorpack_replication_lag_entries", "Entries that the master was last heard to have applied and this node has not.", func() float64 {
		return float64(n.Lag())
	})
	gauge("raptorpack_replication_leads", "1 while this node leads.", func() float64 {
		if r := n.reign(); r != nil && r.term.Valid() {
			return 1
		}
		return 0
	})
	gauge("raptorpack_replication_peers", "Other nodes that this one hears.", func() float64 {
		return float64(len(n.Pack()) - 1)
	})
}
