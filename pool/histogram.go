package pool

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
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

// histogram counts durations as they come. The zero value is empty; safe for
// concurrent use.
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

// now is what was counted so far.
func (h *histogram) now() Histogram {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := Histogram{Count: h.count, Sum: h.sum, Max: h.max}
	if h.count > 0 {
		out.Buckets = map[int]uint32{}
	}
	for at, n := range h.counts {
		if n > 0 {
			out.Buckets[at] = n
		}
	}
	return out
}

// Histogram is how many durations fell where. Those of several pools add up.
type Histogram struct {
	Count   int
	Sum     time.Duration
	Max     time.Duration
	Buckets map[int]uint32 // by number: bucket n ends at 0.1 ms times 1.05 to the power of n
}

// Add adds what another pool counted.
func (h *Histogram) Add(other Histogram) {
	h.Count += other.Count
	h.Sum += other.Sum
	h.Max = max(h.Max, other.Max)
	if h.Buckets == nil && len(other.Buckets) > 0 {
		h.Buckets = map[int]uint32{}
	}
	for at, n := range other.Buckets {
		h.Buckets[at] += n
	}
}

// Quantile is the duration that a part q, 0 to 1, of the samples did not exceed.
func (h Histogram) Quantile(q float64) time.Duration {
	left := int(math.Ceil(q * float64(h.Count)))
	for _, at := range slices.Sorted(maps.Keys(h.Buckets)) {
		if left -= int(h.Buckets[at]); left <= 0 {
			edge := time.Duration(float64(bucketBase) * math.Pow(bucketGrowth, float64(at)))
			return min(edge, h.Max)
		}
	}
	return h.Max
}

// Latency is what a histogram says. Quantiles are zero where the samples are too
// few to tell them: a p99 takes 100, a p90 20.
type Latency struct {
	Count              int
	Mean               time.Duration
	P50, P90, P99, Max time.Duration
}

// Latency is the histogram in few figures.
func (h Histogram) Latency() Latency {
	l := Latency{Count: h.Count, Max: h.Max}
	if l.Count > 0 {
		l.Mean = h.Sum / time.Duration(h.Count)
		l.P50 = h.Quantile(0.50)
	}
	if l.Count >= 20 {
		l.P90 = h.Quantile(0.90)
	}
	if l.Count >= 100 {
		l.P99 = h.Quantile(0.99)
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

// histogramJSON is the form in lines of JSON: seconds for people, buckets for programs
// that add up.
type histogramJSON struct {
	Count   int            `json:"count"`
	Sum     float64        `json:"sum"`
	P50     float64        `json:"p50,omitempty"`
	P90     float64        `json:"p90,omitempty"`
	P99     float64        `json:"p99,omitempty"`
	Max     float64        `json:"max"`
	Buckets map[int]uint32 `json:"buckets,omitempty"`
}

// MarshalJSON writes durations in seconds.
func (h Histogram) MarshalJSON() ([]byte, error) {
	l := h.Latency()
	return json.Marshal(histogramJSON{h.Count, h.Sum.Seconds(), l.P50.Seconds(), l.P90.Seconds(), l.P99.Seconds(), h.Max.Seconds(), h.Buckets})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Histogram) UnmarshalJSON(text []byte) error {
	var in histogramJSON
	if err := json.Unmarshal(text, &in); err != nil {
		return fmt.Errorf("histogram: %w", err)
	}
	*h = Histogram{Count: in.Count, Sum: seconds(in.Sum), Max: seconds(in.Max), Buckets: in.Buckets}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }
