//go:build unix

package clients_test

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Benchmarks over a million clients take minutes; each is meant to be run alone:
//
//	go test -run '^$' -bench 'SearchMillion' ./clients
const million = 1_000_000

// metropolis is the room of a million, indexed, of whom a tenth was seen.
var metropolis = sync.OnceValue(func() *clients.Room {
	room, f := clients.New(nil), fleet{million, 1}
	r, w := io.Pipe()
	go func() {
		f.write(w)
		w.Close()
	}()
	if err := room.Restore(r); err != nil {
		panic(err)
	}
	room.Merge(context.Background())
	for i := 0; i < million; i += 10 {
		client, err := ids.ParseClient(f.id(i))
		if err != nil {
			panic(err)
		}
		room.Touch(ids.RootOrg, client, "10."+strconv.Itoa(i%7)+"."+strconv.Itoa(i%251)+".9", noon.Add(-time.Duration(i%300)*time.Minute))
		room.SetOnline(ids.RootOrg, client, i%20 == 0)
	}
	return room
})

// cpu is the time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for self
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak is the most memory that the process had, in MB, where /proc tells.
func peak() float64 {
	status, _ := os.ReadFile("/proc/self/status") // elsewhere: 0
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kb, _ := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "kB", 2)[0]), 64)
	return kb / 1024
}

func live() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}

// BenchmarkRestoreMillion is a start: the room is restored from a file, then the
// index is made. The last figure is memory of the whole process.
func BenchmarkRestoreMillion(b *testing.B) {
	file := filepath.Join(b.TempDir(), "clients.jsonl")
	snapshot, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	fleet{million, 1}.write(snapshot)
	if err := snapshot.Close(); err != nil {
		b.Fatal(err)
	}
	var restored, indexed time.Duration
	for b.Loop() {
		snapshot, err := os.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		room := clients.New(nil)
		begin := cpu()
		if err := room.Restore(snapshot); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		restored += cpu() - begin
		begin, start := cpu(), time.Now()
		room.Merge(b.Context())
		indexed += cpu() - begin
		b.ReportMetric(float64(time.Since(start))/1e6, "index-ms")
		b.ReportMetric(peak(), "peak-rss-MB")
		b.ReportMetric(live(), "live-MB")
		snapshot.Close()
		runtime.KeepAlive(room)
		b.StartTimer()
	}
	b.ReportMetric(float64(restored)/1e6/float64(b.N), "restore-cpu-ms")
	b.ReportMetric(float64(indexed)/1e6/float64(b.N), "index-cpu-ms")
}

// BenchmarkSearchMillion searches for pages of 100, alone and while 10,000 labels
// change each second.
func BenchmarkSearchMillion(b *testing.B) {
	for _, query := range []string{
		"web", "desktop", "prod", "example", "web-ber-00012", "7.corp", "abc", "abc5", "10.1", "host:web*", "host:*.corp.example.com", "label:prod-ber-0",
		"user:administrator", "user:ada.turing", "os:windows ber -label:none", "online web", "recent label:tier*", "seen:<1h ber", "-online desktop",
		"we", "0", "a", "online", "mac:00:16:*", "mac:3e:", "mac:*:16:3e:*:0?", "mac:*1*2*", "label:prod-ber-0 mac:3e:", "07.corp", "host:*7.corp*", "",
	} {
		b.Run("alone/"+query, func(b *testing.B) { benchSearch(b, metropolis(), query) })
	}
	for _, query := range []string{"web", "prod", "abc5", "user:ada.turing", "online web", "we", "0", "mac:00:16:*"} {
		b.Run("busy/"+query, func(b *testing.B) {
			room := metropolis()
			applied := busy(b, room)
			benchSearch(b, room, query)
			b.ReportMetric(applied(), "labels/s")
		})
	}
}

func benchSearch(b *testing.B, room *clients.Room, query string) {
	var took []time.Duration
	begin := cpu()
	for b.Loop() {
		start := time.Now()
		if _, err := room.Search(ids.RootOrg, query, 0, 100, noon); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	b.ReportMetric(float64(cpu()-begin)/1e6/float64(len(took)), "cpu-ms/op")
	report(b, took)
}

// busy changes 10,000 labels a second, each by an entry of its own, until the
// benchmark ends. What it returns stops it and tells how many there were.
func busy(b *testing.B, room *clients.Room) (perSecond func() float64) {
	ctx, stop := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = room.Run(ctx) }) // nil
	mutations := labelChanges(b, room, 1<<15)
	applied, begin := 0, time.Now()
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for applied < int(time.Since(begin).Milliseconds()*10) {
				apply(b, room, mutations[applied%len(mutations)])
				applied++
			}
		}
	})
	return func() float64 {
		stop()
		wg.Wait()
		return float64(applied) / time.Since(begin).Seconds()
	}
}

