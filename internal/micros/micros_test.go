package micros_test

import (
	"testing"
	"time"

	"raptorpack/internal/micros"
)

func TestThereAndBack(t *testing.T) {
	for want, at := range map[int64]time.Time{
		0:                     {},
		1:                     time.UnixMicro(1).UTC(),
		-5:                    time.UnixMicro(-5).UTC(),
		1_790_000_000_123_456: time.Date(2026, 9, 21, 14, 13, 20, 123_456_000, time.UTC),
	} {
		if got := micros.Of(at); got != want {
			t.Errorf("Of(%v) = %d, want %d", at, got, want)
		}
		if got := micros.Time(want); got != at {
			t.Errorf("Time(%d) = %v, want %v", want, got, at)
		}
	}
}
