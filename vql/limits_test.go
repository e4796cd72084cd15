package vql_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/internal/throttle"
	"raptorpack/vql"
)

// Each limit ends the query, says so in the log, and ends the session's further
// statements too where it is the session's.
func TestLimitsEndTheQueryAndSaySo(t *testing.T) {
	for name, c := range map[string]struct {
		limits vql.Limits
		query  string
		want   error
		log    string
	}{
		"time":     {vql.Limits{Timeout: 30 * time.Millisecond}, "SELECT * FROM endless() WHERE FALSE", vql.ErrTimeout, "ERROR:timeout reached"},
		"idle":     {vql.Limits{ProgressTimeout: 30 * time.Millisecond}, "SELECT * FROM waits()", vql.ErrNoProgress, "ERROR:no progress within the progress timeout"},
		"rows":     {vql.Limits{MaxRows: 2}, "SELECT * FROM endless()", vql.ErrRowLimit, "ERROR:row limit reached"},
		"memory":   {vql.Limits{MaxMemory: 1}, "SELECT * FROM endless() WHERE FALSE", vql.ErrMemory, "ERROR:memory limit reached"},
		"throttle": {vql.Limits{Throttle: &countingThrottle{}}, "SELECT * FROM endless() WHERE FALSE", errThrottle, "ERROR:enough"},
		"nested":   {vql.Limits{Throttle: &countingThrottle{}}, "SELECT {SELECT * FROM endless() WHERE FALSE} AS A FROM scope()", errThrottle, "ERROR:enough"},
		"workers":  {vql.Limits{MaxMemory: 1}, "SELECT * FROM foreach(row={SELECT * FROM range(end=1000)}, query={SELECT * FROM endless() WHERE FALSE}, workers=4)", vql.ErrMemory, "ERROR:memory limit reached"},
		"sorting":  {vql.Limits{MaxMemory: 1}, "SELECT * FROM endless() ORDER BY i", vql.ErrMemory, "ERROR:memory limit reached"},
		"grouping": {vql.Limits{MaxMemory: 1}, "SELECT * FROM endless() GROUP BY i", vql.ErrMemory, "ERROR:memory limit reached"},
	} {
		t.Run(name, func(t *testing.T) {
			scope, l := session(t, vql.SessionOptions{Limits: c.limits})
			if _, err := query(t, scope, c.query); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if !l.contain(c.log) {
				t.Errorf("no %q in %q", c.log, l.all())
			}
		})
	}
}

func TestOpsAreHeldToTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope, err := vql.NewEngine(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := scope.NewScope(vql.SessionOptions{Limits: vql.Limits{OpsPerSecond: 100}})
		defer s.Close()
		begun := time.Now()
		if _, err := query(t, s, "SELECT * FROM range(end=310) WHERE FALSE"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took < 2900*time.Millisecond || took > 4*time.Second {
			t.Errorf("310 ops at 100 a second took %v", took)
		}
	})
}

// A core is busy while the query runs. What it uses in all stays within the share
// that the query has, or the one around it, apart from the credit of two seconds.
func TestQueryKeepsToItsShareOfTheProcessors(t *testing.T) {
	const seconds = 120.0 // of processor time in all
	for name, text := range map[string]string{
		"rows":       "SELECT * FROM query(query={SELECT burn(ms=100) AS A FROM range(end=1200)}, inherit=TRUE, cpu_limit=%v)",
		"a text":     "SELECT * FROM query(query='SELECT burn(ms=100) AS A FROM range(end=1200)', cpu_limit=%v)",
		"ops":        "SELECT * FROM query(query='SELECT burn(ms=100, times=1200) AS A FROM scope()', cpu_limit=%v)",
		"the engine": "SELECT * FROM query(query='EXPLAIN SELECT burn(ms=100) AS A FROM range(end=1200)', cpu_limit=%v)",
		"around it":  "SELECT * FROM query(query='''SELECT * FROM query(query='SELECT burn(ms=100) AS A FROM range(end=1200)')''', cpu_limit=%v)",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var busy atomic.Int64 // milliseconds of processor time
				usage := func() (throttle.Usage, error) { return throttle.Usage{CPU: float64(busy.Load()) / 1000}, nil }
				e, err := vql.NewEngine([]*vql.Function{burning(&busy)}, nil)
				if err != nil {
					t.Fatal(err)
				}
				s := e.NewScope(vql.SessionOptions{Limits: vql.Limits{Usage: usage}})
				defer s.Close()
				begun := time.Now()
				if _, err := query(t, s, fmt.Sprintf(text, 25.0/float64(runtime.NumCPU()))); err != nil { // a quarter of one
					t.Fatal(err)
				}
				if used := float64(busy.Load()) / 1000; used != seconds {
					t.Fatalf("%v seconds of work were done, want %v", used, seconds)
				}
				if share := seconds / time.Since(begun).Seconds(); share > 0.26 || share < 0.2 {
					t.Errorf("the query had %.2f of a core, want 0.25", share)
				}
			})
		})
	}
}

