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

	// From manyBytes live on the share is smaller, so that garbage is no more than
	// it was there, but never less than fewGarbage: a collection costs what is live.
	manyBytes  = 80 << 20
	fewGarbage = 20
)

// busyShare is how much garbage may stand while a node is busy, in percent of what is
// live.
func busyShare(live uint64) int {
	return int(min(busyGarbage, max(fewGarbage, busyGarbage*manyBytes/max(live, 1))))
}

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
	share := busyGarbage
	allow(share)
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
		allocated, live := heap()
		switch busy := allocated-last > calmBytes; {
		case busy:
			if now := busyShare(live); calm >= calmAfter || now != share {
				share = now
				allow(share)
			}
			calm = 0
		case calm < calmAfter:
			if calm += lookEvery; calm >= calmAfter {
				allow(calmGarbage)
				debug.FreeOSMemory()
			}
		}
		last = allocated
	}
}

// heap tells how many bytes were ever allocated, and how many the last collection
// found in use.
func heap() (allocated, live uint64) {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64(), sample[1].Value.Uint64()
}
