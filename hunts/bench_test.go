package hunts_test

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"

	"raptorpack/clients"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Benchmarks of a hunt over 100,000 clients. Foreman and manager are measured alone:
// the ledger, the outbox and the room of flows are fakes that take everything, and
// clients' keys are not made up.
//
//	go test -run '^$' -bench . ./hunts
const fleetSize = 100_000

// directory is a room of clients without keys.
type directory struct {
	ids      []ids.Client
	ordinals map[ids.Client]uint32
	record   *clients.Record
}

var fleet = func() *directory {
	d := &directory{ordinals: map[ids.Client]uint32{}, record: &clients.Record{System: "linux", Labels: []string{"a", "prod"}}}
	for i := range fleetSize {
		c := ids.ClientOfNumber(uint64(i) * 0x9e3779b97f4a7c15)
		d.ids = append(d.ids, c)
		d.ordinals[c] = uint32(i)
	}
	return d
}()

func (d *directory) Ordinal(_ ids.Org, c ids.Client) (uint32, bool) {
	ordinal, ok := d.ordinals[c]
	return ordinal, ok
}

func (d *directory) ByOrdinal(_ ids.Org, ordinal uint32) (ids.Client, bool) {
	return d.ids[ordinal], true
}

func (d *directory) Lookup(ids.Org, ids.Client) (*clients.Record, error) { return d.record, nil }

func (d *directory) Search(ids.Org, string, uint32, int, time.Time) (*clients.Page, error) {
	return &clients.Page{}, nil
}

// stage is a room of hunts with a room of flows behind it, if wanted.
type stage struct {
	room  *hunts.Room
	flows *flows.Room
	index uint64
}

func newStage() *stage {
	s := &stage{room: hunts.New(hunts.Options{Clients: fleet})}
	s.flows = flows.New(flows.Options{Hunts: s.room})
	return s
}

func (s *stage) apply(b testing.TB, m *buspb.Mutation) {
	b.Helper()
	s.index++
	e := &buspb.Entry{Index: s.index, Epoch: 1, Time: noon.UnixMicro(), Mutation: m}
	apply := s.room.Apply
	if m.Kind == flows.Kind {
		apply = s.flows.Apply
	}
	if err := apply(e); err != nil {
		b.Fatal(err)
	}
}

func (s *stage) create(b testing.TB, c hunts.Conditions) hunts.Key {
	b.Helper()
	m, hunt, err := s.room.PlanCreate(hunts.Create{Collect: collect(), Conditions: c, Start: true}, noon)
	if err != nil {
		b.Fatal(err)
	}
	s.apply(b, m)
	return hunts.Key{Hunt: hunt}
}

func (s *stage) nominateAll(b testing.TB, k hunts.Key) {
	b.Helper()
	all, err := hunts.PlanNominate(k, fleet.ids)
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range all {
		s.apply(b, m)
	}
}

// BenchmarkMatchNobodyWants is what each check-in costs.
func BenchmarkMatchNobodyWants(b *testing.B) {
	for name, n := range map[string]int{"hunts=0": 0, "hunts=1": 1, "hunts=10": 10} {
		b.Run(name, func(b *testing.B) {
			s := newStage()
			for range n {
				s.create(b, hunts.Conditions{Include: []string{"x"}})
			}
			f := hunts.NewForeman(hunts.ForemanOptions{Room: s.room})
			for _, c := range fleet.ids[:1000] {
				f.Match(ids.RootOrg, c)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if f.Match(ids.RootOrg, fleet.ids[i%1000]) != nil {
					b.Fatal("wanted")
				}
				i++
			}
		})
	}
}

// BenchmarkMatchRealClients is the same with the room of clients behind it.
func BenchmarkMatchRealClients(b *testing.B) {
	w := newWorld(b, 1000)
	w.create(b, func(c *hunts.Create) { c.Conditions.Include = []string{"x"} })
	f := hunts.NewForeman(hunts.ForemanOptions{Room: w.Room})
	for i := range 1000 {
		f.Match(ids.RootOrg, id(i))
	}
	who := idsOf(everybody(1000)...)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if f.Match(ids.RootOrg, who[i%1000]) != nil {
			b.Fatal("wanted")
		}
		i++
	}
}

// BenchmarkForemanRecruits matches everybody and tells it.
func BenchmarkForemanRecruits(b *testing.B) {
	n := 0
	for b.Loop() {
		s := newStage()
		k := s.create(b, hunts.Conditions{OS: "linux", Include: []string{"prod"}, Exclude: []string{"x"}})
		ctx, stop := context.WithCancel(b.Context())
		told := make(chan struct{})
		f := hunts.NewForeman(hunts.ForemanOptions{Room: s.room, Tell: func(_ context.Context, all []*buspb.Mutation) error {
			for _, m := range all {
				s.apply(b, m)
			}
			if h, err := s.room.Hunt(k); err == nil && h.Counts[hunts.PendingClients] == fleetSize {
				close(told)
			}
			return nil
		}})
		done := make(chan error, 1) // one answer
		go func() { done <- f.Run(ctx) }()
		for _, c := range fleet.ids {
			f.Arrived(ids.RootOrg, c)
		}
		<-told
		stop()
		<-done
		n += fleetSize
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "clients/s")
}

