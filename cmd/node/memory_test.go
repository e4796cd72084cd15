package node

import "testing"

func TestLessGarbageWhereMuchIsLive(t *testing.T) {
	for live, want := range map[uint64]int{0: 50, 50 << 20: 50, 80 << 20: 50, 100 << 20: 40, 160 << 20: 25, 1 << 30: 20} {
		if got := busyShare(live); got != want {
			t.Errorf("%d MiB live: %d %%, want %d", live>>20, got, want)
		}
	}
}
