package yara

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counts is what an engine has done. They are kept whether or not somebody asks:
// an engine serves a process, which may have several places to ask.
type counts struct {
	instances            atomic.Int64 // that take memory
	compiled, scans      atomic.Uint64
	failed, broken, read atomic.Uint64 // scans; instances; bytes
}

// Register shows what the engine does in reg. An engine may be registered with any
// number of registries, once with each.
func (e *Engine) Register(reg prometheus.Registerer) {
	gauge := func(name, help string, read func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "raptorpack_yara_" + name, Help: help}, read))
	}
	count := func(name, help string, of *atomic.Uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "raptorpack_yara_" + name, Help: help},
			func() float64 { return float64(of.Load()) }))
	}
	gauge("instances", "Sandboxes with libyara that take memory, those kept for the next scan too.", func() float64 { return float64(e.counts.instances.Load()) })
	gauge("working_instances", "Sandboxes that compile or scan.", func() float64 { return float64(len(e.working)) })
	count("compiled_total", "Sets of rules that were compiled.", &e.counts.compiled)
	count("scans_total", "Files and processes that were scanned, failed ones included.", &e.counts.scans)
	count("failed_scans_total", "Scans that ended early or could not read all.", &e.counts.failed)
	count("broken_instances_total", "Sandboxes that were given up because libyara broke or was stopped in them.", &e.counts.broken)
	count("scanned_bytes_total", "Bytes that libyara was given to scan.", &e.counts.read)
}