// BenchmarkManagerAdmits plans and applies the starts of everybody's flow; the second
// figure is without applying.
func BenchmarkManagerAdmits(b *testing.B) {
	n, planned := 0, time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		s := newStage()
		k := s.create(b, hunts.Conditions{})
		s.nominateAll(b, k)
		applied := time.Duration(0)
		m := hunts.NewManager(hunts.ManagerOptions{
			Room: s.room, Flows: s.flows, Now: func() time.Time { return noon },
			Connected: func(ids.Org, ids.Client) bool { return true },
			Propose:   oneByOne(func(m *buspb.Mutation) { at := time.Now(); s.apply(b, m); applied += time.Since(at) }),
		})
		b.StartTimer()
		begin := time.Now()
		for left := fleetSize; left > 0; {
			admitted, err := m.Step(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			left -= admitted
		}
		planned += time.Since(begin) - applied
		n += fleetSize
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "clients/s")
	b.ReportMetric(float64(n)/planned.Seconds(), "planned/s")
}

// oneByOne is a ledger that takes everything.
func oneByOne(do func(*buspb.Mutation)) func(context.Context, *buspb.Mutation) error {
	turn := make(chan struct{}, 1) // whoever has put something in has the turn
	return func(_ context.Context, m *buspb.Mutation) error {
		turn <- struct{}{}
		defer func() { <-turn }()
		do(m)
		return nil
	}
}

// BenchmarkManagerLooksAtTheAbsent is a step with 100,000 pending who are all away.
func BenchmarkManagerLooksAtTheAbsent(b *testing.B) {
	s := newStage()
	s.nominateAll(b, s.create(b, hunts.Conditions{}))
	m := hunts.NewManager(hunts.ManagerOptions{
		Room: s.room, Flows: s.flows, Now: func() time.Time { return noon },
		Connected: func(ids.Org, ids.Client) bool { return false },
		Propose:   func(context.Context, *buspb.Mutation) error { return nil },
	})
	for b.Loop() {
		if _, err := m.Step(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / 1024
}

// BenchmarkMemoryOfAHunt prints what the room takes with everybody in a hunt: all
// pending, and every second one at random in another set. Flows are not counted.
func BenchmarkMemoryOfAHunt(b *testing.B) {
	for b.Loop() {
		before := heap()
		room := hunts.New(hunts.Options{Clients: fleet})
		s := &stage{room: room}
		k := s.create(b, hunts.Conditions{})
		s.nominateAll(b, k)
		b.ReportMetric(heap()-before, "pending-KiB")
		f := hunts.NewForeman(hunts.ForemanOptions{Room: room})
		for _, c := range fleet.ids {
			f.Match(ids.RootOrg, c)
		}
		b.ReportMetric(heap()-before, "matched-KiB")
		hops(room, k)
		b.ReportMetric(heap()-before, "scattered-KiB")
		var text bytes.Buffer
		if _, err := room.View().WriteTo(&text); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(text.Len())/1024, "snapshot-KiB")
		runtime.KeepAlive(room)
	}
}

// hops lets the clients' flows start and end, every second one in error.
func hops(room *hunts.Room, k hunts.Key) {
	spec := &flows.Spec{Hunt: k.Hunt}
	for i, c := range fleet.ids {
		if i*7919%10 < 5 {
			continue
		}
		started := &flows.Flow{Key: flows.Key{Client: c, Flow: k.Hunt.Flow(0)}, Spec: spec, Index: 10, State: flows.Pending}
		over := *started
		if over.State = flows.Completed; i*7919%3 == 0 {
			over.State = flows.Errored
		}
		room.FlowsChanged(noon, ids.RootOrg, []flows.HuntChange{{After: started}, {Before: started, After: &over}})
	}
}

// BenchmarkApplyEnds is what the end of a flow costs the hunts, beside the flows.
func BenchmarkApplyEnds(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := newStage()
		k := s.create(b, hunts.Conditions{})
		s.nominateAll(b, k)
		b.StartTimer()
		hops(s.room, k)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(fleetSize/2), "ns/flow")
}

// BenchmarkHuntFlows goes over what there is to be deleted of a hunt over everybody.
func BenchmarkHuntFlows(b *testing.B) {
	s := newStage()
	k := s.create(b, hunts.Conditions{})
	s.nominateAll(b, k)
	m := hunts.NewManager(hunts.ManagerOptions{
		Room: s.room, Flows: s.flows, Now: func() time.Time { return noon },
		Connected: func(ids.Org, ids.Client) bool { return true },
		Propose:   oneByOne(func(m *buspb.Mutation) { s.apply(b, m) }),
	})
	for left := fleetSize; left > 0; {
		admitted, err := m.Step(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		left -= admitted
	}
	for b.Loop() {
		got := 0
		for range s.flows.HuntFlows(k.Org, k.Hunt) {
			got++
		}
		if got != fleetSize {
			b.Fatal(got)
		}
	}
}
