package replication_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

// benchNode is a leading node on a directory of the operating system.
func benchNode(b *testing.B) (*replication.Node, *filestore.Store) {
	b.Helper()
	disk, err := filestore.OpenOS(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	r := newRig(b, disk, "a-1", nil).load().lead(1)
	return r.node, r.store
}

// BenchmarkPropose is many callers at once: they share syncs.
func BenchmarkPropose(b *testing.B) {
	for _, callers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			node, store := benchNode(b)
			body := make([]byte, 200)
			before := store.Stats()["sync"]
			b.SetParallelism(callers)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := node.Propose(b.Context(), &buspb.Mutation{Kind: "book", Body: body}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(store.Stats()["sync"]-before)/float64(b.N), "syncs/op")
		})
	}
}

func BenchmarkOutboxAppend(b *testing.B) {
	node, _ := benchNode(b)
	var n atomic.Int64
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m := mutation(fmt.Sprint(n.Add(1) % 1000))
			if err := node.Outbox().AppendSync(b.Context(), []*buspb.Mutation{m}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkReplay is a start that has to read the ledger: time per entry.
func BenchmarkReplay(b *testing.B) {
	const entries = 20_000
	disk, err := filestore.OpenOS(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	a := newRig(b, disk, "a-1", nil).load().run().lead(1)
	for i := range entries / 1000 {
		batch := make([]*buspb.Mutation, 1000)
		for j := range batch {
			batch[j] = mutation(fmt.Sprint(i, " ", j))
		}
		if err := a.node.Outbox().AppendSync(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	a.drained()
	a.close()
	for b.Loop() {
		newRig(b, disk, "b-1", nil).load()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/entries, "ns/entry")
}

func TestBookKeepsTheStatesPromises(t *testing.T) {
	var entries []*buspb.Entry
	for i := range 40 {
		body := fmt.Sprint("word ", i%7)
		if i%5 == 0 {
			body = "refuse"
		}
		entries = append(entries, &buspb.Entry{Mutation: mutation(body)})
	}
	statetest.Run(t, func() replication.State { return newBook() }, entries)
}
