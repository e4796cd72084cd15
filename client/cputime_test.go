package client

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/proto/wirepb"
)

// A counter that the test sets stands in for the process's.
func meterOf(at *atomic.Int64) *CPUMeter {
	return newCPUMeter(func() time.Duration { return time.Duration(at.Load()) })
}

func wantUsed(t *testing.T, who string, got *int64, want int64) {
	t.Helper()
	if got == nil || *got != want {
		t.Errorf("%s used %v, want %d", who, got, want)
	}
}

func TestMeterTellsTheTruthOfOneQueryAtATime(t *testing.T) {
	var at atomic.Int64
	m := meterOf(&at)
	at.Store(100) // before any query: nobody's
	first := m.begin()
	at.Store(130)
	wantUsed(t, "first, half-way", first.sofar(), 30)
	at.Store(150)
	wantUsed(t, "first", first.end(), 50)
	at.Store(400) // between two queries: nobody's
	second := m.begin()
	wantUsed(t, "second, at once", second.sofar(), 0)
	at.Store(407)
	wantUsed(t, "second", second.end(), 7)
}

func TestMeterDividesAmongQueriesOfOneMoment(t *testing.T) {
	var at atomic.Int64
	m := meterOf(&at)
	at.Store(1)
	a := m.begin()
	at.Store(101) // a alone: 100
	b := m.begin()
	at.Store(161) // a and b: 30 each
	c := m.begin()
	at.Store(251) // all three: 30 each
	wantUsed(t, "a", a.end(), 160)
	at.Store(271) // b and c: 10 each
	wantUsed(t, "b", b.end(), 70)
	at.Store(276)
	wantUsed(t, "c", c.end(), 45)
}

func TestMeterTakesNothingFromAnOldReading(t *testing.T) {
	var at atomic.Int64
	m := meterOf(&at)
	at.Store(50)
	q := m.begin()
	at.Store(80)
	wantUsed(t, "query", q.sofar(), 30)
	at.Store(60)
	wantUsed(t, "query, read late", q.sofar(), 30)
	at.Store(90)
	wantUsed(t, "query", q.end(), 40)
}

func TestMeterOfASilentSystemTellsNothing(t *testing.T) {
	m := meterOf(&atomic.Int64{})
	q := m.begin()
	if so, end := q.sofar(), q.end(); so != nil || end != nil {
		t.Fatalf("%v, %v", so, end)
	}
}

func TestMeterSharesNoMoreThanWasUsed(t *testing.T) {
	var at, told atomic.Int64
	at.Store(1)
	m := meterOf(&at)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				q := m.begin()
				at.Add(1000)
				q.sofar()
				told.Add(*q.end())
			}
		})
	}
	all.Wait()
	if sum, used := told.Load(), at.Load()-1; sum > used || sum == 0 || m.running != 0 {
		t.Fatalf("told %d of %d used, %d queries left", sum, used, m.running)
	}
}

func TestFinalStatusTellsProcessorTime(t *testing.T) {
	var at atomic.Int64
	s := newTestServer(t)
	o := testOptions(t, "", s.URL+"/")
	o.CPU = newCPUMeter(func() time.Duration { return time.Duration(at.Add(1000)) })
	a := start(t, o)
	s.send(flowRequest("F.1", nil, "SELECT * FROM numbers(count=3)"))
	final := a.waitFinal(s, "F.1")
	wantStatus(t, final, wirepb.VeloStatus_OK, "")
	if q := final.GetQueryStatus()[0]; q.CpuNs == nil || q.GetCpuNs() < 1000 || q.GetCpuNs() > at.Load() {
		t.Fatalf("status %v", q)
	}
}

func TestFinalStatusOfASilentSystemLeavesProcessorTimeOut(t *testing.T) {
	s := newTestServer(t)
	o := testOptions(t, "", s.URL+"/")
	o.CPU = newCPUMeter(func() time.Duration { return 0 })
	a := start(t, o)
	s.send(flowRequest("F.1", nil, "SELECT * FROM numbers(count=3)"))
	if q := a.waitFinal(s, "F.1").GetQueryStatus()[0]; q.CpuNs != nil {
		t.Fatalf("status %v", q)
	}
}
