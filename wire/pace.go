package wire

import "time"

const (
	paceSilence = 30 * time.Second // without a byte: a laptop changes its network meanwhile,
	paceSlack   = time.Minute      // so far a body may lie behind
	paceLeast   = 8 << 10          // so many bytes a second
)

// Pace says how long a body on its way may still take: it has to keep coming, and
// on the whole not slower than 8 KiB a second. What came fast is soon forgotten,
// so that nobody buys an hour of dawdling with a burst. Not safe for concurrent use.
type Pace struct{ end time.Time }

// NewPace begins with the first byte of a body, or with waiting for it.
func NewPace(now time.Time) Pace { return Pace{end: now.Add(paceSlack)} }

// Deadline is when a read that begins now has to be over.
func (p *Pace) Deadline(now time.Time) time.Time { return earlier(now.Add(paceSilence), p.end) }

// Took notes that n bytes came.
func (p *Pace) Took(n int, now time.Time) {
	p.end = earlier(p.end.Add(time.Duration(n)*time.Second/paceLeast), now.Add(paceSlack))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
