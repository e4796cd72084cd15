package pool

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
)

// memory is what the Go runtime of this process has of the system, and has not given
// back: heap, stacks and its own.
func memory() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	if samples[0].Value.Kind() != metrics.KindUint64 || samples[1].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}

// collectAt is the growth of the heap in percent at which garbage is collected. Agents
// leave much garbage and keep little, and a machine that holds servers and agents is
// short of processor time before it is short of memory: at Go's 100 a quarter of the
// pool's processor time in a hunt went into collecting.
const collectAt = 200

// SpareProcessor has this process collect its garbage less often, unless the
// environment says how often (GOGC). It is for programs that run nothing but a pool.
func SpareProcessor() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
}
