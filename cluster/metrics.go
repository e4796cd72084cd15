package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Kinds of trouble, as the metric names them.
const (
	troubleKey      = "key"      // gossip under another key, or under none
	troubleForeign  = "foreign"  // bytes that are no gossip of ours
	troubleConflict = "conflict" // two processes under one name
	troubleAccused  = "accused"  // others took this node for gone
	troubleOverload = "overload" // more than this node takes
	troubleNetwork  = "network"  // what could not be sent or received
	troubleSeeds    = "seeds"    // Seeds did not answer
	troubleOther    = "other"
)

type metrics struct {
	joinsFailed prometheus.Counter
	gone        prometheus.Counter
	refused     prometheus.Counter
	troubles    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, others func() int) *metrics {
	f := promauto.With(reg) // a nil Registerer registers nothing
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "raptorpack_cluster_nodes", Help: "Nodes of the pack that seem alive, this one included.",
	}, func() float64 { return float64(1 + others()) })
	return &metrics{
		joinsFailed: f.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_cluster_joins_failed_total", Help: "Attempts to join the pack through an address that failed.",
		}),
		gone: f.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_cluster_members_gone_total", Help: "Runs of other nodes that left the pack or were found dead.",
		}),
		refused: f.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_cluster_metadata_refused_total", Help: "Times that a node was left out because what it tells of itself cannot be read.",
		}),
		troubles: f.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_cluster_troubles_total",
			Help: "Gossip that went wrong, by kind: key (another key or none), foreign, conflict, accused, overload, network, seeds, other.",
		}, []string{"kind"}),
	}
}
