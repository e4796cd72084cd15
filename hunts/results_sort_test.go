package hunts_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/hunts"
)

func TestValuesAreOrderedByType(t *testing.T) {
	ordered := []string{
		"", "false", "true", "-1e400", "-18446744073709551615", "-9223372036854775808", "-9223372036854775807", "-9007199254740993", "-1.5", "-0",
		"1e-9", "1", "1.5", "9007199254740992", "9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551615", "1e300",
		`""`, `"A"`, `"\u0042"`, `"a"`, `"a b"`, `"ab"`, `"ä"`, `[1]`, `{"a":1}`,
	}
	for i := range ordered {
		for k := range ordered {
			if got, want := bytes.Compare(hunts.SortKey(ordered[i]), hunts.SortKey(ordered[k])), cmp.Compare(i, k); got != want {
				t.Errorf("%s against %s is %d, want %d", ordered[i], ordered[k], got, want)
			}
		}
	}
	for _, same := range [][2]string{{"", "null"}, {"0", "-0"}, {"1", "1.0"}, {"10", "1e1"}, {`"/"`, `"\/"`}} {
		if !bytes.Equal(hunts.SortKey(same[0]), hunts.SortKey(same[1])) {
			t.Errorf("%s and %s differ", same[0], same[1])
		}
	}
	long := strings.Repeat("x", 5000)
	if n := len(hunts.SortKey(`"` + long + `"`)); n > 1100 {
		t.Errorf("key of %d bytes", n)
	}
}

// FuzzSortKey holds whole numbers to big ones.
func FuzzSortKey(f *testing.F) {
	f.Add("1", "2")
	f.Add("-9007199254740993", "9007199254740993")
	f.Fuzz(func(t *testing.T, one, two string) {
		a, b := hunts.SortKey(one), hunts.SortKey(two)
		x, okX := new(big.Int).SetString(one, 10)
		y, okY := new(big.Int).SetString(two, 10)
		bound := new(big.Int).Lsh(big.NewInt(1), 64)
		if !okX || !okY || !json.Valid([]byte(one)) || !json.Valid([]byte(two)) || x.CmpAbs(bound) >= 0 || y.CmpAbs(bound) >= 0 {
			return
		}
		if bytes.Compare(a, b) != x.Cmp(y) {
			t.Errorf("%s against %s is %d", one, two, bytes.Compare(a, b))
		}
	})
}

// TestSortIsStableWhateverItsMemory sorts what fits into memory, what makes a few
// runs, and what makes more than are merged at once.
func TestSortIsStableWhateverItsMemory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rows := rapid.SliceOfN(rapid.IntRange(0, 9), 0, 300).Draw(rt, "rows")
		memory := rapid.SampledFrom([]int64{1, 8 << 10, 1 << 20}).Draw(rt, "memory")
		descending := rapid.Bool().Draw(rt, "descending")
		got, err := hunts.SortNumbers(t.TempDir(), memory, rows, descending)
		if err != nil {
			rt.Fatal(err)
		}
		want := make([]int64, len(rows))
		for i := range want {
			want[i] = int64(i)
		}
		slices.SortStableFunc(want, func(a, b int64) int {
			by := cmp.Compare(rows[a], rows[b])
			if descending {
				return -by
			}
			return by
		})
		if !slices.Equal(got, want) {
			rt.Fatalf("order %v, want %v", got, want)
		}
	})
}

func TestSortedPages(t *testing.T) {
	g := newRig(t, 3, func(o *hunts.ResultsOptions) { o.SortMemory = 1 })
	g.put("a-1", 0, 0, g.row(0, `,"V":"b"`), g.row(0, `,"V":10`), g.row(0, ``), g.row(0, `,"V":true`))
	g.put("b-1", 1, 0, g.row(1, `,"V":9`), g.row(1, `,"V":null`), g.row(1, `,"V":"B"`), g.row(1, `,"V":false`))
	g.numbers("a-1", 2, 0, 1)
	g.numbers("b-1", 2, 0, 1) // the same batch again changes nothing
	for _, c := range []struct {
		q    hunts.Query
		want string
	}{
		{hunts.Query{Sort: "v"}, `null false true 9 10 "B" "b"`},
		{hunts.Query{Sort: "V", Descending: true}, `"b" "B" 10 9 true false null`},
		{hunts.Query{Sort: "V", Filter: "v~b"}, `"B" "b"`},
		{hunts.Query{Sort: "V", From: 5}, `9 10 "B" "b"`},
		{hunts.Query{Sort: "V", From: 40}, ``},
	} {
		for _, c.q.Limit = range []int{1, 3, 100} {
			lines, pages := g.all(c.q)
			if got := strings.Join(strings.Fields(columnOf(lines, "V")), " "); got != c.want {
				t.Errorf("%+v: %s", c.q, got)
			}
			if last := pages[len(pages)-1]; last.Match < int64(len(lines)) || last.Total != 9 || last.Sorting != nil {
				t.Errorf("%+v: %d of %d match", c.q, last.Match, last.Total)
			}
		}
	}
}

