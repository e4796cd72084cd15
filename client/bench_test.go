package client

import (
	"runtime"
	"strings"
	"testing"
)

// BenchmarkBufferPut puts messages of 64 KiB into a buffer on disk.
func BenchmarkBufferPut(b *testing.B) {
	buffer, err := OpenBuffer(BufferOptions{Dir: b.TempDir() + "/b", DiskBytes: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer buffer.Close()
	text := strings.Repeat("x", 64<<10)
	b.SetBytes(64 << 10)
	for b.Loop() {
		put(b, buffer, "F.A", text)
		if buffer.store.bytes() > 512<<20 {
			drain(b, buffer)
		}
	}
}

// BenchmarkNewAgent tells what an agent in memory costs before it runs.
func BenchmarkNewAgent(b *testing.B) {
	o := testOptions(b, "", "http://127.0.0.1:1/")
	o.Metrics = NewMetrics(nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var kept []*Client
	for b.Loop() {
		c, err := New(o)
		if err != nil {
			b.Fatal(err)
		}
		kept = append(kept, c)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(kept)), "B/agent")
	runtime.KeepAlive(kept)
}
