package pool

import "math"

// RaiseDescriptorLimit does nothing: Windows bounds handles by memory alone.
func RaiseDescriptorLimit(uint64) (uint64, error) { return math.MaxUint64, nil }