// labelChanges are of random clients, and change something most times.
func labelChanges(b *testing.B, room *clients.Room, n int) (out []*buspb.Mutation) {
	f, r := fleet{million, 1}, rand.New(rand.NewPCG(5, 6))
	for range n {
		m, err := room.PlanLabels(ids.RootOrg, []ids.Client{f.client(b, r.IntN(million))}, []string{labelNames[r.IntN(200)]}, []string{labelNames[r.IntN(200)]})
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

func apply(b *testing.B, room *clients.Room, m *buspb.Mutation) {
	if err := room.Apply(&buspb.Entry{Index: 1, Time: 1, Mutation: m}); err != nil {
		b.Error(err)
	}
}

// BenchmarkApplyLabel has an entry for each change, merges into the index included.
func BenchmarkApplyLabel(b *testing.B) {
	room := metropolis()
	mutations := labelChanges(b, room, 1<<17)
	ctx, stop := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = room.Run(ctx) }) // nil
	i, begin := 0, cpu()
	for b.Loop() {
		apply(b, room, mutations[i%len(mutations)])
		i++
	}
	b.ReportMetric(float64(cpu()-begin)/1e3/float64(i), "cpu-us/op")
	stop()
	wg.Wait()
}

// BenchmarkApplyLabelBatch changes a label of 1,000 random clients by one entry.
func BenchmarkApplyLabelBatch(b *testing.B) {
	room, f, r := metropolis(), fleet{million, 1}, rand.New(rand.NewPCG(7, 8))
	ctx, stop := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = room.Run(ctx) }) // nil
	var mutations []*buspb.Mutation
	for i := range 64 {
		var who []ids.Client
		for range 1000 {
			who = append(who, f.client(b, r.IntN(million)))
		}
		m, err := room.PlanLabels(ids.RootOrg, who, []string{"batch-" + strconv.Itoa(i%8)}, []string{"batch-" + strconv.Itoa((i+1)%8)})
		if err != nil {
			b.Fatal(err)
		}
		mutations = append(mutations, m)
	}
	i, begin := 0, cpu()
	for b.Loop() {
		apply(b, room, mutations[i%len(mutations)])
		i++
	}
	b.ReportMetric(float64(cpu()-begin)/1e6/float64(i), "cpu-us/client")
	stop()
	wg.Wait()
}

// BenchmarkViewMillion takes a view and then changes a thousand clients, whose
// blocks are copied.
func BenchmarkViewMillion(b *testing.B) {
	room := metropolis()
	mutations := labelChanges(b, room, 1<<14)
	var took []time.Duration
	i := 0
	for b.Loop() {
		start := time.Now()
		room.View()
		took = append(took, time.Since(start))
		b.StopTimer()
		for range 1000 {
			apply(b, room, mutations[i%len(mutations)])
			i++
		}
		b.StartTimer()
	}
	report(b, took)
}

func BenchmarkWriteMillion(b *testing.B) {
	room := metropolis()
	for b.Loop() {
		n, err := room.View().WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

func BenchmarkLookupMillion(b *testing.B) {
	room, f := metropolis(), fleet{million, 1}
	var who []ids.Client
	for i := range 1 << 14 {
		who = append(who, f.client(b, i*61))
	}
	for name, look := range map[string]func(client ids.Client) error{
		"record": func(c ids.Client) error { _, err := room.Lookup(ids.RootOrg, c); return err },
		"labels": func(c ids.Client) error { _, err := room.Labels(ids.RootOrg, c); return err },
		"key":    func(c ids.Client) error { _, err := room.Key(ids.RootOrg, c); return err },
	} {
		b.Run(name, func(b *testing.B) {
			i := 0
			for b.Loop() {
				if err := look(who[i%len(who)]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

// BenchmarkPresence has 100,000 of a fleet of as many, or of a million, online at
// one of five nodes, and seen there.
func BenchmarkPresence(b *testing.B) {
	f := fleet{million, 1}
	for _, share := range []int{1, 10} {
		b.Run("of-"+strconv.Itoa(share*100_000), func(b *testing.B) {
			room := clients.New(nil)
			r, w := io.Pipe()
			go func() {
				fleet{share * 100_000, 1}.write(w)
				w.Close()
			}()
			if err := room.Restore(r); err != nil {
				b.Fatal(err)
			}
			var online []ids.Client
			var seen []clients.Sighting
			for i := range 100_000 {
				client := f.client(b, i*share)
				online = append(online, client)
				seen = append(seen, clients.Sighting{Client: client, At: noon, Address: "10.1." + strconv.Itoa(i/256%256) + "." + strconv.Itoa(i%256)})
			}
			before := live()
			for b.Loop() {
				for n, some := range [][]ids.Client{online[:20_000], online[20_000:40_000], online[40_000:60_000], online[60_000:80_000], online[80_000:]} {
					room.RemoteOnline("node-"+strconv.Itoa(n), ids.RootOrg, some, nil)
				}
			}
			bits := live()
			room.RemoteSeen("node-0", ids.RootOrg, seen)
			b.ReportMetric((bits-before)*(1<<20)/100_000, "B/online")
			b.ReportMetric((live()-bits)*(1<<20)/100_000, "B/seen")
			runtime.KeepAlive(online)
			runtime.KeepAlive(seen)
		})
	}
}
