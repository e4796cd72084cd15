package api

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

type metrics struct {
	requests  *prometheus.CounterVec
	auditLost prometheus.Counter
	auditLate prometheus.Counter
	rows      prometheus.Counter
	tails     prometheus.Gauge
	slowTails prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_api_requests_total", Help: "Requests of operators (door json; outcome 2xx to 5xx) and calls of programs (door grpc; outcome the gRPC code).",
		}, []string{"door", "outcome"}),
		auditLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_api_audit_lost_total", Help: "Audit lines that could not be kept.",
		}),
		auditLate: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_api_audit_late_total", Help: "Answers that were given before their audit line was kept, because the filestore was slow.",
		}),
		rows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_api_query_rows_total", Help: "Rows of server-side queries.",
		}),
		tails: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "raptorpack_api_tails", Help: "Tails of events under way.",
		}),
		slowTails: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_api_slow_tails_total", Help: "Tails of events that ended because their reader made no room in time.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.auditLost, m.auditLate, m.rows, m.tails, m.slowTails)
	}
	return m
}

func (m *metrics) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept := &statusKeeper{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(kept, r)
		m.requests.WithLabelValues("json", strconv.Itoa(kept.status/100)+"xx").Inc()
	})
}

// countCall counts a call of the programs' door by how it ended.
func (m *metrics) countCall(err error) {
	m.requests.WithLabelValues("grpc", status.Code(err).String()).Inc()
}

type statusKeeper struct {
	http.ResponseWriter
	status int
}

func (k *statusKeeper) WriteHeader(status int) {
	k.status = status
	k.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find Flush.
func (k *statusKeeper) Unwrap() http.ResponseWriter { return k.ResponseWriter }
