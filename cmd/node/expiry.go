package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/config"
)

// expirySoon is how long before its end a certificate is spoken of.
const expirySoon = 30 * 24 * time.Hour

func newExpiry(registry *prometheus.Registry) *prometheus.GaugeVec {
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "raptorpack_node_certificate_expiry_timestamp_seconds",
		Help: "When a certificate of this node ends (Unix time), by the key of the configuration that names it.",
	}, []string{"key"})
	registry.MustRegister(vec)
	return vec
}

// checkExpiry tells early, and loudly when it is too late, that agents or other nodes
// stop talking to this one: they never trust an expired certificate. key says where
// the certificate stands.
func (n *Node) checkExpiry(key, text string) {
	certificate, err := config.Certificate(text)
	if err != nil {
		return // whoever uses it says so
	}
	n.expiry.WithLabelValues(key).Set(float64(certificate.NotAfter.Unix()))
	switch left := time.Until(certificate.NotAfter); {
	case left <= 0:
		n.log.Error("server certificate has expired, agents refuse this node", "key", key, "since", certificate.NotAfter)
	case left < expirySoon:
		n.log.Warn("server certificate expires soon", "key", key, "at", certificate.NotAfter)
	}
}
