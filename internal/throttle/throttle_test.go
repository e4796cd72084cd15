package throttle

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestCPUShareHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		burn := func() (Usage, error) { // one core busy all the time that we do not sleep
			return Usage{CPU: 0.5 * time.Since(began).Seconds(), Ops: 1000 * time.Since(began).Seconds()}, nil
		}
		for _, limit := range []struct{ cpu, iops float64 }{{0.001, 0}, {0, 10}} {
			throttle := New(limit.cpu, limit.iops, burn)
			before := time.Now()
			for range 5 {
				time.Sleep(every)
				if err := throttle.Charge(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if slept := time.Since(before) - 5*every; slept < time.Second {
				t.Fatalf("limit %v held back for %s only", limit, slept)
			}
		}
		if New(100, 0, burn) != nil {
			t.Fatal("the whole machine is no limit")
		}
	})
}

func TestLimitHoldsOverALongRun(t *testing.T) {
	for _, limit := range []Usage{{Ops: 100}, {CPU: 0.01}} {
		synctest.Test(t, func(t *testing.T) {
			var used Usage
			throttle := New(100*limit.CPU/float64(runtime.NumCPU()), limit.Ops, func() (Usage, error) { return used, nil })
			began := time.Now()
			const seconds = 60 // what is used below, at the limit
			for range 20 {
				for range 3 { // bursts, each of a second's share
					time.Sleep(every)
					used.Ops += limit.Ops
					used.CPU += limit.CPU
					if err := throttle.Charge(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			if took := time.Since(began); took < (seconds-3)*time.Second || took > (seconds+3)*time.Second {
				t.Fatalf("limit %v: %d seconds' share was used within %s", limit, seconds, took)
			}
		})
	}
}
