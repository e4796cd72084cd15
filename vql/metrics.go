package vql

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/internal/throttle"
)

// Metrics counts what engines of one process do (Engine.Counted). What sessions
// count anyway is added up when it is asked for, so that rows cost nothing.
type Metrics struct {
	queries, panics prometheus.Counter
	running         atomic.Int64

	mu    sync.Mutex
	live  map[*session]struct{}
	ended Stats // of sessions that are closed

	cpuMu    sync.Mutex
	busy     int // statements that run
	cpu      float64
	cpuBegan float64 // what the process had used when busy was last 0
}

// NewMetrics makes and registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{live: map[*session]struct{}{}}
	sum := func(name, help string, read func(Stats) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "raptorpack_vql_" + name, Help: help},
			func() float64 { return float64(read(m.total())) }))
	}
	m.queries = prometheus.NewCounter(prometheus.CounterOpts{Name: "raptorpack_vql_queries_total", Help: "Statements of queries that began."})
	m.panics = prometheus.NewCounter(prometheus.CounterOpts{Name: "raptorpack_vql_panics_total", Help: "Panics of primitives that became log lines of their queries. Each is a mistake of ours."})
	reg.MustRegister(m.queries, m.panics)
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "raptorpack_vql_running_queries", Help: "Statements of queries that run, event queries too."},
		func() float64 { return float64(m.running.Load()) }))
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "raptorpack_vql_cpu_seconds_total", Help: "Processor time of the process while queries ran: theirs, and on a node what it did beside them."}, m.cpuSeconds))
	sum("rows_scanned_total", "Rows that sources of queries gave, filtered ones included.", func(s Stats) uint64 { return s.RowsScanned })
	sum("rows_total", "Rows that queries gave.", func(s Stats) uint64 { return s.RowsEmitted })
	sum("plugins_called_total", "Calls of plugins.", func(s Stats) uint64 { return s.PluginsCalled })
	sum("functions_called_total", "Calls of functions.", func(s Stats) uint64 { return s.FunctionsCalled })
	sum("spilled_bytes_total", "Bytes that sorting, grouping and stored rows wrote to temporary files.", func(s Stats) uint64 { return s.BytesSpilled })
	sum("ops_total", "Ops charged: source rows, files and buffers.", func(s Stats) uint64 { return s.Ops })
	return m
}

// total adds up the sessions that are closed and those that are not.
func (m *Metrics) total() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.ended
	for s := range m.live {
		out = out.plus(s.counters())
	}
	return out
}

// opened begins to count a session. A nil Metrics counts nothing.
func (m *Metrics) opened(s *session) {
	if m == nil {
		return
	}
	m.mu.Lock()
	m.live[s] = struct{}{}
	m.mu.Unlock()
}

func (m *Metrics) closed(s *session) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.live, s)
	m.ended = m.ended.plus(s.counters())
}

func (m *Metrics) panicked() {
	if m != nil {
		m.panics.Inc()
	}
}

// began counts a statement; the function that it returns tells of its end.
func (m *Metrics) began() func() {
	if m == nil {
		return func() {}
	}
	m.queries.Inc()
	m.running.Add(1)
	m.work(1)
	return func() {
		m.work(-1)
		m.running.Add(-1)
	}
}

// work adds to the statements that run, and the processor time of a while in which
// any did.
func (m *Metrics) work(change int) {
	m.cpuMu.Lock()
	defer m.cpuMu.Unlock()
	if m.busy == 0 {
		m.cpuBegan = throttle.CPU()
	}
	if m.busy += change; m.busy == 0 {
		m.cpu += max(0, throttle.CPU()-m.cpuBegan)
	}
}

func (m *Metrics) cpuSeconds() float64 {
	m.cpuMu.Lock()
	defer m.cpuMu.Unlock()
	if m.busy == 0 {
		return m.cpu
	}
	return m.cpu + max(0, throttle.CPU()-m.cpuBegan)
}

func (s Stats) plus(o Stats) Stats {
	return Stats{
		RowsScanned: s.RowsScanned + o.RowsScanned, PluginsCalled: s.PluginsCalled + o.PluginsCalled,
		FunctionsCalled: s.FunctionsCalled + o.FunctionsCalled, RowsEmitted: s.RowsEmitted + o.RowsEmitted,
		BytesSpilled: s.BytesSpilled + o.BytesSpilled, Ops: s.Ops + o.Ops,
	}
}
