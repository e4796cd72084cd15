package frontend

import (
	"sync"
	"time"
)

const quietFor = time.Minute

// quiet lets one log line per reason and minute through: floods are for
// counters.
type quiet struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func newQuiet() *quiet { return &quiet{last: make(map[string]time.Time)} }

// may reports whether to log now. Reasons are constants of ours.
func (q *quiet) may(reason string) bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if last, ok := q.last[reason]; ok && now.Sub(last) < quietFor {
		return false
	}
	q.last[reason] = now
	return true
}