type burnArgs struct {
	MS    int64 `vql:"ms"`
	Times int64 `vql:"times"`
}

// burning is a function that keeps a core busy, as the counter has it.
func burning(busy *atomic.Int64) *vql.Function {
	return vql.NewFunction(vql.Spec{Name: "burn"}, func(ctx context.Context, scope *vql.Scope, args *burnArgs) (vql.Value, error) {
		for range max(1, args.Times) {
			time.Sleep(time.Duration(args.MS) * time.Millisecond) // in a bubble
			busy.Add(args.MS)
			if args.Times > 0 {
				if err := scope.Charge(ctx); err != nil {
					return nil, err
				}
			}
		}
		return busy.Load(), nil
	})
}

func TestQueryRefusesLimitsThatMakeNoSense(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{})
	if _, err := query(t, scope, "SELECT * FROM query(query='SELECT 1 FROM scope()', cpu_limit=-1)"); err != nil {
		t.Fatal(err)
	}
	if !l.contain("query: cpu_limit and iops_limit should be 0 or more") {
		t.Errorf("the log says %q", l.all())
	}
}

// What one operator makes is bounded, with the wording that the language has.
func TestOperatorsKeepToTheirMemory(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{})
	got, err := query(t, scope, "LET Half = 'x' * 60000000 SELECT 'x' * 200000000 AS A, Half + Half AS B, 'x' * -1 AS C, 'x' * 9223372036854775807 AS D FROM scope()")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"A":null,"B":null,"C":null,"D":null}`)
	for _, want := range []string{"Multiply Str x Int exceeded memory limits", "Adding Str + Str exceeded memory limits"} {
		if !l.contain(want) {
			t.Errorf("no %q in the log", want)
		}
	}
}

// liveHeap is what the heap holds after a collection.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Sorting, grouping and materialising keep to SpillBytes; of a group on disk stay
// its key and a place.
func TestLargeResultsKeepToTheirBudget(t *testing.T) {
	const spill, group = 4 << 20, 160
	for text, budget := range map[string]int64{
		"SELECT _value, format(format='%050d', args=_value) AS A FROM range(end=40000) ORDER BY A DESC":                                              2 * spill,
		"SELECT format(format='%050d', args=_value) AS A, count() AS C, sum(item=_value) AS S FROM range(end=40000) GROUP BY A":                      2*spill + 40000*group,
		"LET M <= SELECT format(format='%0500d', args=_value) AS A FROM range(end=40000) SELECT * FROM M":                                            2 * spill,
		"SELECT enumerate(items=format(format='%0500d', args=_value)) AS E, _value FROM range(end=4000) GROUP BY _value - int(int=_value / 10) * 10": 3 * spill,
	} {
		scope, _ := session(t, vql.SessionOptions{Limits: vql.Limits{SpillBytes: spill}})
		p, err := vql.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		before, n := liveHeap(), 0
		err = scope.RunProgram(context.Background(), p, func(*vql.Dict) error {
			if n++; n == 1 {
				if held := liveHeap() - before; held > budget {
					t.Errorf("%s\nholds %d bytes, %d allowed", text, held, budget)
				}
			}
			return nil
		})
		if want := map[bool]int{true: 10, false: 40000}[strings.Contains(text, "enumerate")]; n != want {
			t.Errorf("%s: %d rows, not %d", text, n, want)
		}
		if err != nil || scope.Stats().BytesSpilled == 0 {
			t.Errorf("%s: %d rows, %d bytes spilled, error %v", text, n, scope.Stats().BytesSpilled, err)
		}
		scope.Close()
	}
}

// A group that outgrows the budget by itself is not written again for each row.
func TestOneLargeGroupIsNotWrittenForEachRow(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{Limits: vql.Limits{SpillBytes: 1 << 20}})
	got, err := query(t, scope, "SELECT len(list=E) AS N FROM foreach(row={SELECT enumerate(items=format(format='%01000d', args=_value)) AS E FROM range(end=5000) GROUP BY 1})")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"N":5000}`)
	if spilled := scope.Stats().BytesSpilled; spilled > 8<<20 {
		t.Errorf("%d bytes were spilled for 5 MB of items", spilled)
	}
}

