package node

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	lookEvery = 5 * time.Second
	calmBytes = 8 << 20     // allocated between two looks, at most, that counts as calm
	calmAfter = time.Minute // of nothing else

	// How much garbage the collector lets stand, in percent of what is live. A
	// fleet that enrols leaves its garbage between what stays, and the gaps are
	// never closed: the smaller share costs half a millisecond of CPU for each
	// client that enrols, and saves 12 KiB of memory for each that waits.
	busyGarbage = 50
	calmGarbage = 15
)

// thrift keeps memory small while many clients wait and little happens: after a
// calm minute it gives back what a storm took, and collects sooner until the next.
// An operator who sets GOGC decides instead. It works until ctx ends.
func (n *Node) thrift(ctx context.Context) error {
	ours := os.Getenv("GOGC") == ""
	allow := func(percent int) {
		if ours {
			debug.SetGCPercent(percent)
		}
	}
	allow(busyGarbage)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last uint64
	calm := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		metrics.Read(sample)
		now := sample[0].Value.Uint64()
		switch busy := now-last > calmBytes; {
		case busy && calm >= calmAfter:
			allow(busyGarbage)
			calm = 0
		case busy:
			calm = 0
		case calm < calmAfter:
			if calm += lookEvery; calm >= calmAfter {
				allow(calmGarbage)
				debug.FreeOSMemory()
			}
		}
		last = now
	}
}
