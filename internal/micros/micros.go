// Package micros turns times into microseconds since 1970 and back, as records
// keep them: 0 is no time.
package micros

import "time"

// Of returns the microseconds of a time, 0 for the zero time.
func Of(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time returns the time of microseconds, in UTC; the zero time for 0.
func Time(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