// What an author with bad intent may write ends, by its bounds or by a limit.
func TestHostileQueriesEnd(t *testing.T) {
	columns, members := make([]string, 30), make([]string, 30)
	for i := range columns {
		columns[i] = fmt.Sprintf("'x' * 90000000 AS C%d", i)
		members[i] = fmt.Sprintf("c%d='x' * 90000000", i)
	}
	limits := vql.Limits{Timeout: 400 * time.Millisecond, MaxMemory: liveHeap() + 256<<20}
	for _, text := range []string{
		"SELECT " + strings.Join(columns, ", ") + " FROM scope()",
		"SELECT dict(" + strings.Join(members, ", ") + ") AS A FROM scope()",
		"SELECT enumerate(items='x' * 900000) AS E FROM range(end=1e18) GROUP BY 1",
		"LET D(n) = dict(a=n) + dict(`b`=n * 2) SELECT enumerate(items=D(n=_value)) AS A FROM range(end=1e18) GROUP BY 1",
		"SELECT _value FROM range(end=1e18) WHERE FALSE",
		"SELECT format(format='%999999999d', args=1) AS A FROM scope()",
		"SELECT format(format='%*d', args=(999999999, 1)) AS A FROM scope()",
		"SELECT 'x' =~ '(((a{900}){900}){900}){900}' AS A FROM scope()",
		"SELECT 'x' =~ ('a' * 90000000) AS A FROM scope()",
		"SELECT 'x' =~ format(format='%d|' + 'a' * 100000, args=_value) AS A FROM range(end=2000) WHERE A",
		"LET f(x) = eval(func='y=>f(x=y) + f(x=y)', args=x) SELECT f(x=1) AS A FROM scope()",
		"SELECT eval(func='x=>" + strings.Repeat("(", 15) + "x" + strings.Repeat(")", 15) + "', args=1) AS A FROM scope()",
		"SELECT eval(func='x=>" + strings.Repeat("(", 5000) + "x" + strings.Repeat(")", 5000) + "', args=1) AS A FROM scope()",
		"LET Q = SELECT * FROM chain(a={SELECT * FROM Q}, b={SELECT * FROM Q}) SELECT * FROM Q",
		"LET Q(n) = SELECT * FROM Q(n=n + 1) SELECT * FROM Q(n=1)",
		"SELECT * FROM foreach(row={SELECT * FROM range(end=1e18)}, query={SELECT * FROM range(end=1e18)}, workers=100) WHERE FALSE",
	} {
		ended := make(chan error, 1) // one result; never full
		scope, _ := session(t, vql.SessionOptions{Limits: limits})
		begun := time.Now()
		go func() {
			_, err := query(t, scope, text)
			ended <- err
		}()
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, vql.ErrMemory) && !errors.Is(err, vql.ErrTimeout) {
				t.Errorf("%.60s: %v", text, err)
			}
		case <-time.After(60 * time.Second):
			t.Fatalf("%.60s does not end", text)
		}
		scope.Close()
		t.Logf("%v %.60s", time.Since(begun), text)
	}
}
