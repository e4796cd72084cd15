package node

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	trimEvery = time.Minute
	calmBytes = 32 << 20 // allocated in a minute that counts as calm
	worthIt   = 64 << 20 // allocated since the last time, before memory is given back again
)

// trim gives memory back to the system in the first calm minute after a storm: the
// collector lets the heap grow to twice of what is live, and a fleet that has
// enrolled and waits needs the one half only. It works until ctx ends.
func (n *Node) trim(ctx context.Context) error {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	var given, last uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		metrics.Read(sample)
		now := sample[0].Value.Uint64()
		if now-last < calmBytes && now-given > worthIt {
			debug.FreeOSMemory()
			given = now
		}
		last = now
	}
}
