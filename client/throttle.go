package client

import (
	"context"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// usage is what this process has used so far.
type usage struct {
	cpu float64 // seconds of all cores together
	ops float64 // read and write operations
}

// measure reads this process's usage; replaced by tests.
type measure func() (usage, error)

// processUsage reads the counters of this process from the system.
func processUsage() (usage, error) {
	p, err := process.NewProcess(int32(os.Getpid()))
	if err != nil {
		return usage{}, err
	}
	times, err := p.Times()
	if err != nil {
		return usage{}, err
	}
	u := usage{cpu: times.User + times.System}
	if io, err := p.IOCounters(); err == nil { // not offered everywhere
		u.ops = float64(io.ReadCount + io.WriteCount)
	}
	return u, nil
}

const (
	throttleEvery  = 50 * time.Millisecond // between two looks at the counters
	throttleCredit = 2 * time.Second       // unused share that is kept for a burst
	throttlePause  = time.Second           // the longest single pause

	// throttleDebt is the longest rest that use can add up to. Other queries of
	// this process run up debt too, and one of them that has no limit must not
	// leave a limited one asleep for hours.
	throttleDebt = time.Minute
)

// throttle holds a query back while this process uses more than its share. The
// CPU share is of the whole machine, so 100 never holds back; it counts the
// process, not the query, because that is what the machine's user feels.
type throttle struct {
	cpu, iops float64 // seconds of CPU and operations per second; 0: no limit
	read      measure

	due atomic.Int64 // unix nanoseconds of the next look

	mu       sync.Mutex
	last     time.Time // of the last look; before is what was used then
	before   usage
	cpuDebt  float64 // seconds of rest owed; negative: credit
	iopsDebt float64
}

// newThrottle makes the throttle for limits in percent and operations per
// second; nil when there are none.
func newThrottle(cpuPercent, iops float64, read measure) *throttle {
	t := &throttle{iops: max(0, iops), read: read}
	if cpuPercent > 0 && cpuPercent < 100 {
		t.cpu = cpuPercent / 100 * float64(runtime.NumCPU())
	}
	if t.cpu == 0 && t.iops == 0 {
		return nil
	}
	if read == nil {
		t.read = processUsage
	}
	return t
}

// Charge implements vql.Throttle.
func (t *throttle) Charge(ctx context.Context) error {
	now := time.Now()
	due := t.due.Load()
	if now.UnixNano() < due || !t.due.CompareAndSwap(due, now.Add(throttleEvery).UnixNano()) {
		return nil
	}
	pause := t.pause(now)
	if pause <= 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause computes how long to rest so that the use up to now comes down to the
// limit.
func (t *throttle) pause(now time.Time) time.Duration {
	u, err := t.read()
	if err != nil {
		return 0 // counters that cannot be read do not stop an investigation
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() {
		elapsed := now.Sub(t.last).Seconds()
		t.cpuDebt = owed(t.cpuDebt, u.cpu-t.before.cpu, t.cpu, elapsed)
		t.iopsDebt = owed(t.iopsDebt, u.ops-t.before.ops, t.iops, elapsed)
	}
	t.last, t.before = now, u
	rest := max(0, t.cpuDebt, t.iopsDebt)
	return min(throttlePause, time.Duration(rest*float64(time.Second)))
}

// owed adds to a debt what use costs at a limit per second, and takes off the
// time that has passed.
func owed(debt, used, limit, elapsed float64) float64 {
	if limit == 0 {
		return 0
	}
	return min(throttleDebt.Seconds(), max(-throttleCredit.Seconds(), debt+used/limit-elapsed))
}
