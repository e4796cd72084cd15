package pool

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
)

// Buckets grow by a twentieth from a tenth of a millisecond, so a quantile is
// wrong by a twentieth at most.
const (
	bucketBase   = 100 * time.Microsecond
	bucketGrowth = 1.05
	buckets      = 320 // to 10 minutes
)

// histogram counts durations. The zero value is empty; safe for concurrent use.
type histogram struct {
	mu     sync.Mutex
	counts [buckets]uint32
	count  int
	sum    time.Duration
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	at := 0
	if d > bucketBase {
		at = min(int(math.Log(float64(d)/float64(bucketBase))/math.Log(bucketGrowth))+1, buckets-1)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[at]++
	h.count++
	h.sum += d
	h.max = max(h.max, d)
}

// quantile is the duration that a part q, 0 to 1, of the samples did not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := int(math.Ceil(q * float64(h.count)))
	for at, n := range h.counts {
		if left -= int(n); left <= 0 {
			edge := time.Duration(float64(bucketBase) * math.Pow(bucketGrowth, float64(at)))
			return min(edge, h.max)
		}
	}
	return h.max
}

// Latency is what a histogram says. Quantiles are zero where the samples are too
// few to tell them: a p99 takes 100, a p90 20.
type Latency struct {
	Count              int
	Mean               time.Duration
	P50, P90, P99, Max time.Duration
}

func (h *histogram) latency() Latency {
	h.mu.Lock()
	l := Latency{Count: h.count, Max: h.max}
	if h.count > 0 {
		l.Mean = h.sum / time.Duration(h.count)
	}
	h.mu.Unlock()
	if l.Count > 0 {
		l.P50 = h.quantile(0.50)
	}
	if l.Count >= 20 {
		l.P90 = h.quantile(0.90)
	}
	if l.Count >= 100 {
		l.P99 = h.quantile(0.99)
	}
	return l
}

// String is one line for people.
func (l Latency) String() string {
	parts := []string{fmt.Sprintf("n=%d", l.Count)}
	for _, part := range []struct {
		name string
		d    time.Duration
	}{{"mean", l.Mean}, {"p50", l.P50}, {"p90", l.P90}, {"p99", l.P99}, {"max", l.Max}} {
		if part.d > 0 {
			parts = append(parts, fmt.Sprintf("%s=%.4gs", part.name, part.d.Seconds()))
		}
	}
	return strings.Join(parts, " ")
}
