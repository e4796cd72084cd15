package server_test

import (
	"testing"

	"raptorpack/vql"
)

const benchRows = 100_000

const benchAdd = `SELECT timeline_add(timeline='Super', name='bench', key='T', message_column='M', query={
	SELECT 1700000000 + _value * 7919 - int(int=_value * 7919 / 100000) * 100000 AS T,
		format(format='message of row %v', args=_value) AS M, '/usr/share/some/path/of/a/file' AS Path, _value AS N FROM range(end=100000)
}).timelines[0].rows AS Rows FROM scope()`

// BenchmarkTimelineAdd is a query of 100,000 rows, sorted and stored.
func BenchmarkTimelineAdd(b *testing.B) {
	s := newWorld(b).in("N.ONE")
	b.ReportAllocs()
	for range b.N {
		s.want(benchAdd, `{"Rows":100000}`)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRows, "ns/row")
}

// BenchmarkTimeline reads them back, and from close to their end.
func BenchmarkTimeline(b *testing.B) {
	s := newWorld(b).in("N.ONE")
	s.want(benchAdd, `{"Rows":100000}`)
	for _, c := range []struct {
		name, query string
		rows        int
	}{
		{"all", `SELECT * FROM timeline(timeline='Super')`, benchRows},
		{"last100", `SELECT * FROM timeline(timeline='Super', start=1700099900)`, 100},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				rows := 0
				if err := s.each(b.Context(), c.query, func(*vql.Dict) error { rows++; return nil }); err != nil || rows != c.rows {
					b.Fatalf("%d rows, %v", rows, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(c.rows), "ns/row")
		})
	}
}