// hang makes reads of the rig's rows wait, and returns what lets them go on.
func (g *rig) hang() *filestoretest.Injection {
	g.page(hunts.Query{Limit: 1}) // the indexes are known
	set := filestore.HuntResults(g.key.Org, g.key.Hunt, pslist)
	hung := g.faulty.Inject(filestoretest.Fault{Op: filestoretest.Read, Path: set.String() + "/*", Hang: true, Times: filestoretest.Always})
	g.t.Cleanup(hung.Lift)
	return hung
}

func (g *rig) waitFor(what string, met func() bool) {
	g.t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-limit:
			g.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestSortTellsItsProgressAndIsCancelled(t *testing.T) {
	g := newRig(t, 1)
	g.numbers("a-1", 0, 0, 50)
	hung := g.hang()
	q := hunts.Query{Name: pslist, Sort: "N", Wait: -1}
	ask := func() *hunts.Table {
		p, err := g.results.Page(context.Background(), g.key, q)
		g.check(err)
		return p
	}
	p := ask()
	if p.Sorting == nil || p.Sorting.Of != 50 || p.Next == "" || len(p.Rows) != 0 {
		t.Fatalf("while it is sorted a page is %+v", p)
	}
	g.waitFor("the sort to read", func() bool { return hung.Hanging() > 0 && !ask().Sorting.Waiting })
	other := q
	other.Sort, q.Cursor = "ClientId", p.Next
	if p, err := g.results.Page(context.Background(), g.key, other); err != nil || !p.Sorting.Waiting {
		t.Errorf("a second sort: %+v, %v", p, err)
	}
	waiting := make(chan error, 1) // one answer
	go func() {
		patient := q
		patient.Wait = time.Minute
		_, err := g.results.Page(context.Background(), g.key, patient)
		waiting <- err
	}()
	var told error
	g.waitFor("who waits to be told", func() bool {
		g.check(g.results.CancelSort(context.Background(), g.key, q)) // who waits may only now have come
		select {
		case told = <-waiting:
			return true
		default:
			return false
		}
	})
	if !errors.Is(told, hunts.ErrSortCancelled) {
		t.Errorf("who waited is told %v", told)
	}
	g.check(g.results.CancelSort(context.Background(), g.key, other))
	hung.Lift()
	q.Wait = time.Minute // cancelled, and wanted again
	if p := ask(); len(p.Rows) != 50 {
		t.Errorf("sorted anew: %d rows", len(p.Rows))
	}
}

func TestSortsThatNobodyAsksForAreForgotten(t *testing.T) {
	dir := t.TempDir()
	g := newRig(t, 1, func(o *hunts.ResultsOptions) {
		o.SortKeep, o.SortLeft, o.Scratch = 20*time.Millisecond, 20*time.Millisecond, dir
	})
	g.numbers("a-1", 0, 0, 50)
	sorted := g.page(hunts.Query{Sort: "N", Limit: 10})
	g.waitFor("the table to be forgotten", func() bool { return g.results.ScratchBytes() == 0 })
	again := g.page(hunts.Query{Sort: "N", Limit: 10, Cursor: sorted.Next})
	if again.From != 10 || len(again.Rows) != 10 {
		t.Errorf("sorted anew for its cursor: %d rows from %d", len(again.Rows), again.From)
	}
	hung := g.hang()
	p, err := g.results.Page(context.Background(), g.key, hunts.Query{Name: pslist, Sort: "FlowId", Wait: -1})
	if err != nil || p.Sorting == nil {
		t.Fatalf("%+v, %v", p, err)
	}
	g.waitFor("the sort to be given up", func() bool { return g.results.Sorts() == 0 })
	hung.Lift()
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

func TestSortKeepsToItsBudgets(t *testing.T) {
	g := newRig(t, 2, func(o *hunts.ResultsOptions) { o.SortMemory, o.SortDisk = 1, 6000 })
	var rows []string
	for i := range 100 {
		rows = append(rows, g.row(0, fmt.Sprintf(`,"N":%d,"Text":%q`, i, strings.Repeat("x", 100)+fmt.Sprint(i))))
	}
	g.put("a-1", 0, 0, rows...)
	_, err := g.results.Page(context.Background(), g.key, hunts.Query{Name: pslist, Sort: "Text", Wait: time.Minute})
	if !errors.Is(err, hunts.ErrTooLarge) {
		t.Errorf("beyond the budget: %v", err)
	}
	for _, column := range []string{"N", "ClientId", "Missing"} { // each takes the room of the one before
		if p := g.page(hunts.Query{Sort: column}); len(p.Rows) != 100 {
			t.Errorf("by %s: %d rows", column, len(p.Rows))
		}
	}
	g.numbers("a-1", 1, 0, 1000)
	if _, err := g.results.Page(context.Background(), g.key, hunts.Query{Name: pslist, Sort: "N"}); !errors.Is(err, hunts.ErrTooLarge) {
		t.Errorf("too many rows: %v", err)
	}
}

func TestQueueOfSortsIsBounded(t *testing.T) {
	g := newRig(t, 1)
	g.numbers("a-1", 0, 0, 50)
	g.hang()
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = g.results.Page(context.Background(), g.key, hunts.Query{Name: pslist, Sort: fmt.Sprint("c", i), Wait: -1})
	}
	if !errors.Is(err, hunts.ErrBusy) {
		t.Errorf("after 100 sorts: %v", err)
	}
}
