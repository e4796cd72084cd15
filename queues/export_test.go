package queues

import "raptorpack/proto/buspb"

// SetLimit bounds what waits.
func (r *Room) SetLimit(n int) { r.limit = n }

// Written is the fact that what was told up to a place is durable.
func Written(index uint64, n uint32) *buspb.Mutation {
	m, err := written(place{index, n})
	if err != nil {
		panic(err)
	}
	return m
}
