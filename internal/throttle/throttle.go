// Package throttle holds work back while this process uses more than a share of
// the machine.
//
// It counts the process, because that is what the machine's user feels and what
// systems count exactly. Where the process does other things too, as a node does,
// limited work yields to them, and still gets a twentieth of the time.
package throttle

import (
	"context"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// Usage is what this process has used so far.
type Usage struct {
	CPU float64 // seconds of all cores together
	Ops float64 // read and write operations
}

// Measure reads what this process has used so far.
type Measure func() (Usage, error)

// Process reads the counters of this process from the system.
func Process() (Usage, error) {
	p, err := process.NewProcess(int32(os.Getpid()))
	if err != nil {
		return Usage{}, err
	}
	times, err := p.Times()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{CPU: times.User + times.System}
	if io, err := p.IOCounters(); err == nil { // not offered everywhere
		u.Ops = float64(io.ReadCount + io.WriteCount)
	}
	return u, nil
}

const (
	every  = 50 * time.Millisecond // between two looks at the counters
	credit = 2 * time.Second       // unused share that is kept for a burst
	pause  = time.Second           // the longest single pause

	// maxDebt is the longest rest that use can add up to. Other queries of
	// this process run up debt too, and one of them that has no limit must not
	// leave a limited one asleep for hours.
	maxDebt = time.Minute
)

// Throttle holds whoever calls Charge back while this process uses more than its
// share. The CPU share is of the whole machine, so 100 never holds back. It is
// safe for concurrent use; nil holds nothing back.
type Throttle struct {
	cpu, iops float64 // seconds of CPU and operations per second; 0: no limit
	read      Measure

	due atomic.Int64 // unix nanoseconds of the next look

	mu       sync.Mutex
	last     time.Time // of the last look; before is what was used then
	before   Usage
	cpuDebt  float64 // seconds of rest owed; negative: credit
	iopsDebt float64
}

// New makes the throttle for limits in percent of the machine and in operations
// per second; nil when there are none. A nil read is Process.
func New(cpuPercent, iops float64, read Measure) *Throttle {
	t := &Throttle{iops: max(0, iops), read: read}
	if cpuPercent > 0 && cpuPercent < 100 {
		t.cpu = cpuPercent / 100 * float64(runtime.NumCPU())
	}
	if t.cpu == 0 && t.iops == 0 {
		return nil
	}
	if read == nil {
		t.read = Process
	}
	return t
}

// Charge is called for each small piece of work and may sleep. It returns early,
// with the context's cause, when ctx ends.
func (t *Throttle) Charge(ctx context.Context) error {
	if t == nil {
		return nil
	}
	now := time.Now()
	due := t.due.Load()
	if now.UnixNano() < due || !t.due.CompareAndSwap(due, now.Add(every).UnixNano()) {
		return nil
	}
	rest := t.rest(now)
	if rest <= 0 {
		return nil
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rest computes how long to rest so that the use up to now comes down to the
// limit.
func (t *Throttle) rest(now time.Time) time.Duration {
	u, err := t.read()
	if err != nil {
		return 0 // counters that cannot be read do not stop an investigation
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() {
		elapsed := now.Sub(t.last).Seconds()
		t.cpuDebt = owed(t.cpuDebt, u.CPU-t.before.CPU, t.cpu, elapsed)
		t.iopsDebt = owed(t.iopsDebt, u.Ops-t.before.Ops, t.iops, elapsed)
	}
	t.last, t.before = now, u
	rest := max(0, t.cpuDebt, t.iopsDebt)
	return min(pause, time.Duration(rest*float64(time.Second)))
}

// owed adds to a debt what use costs at a limit per second, and takes off the
// time that has passed.
func owed(debt, used, limit, elapsed float64) float64 {
	if limit == 0 {
		return 0
	}
	return min(maxDebt.Seconds(), max(-credit.Seconds(), debt+used/limit-elapsed))
}
