//go:build unix

package filestore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"raptorpack/filestore"
	"raptorpack/ids"
)

// diskStore is a store in a directory on the disk below BENCH_DIR, or the
// temporary directory.
func diskStore(b *testing.B) *filestore.Store {
	b.Helper()
	dir, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "raptorpack-bench-")
	check(b, err)
	s, err := filestore.Open(dir, filestore.Options{Logger: quiet})
	check(b, err)
	b.Cleanup(func() {
		check(b, s.Close(context.Background()))
		check(b, os.RemoveAll(dir))
	})
	return s
}

// cpu is the processor time of this process in seconds.
func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// pslist makes rows of some 460 bytes that look like a process listing.
func pslist(count int) []byte {
	chance := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for i := range count {
		pid := 100 + i%4000
		fmt.Fprintf(&b, `{"Pid":%d,"Ppid":%d,"Name":"kworker/%d:%d","Cmdline":"/usr/lib/systemd/systemd --switched-root --system --deserialize=%d","Username":"user%02d",`+
			`"Exe":"/usr/lib/systemd/systemd","CreateTime":"2026-03-0%dT1%d:%02d:%02d.%06dZ","RSS":%d,"VMS":%d,"Threads":%d,"Cwd":"/var/lib/service-%02d",`+
			`"Hash":{"MD5":"%016x%016x"},"Environ":"LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin","Status":"sleep"}`+"\n",
			pid, pid/7, i%8, i%13, i%40, i%20, 1+i%9, i%10, i%60, i%59, i%1000000, 4096*(i%5000), 4096*(i%9000), 1+i%32, i%50, chance.Uint64N(64), chance.Uint64N(64))
	}
	return b.Bytes()
}

func BenchmarkPack(b *testing.B) {
	rows := pslist(2000)
	a := filestore.Append{Extent: filestore.Extent{Client: client(1), Flow: flowX, Name: "n", Rows: 2000}, Lines: rows}
	b.SetBytes(int64(len(rows)))
	b.ReportAllocs()
	for b.Loop() {
		out, err := filestore.Pack(a)
		check(b, err)
		b.ReportMetric(float64(len(rows))/float64(len(out)), "ratio")
	}
}

// BenchmarkCommitFlows is durable direct flows: rows and log of a flow in new
// files of new directories, and its fact.
func BenchmarkCommitFlows(b *testing.B) {
	s := diskStore(b)
	k := launch(b, s, "a-1")
	rows := pslist(20)
	logs := numbered("log", 0, 5)
	var next atomic.Int64
	before, used := s.Stats(), cpu()
	b.ResetTimer()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				c, f := client(i%100), flow(fmt.Sprintf("B%d", i))
				err := k.Submit(background, &filestore.Commit{
					Appends: []filestore.Append{
						{Set: filestore.FlowResults(ids.RootOrg, c, f, "Linux.Sys.Pslist"), Extent: filestore.Extent{Client: c, Flow: f, Name: "Linux.Sys.Pslist", Rows: 20}, Lines: rows},
						{Set: filestore.FlowLogs(ids.RootOrg, c, f), Extent: filestore.Extent{Client: c, Flow: f, Name: "log", Rows: 5}, Lines: logs},
					},
					Facts: oneFact("end"),
				})
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric((cpu()-used)*1e3/float64(b.N), "cpu-ms/flow")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "flows/s")
	calls := int64(0)
	for kind, n := range s.Stats() {
		calls += n - before[kind]
	}
	b.ReportMetric(float64(calls)/float64(b.N), "calls/flow")
}

// BenchmarkCommitRows is 100,000 rows of one flow, in commits of 1,000.
func BenchmarkCommitRows(b *testing.B) {
	const commits, each = 100, 1000
	s := diskStore(b)
	k := launch(b, s, "a-1")
	rows := pslist(each)
	b.SetBytes(int64(len(rows)) * commits)
	used := cpu()
	b.ResetTimer()
	for i := range b.N {
		set := filestore.HuntResults(ids.RootOrg, hunt(fmt.Sprintf("B%d", i)), "n")
		var all sync.WaitGroup
		for c := range commits {
			all.Go(func() {
				err := k.Submit(background, &filestore.Commit{Class: filestore.Bulk, Appends: []filestore.Append{{
					Set: set, Extent: filestore.Extent{Client: client(1), Flow: flowX, Name: "n", FirstRow: int64(c * each), Rows: each}, Lines: rows,
				}}})
				if err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	b.StopTimer()
	b.ReportMetric((cpu()-used)/float64(b.N), "cpu-s/100k-rows")
	states, _, err := newReader(s).Segments(background, filestore.HuntResults(ids.RootOrg, hunt("B0"), "n"))
	check(b, err)
	b.ReportMetric(float64(states[0].Size)/1e6, "MB-stored")
}

// BenchmarkUpload is uploads of 256 MiB in pieces of 1 MiB, with hash and name.
func BenchmarkUpload(b *testing.B) {
	const size, piece = 256 << 20, 1 << 20
	s := diskStore(b)
	k := launch(b, s, "a-1")
	data := blob(1, piece)
	b.SetBytes(size)
	b.ReportAllocs()
	used := cpu()
	b.ResetTimer()
	for i := range b.N {
		key := uploadKey(int64(i))
		for at := int64(0); at < size; at += 4 * piece {
			var c filestore.Commit
			for j := range int64(4) {
				c.Uploads = append(c.Uploads, filestore.UploadWrite{Key: key, Offset: at + j*piece, Data: data})
			}
			check(b, k.Submit(background, &c))
		}
		_, err := k.FinishUpload(background, filestore.UploadFinish{Key: key, Accessor: "auto", Components: []string{"f"}, Size: size, StoredSize: size})
		check(b, err)
	}
	b.StopTimer()
	b.ReportMetric((cpu()-used)/float64(b.N)*4, "cpu-s/GiB")
}

// BenchmarkReadPage is a page of 100 rows in the middle of a hunt's 100,000.
func BenchmarkReadPage(b *testing.B) {
	s := diskStore(b)
	k := launch(b, s, "a-1")
	rows := pslist(50)
	var all sync.WaitGroup
	for c := range 2000 {
		all.Go(func() {
			err := k.Submit(background, &filestore.Commit{Class: filestore.Bulk, Appends: []filestore.Append{{
				Set: huntSet, Extent: filestore.Extent{Client: client(c), Flow: flowX, Name: "n", Rows: 50}, Lines: rows,
			}}})
			if err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
	reader := newReader(s)
	b.ResetTimer()
	for b.Loop() {
		page, err := reader.ReadRows(background, huntSet, filestore.RowsQuery{From: 50_000, Limit: 100})
		check(b, err)
		if len(page.Rows) != 100 {
			b.Fatalf("%d rows", len(page.Rows))
		}
	}
	b.StopTimer()
	_, err := reader.Export(background, huntSet, filestore.RowsFilter{}, io.Discard)
	check(b, err)
}
