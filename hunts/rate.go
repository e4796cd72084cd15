package hunts

import "time"

const (
	// maxRate is the fastest that can be asked for, clients per minute: far beyond
	// what a pack can do.
	maxRate = 6_000_000

	// depth is how long admissions may be saved up. Within any time t no more are
	// admitted than rate * (t + depth), but at least one.
	depth = time.Second
)

// pace is a hunt's token bucket, kept as the time by which everything admitted so
// far would have been admitted at exactly the rate. That time is part of the
// replicated state: a new master goes on where the old one ended.
type pace struct{ paid int64 } // unix microseconds; 0: nothing was admitted

// interval is the time between two admissions in microseconds, rounded up so that
// the rate is never exceeded; 0: no rate.
func interval(rate int64) int64 {
	if rate <= 0 {
		return 0
	}
	return (time.Minute.Microseconds() + rate - 1) / rate
}

// allowance is how many may be admitted at a time.
func (p pace) allowance(rate, at int64) int64 {
	step := interval(rate)
	if step == 0 {
		return 1 << 40
	}
	free := at + max(step, depth.Microseconds()) - max(p.paid, at)
	return max(0, free/step)
}

// admit counts n admissions at a time.
func (p *pace) admit(rate, at, n int64) {
	if step := interval(rate); step > 0 {
		p.paid = max(p.paid, at) + n*step
	}
}

// change goes over to another rate: what was admitted ahead stays as many clients.
func (p *pace) change(from, to, at int64) {
	ahead, old := p.paid-at, interval(from)
	if ahead <= 0 || old == 0 {
		p.paid = at
		return
	}
	p.paid = at + (ahead+old-1)/old*interval(to)
}
