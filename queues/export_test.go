package queues

import (
	dto "github.com/prometheus/client_model/go"

	"raptorpack/proto/buspb"
)

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

// Rows counts what a writer has made durable.
func Rows(w *Writer) float64 {
	var m dto.Metric
	if err := w.metrics.rows.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}
