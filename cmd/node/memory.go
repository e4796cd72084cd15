package node

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	lookEvery = time.Second
	calmBytes = 8 << 20 / 5 // allocated between two looks, at most, that counts as calm
	calmAfter = time.Minute // of nothing else
	giveBack  = time.Minute // while busy

	// How much garbage the collector lets stand, in percent of what is live. A
	// fleet that enrols leaves its garbage between what stays, and the gaps are
	// never closed: the smaller share costs half a millisecond of CPU for each
	// client that enrols, and saves 12 KiB of memory for each that waits.
	busyGarbage = 50
	calmGarbage = 15

	// From manyBytes live on the share is smaller, so that garbage is no more than
	// it was there, but never less than fewGarbage: a collection costs what is live.
	// Shares no larger than what a second allocates cost hunts a tenth more processor
	// time.
	manyBytes  = 80 << 20
	fewGarbage = 20

	// shareStep is how far a share must be from the one in force: setting it stops
	// the world for a moment.
	shareStep = 3
)

// busyShare is how much garbage may stand while a node is busy, in percent of what is
// live.
func busyShare(live uint64) int {
	return int(min(busyGarbage, max(fewGarbage, busyGarbage*manyBytes/max(live, 1))))
}

// allowGarbage lets so much stand, in percent of what is live. An operator who sets
// GOGC decides instead.
func allowGarbage(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// thrift keeps memory small while many clients wait and little happens: after a
// calm minute it gives back what a storm took, and collects sooner until the next.
// While a node is busy it gives back once a minute what it does not use now. It works
// until ctx ends.
func (n *Node) thrift(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last, _ := heap()
	share := busyGarbage
	calm, gave := time.Duration(0), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		allocated, live := heap()
		want := share
		switch busy := allocated-last > calmBytes; {
		case busy:
			want, calm = busyShare(live), 0
			if time.Since(gave) >= giveBack {
				debug.FreeOSMemory()
				gave = time.Now()
			}
		case calm < calmAfter:
			if calm += lookEvery; calm >= calmAfter {
				want = calmGarbage
				debug.FreeOSMemory()
			}
		}
		if want < share-shareStep || want > share+shareStep {
			share = want
			allowGarbage(share)
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
