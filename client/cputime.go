package client

import (
	"sync"
	"time"

	"raptorpack/internal/throttle"
)

// CPUMeter tells what processor time queries took. The system counts by process, not
// by query, so the time that the process uses is divided in equal shares among the
// queries that run at that moment. A query that runs alone is told what the process
// used meanwhile: also what went into sending, into event queries, which take no share,
// and into whatever else shares the process. Of queries that run together each share is
// an estimate, and their sum is what was used.
//
// Agents that share a process share a meter, otherwise each of them would count all of
// it. It is safe for concurrent use.
type CPUMeter struct {
	used func() time.Duration // of the process since it began; 0: not known

	mu      sync.Mutex
	last    time.Duration // what used said when it was last shared out
	running int64         // queries
	share   time.Duration // what one query that ran all along would have got
}

// NewCPUMeter makes a meter of this process.
func NewCPUMeter() *CPUMeter {
	return newCPUMeter(func() time.Duration { return time.Duration(throttle.CPU() * float64(time.Second)) })
}

func newCPUMeter(used func() time.Duration) *CPUMeter { return &CPUMeter{used: used} }

// cpuUse is the processor time of one query. It belongs to the query's goroutine and
// to whoever holds the lock of its status.
type cpuUse struct {
	meter *CPUMeter
	began time.Duration // the meter's share then
}

// begin enters a query. Its end must be called once.
func (m *CPUMeter) begin() *cpuUse {
	now := m.used()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.divide(now)
	m.running++
	return &cpuUse{m, m.share}
}

// sofar is what the query has used up to now, in nanoseconds; nil: the system does not
// tell. A status says it so, too: left out is not the same as 0.
func (u *cpuUse) sofar() *int64 {
	now := u.meter.used()
	u.meter.mu.Lock()
	defer u.meter.mu.Unlock()
	u.meter.divide(now)
	return u.since(now)
}

// end is the last word of sofar; the query takes no share from here on.
func (u *cpuUse) end() *int64 {
	now := u.meter.used()
	u.meter.mu.Lock()
	defer u.meter.mu.Unlock()
	u.meter.divide(now)
	u.meter.running--
	return u.since(now)
}

func (u *cpuUse) since(now time.Duration) *int64 {
	if now <= 0 {
		return nil
	}
	used := int64(u.meter.share - u.began)
	return &used
}

// divide shares out what was used since the last time. The counter is read before the
// lock is taken, so a reading may be older than the last one: it adds nothing. The
// lock is held.
func (m *CPUMeter) divide(now time.Duration) {
	if news := now - m.last; news > 0 {
		m.last = now
		if m.running > 0 {
			m.share += news / time.Duration(m.running)
		}
	}
}
