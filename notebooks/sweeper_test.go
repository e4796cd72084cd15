package notebooks_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
)

var errCut = errors.New("cut off")

// What some node may still read stays, and what failed is tried again.
func TestTheSweeperWaitsForNodesAndTriesAgain(t *testing.T) {
	w := newWorld(t)
	n := w.node("a-1")
	n.add("S", "x", 1)
	n.add("S", "x", 2)
	given := n.room.Unused()[0].Index
	files := func() int {
		all, err := n.files.List(context.Background(), w.key)
		must(t, err)
		return len(all)
	}
	synctest.Test(t, func(t *testing.T) {
		// A store of this bubble: calls of the others end outside of it.
		store, err := filestore.Open(w.dir, filestore.Options{})
		must(t, err)
		var settled atomic.Uint64
		var tries atomic.Int32
		sweeper := notebooks.NewSweeper(notebooks.SweeperOptions{
			Room: n.room, Files: notebooks.NewFiles(notebooks.FilesOptions{Store: store}),
			Settled: func(index uint64) bool { return index <= settled.Load() },
			Propose: func(_ context.Context, m *buspb.Mutation) error {
				if tries.Add(1) == 1 {
					return errCut
				}
				return w.ledger.Propose(m)
			},
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1) // one value
		go func() { ended <- sweeper.Run(ctx) }()
		settled.Store(given - 1)
		time.Sleep(time.Minute)
		if got := tries.Load(); got != 0 || len(n.room.Unused()) != 1 {
			t.Errorf("%d tries, unused %v", got, n.room.Unused())
		}
		settled.Store(given)
		time.Sleep(time.Minute)
		if got := tries.Load(); got != 2 || len(n.room.Unused()) != 0 {
			t.Errorf("%d tries, unused %v", got, n.room.Unused())
		}
		stop()
		must(t, <-ended)
		must(t, store.Close(context.Background()))
	})
	if got := files(); got != 1 {
		t.Errorf("%d files are left", got)
	}
	n.want("S", time.Time{}, `2 x {"N":"x0"}`)
}

// Whatever the start, what is read is what a filter over all would leave: across
// members, among rows of one time, at the ends.
func TestAnyStartGivesTheRowsFromThereOn(t *testing.T) {
	w := newWorld(t)
	n := w.node("a-1")
	chance := rand.New(rand.NewPCG(3, 4))
	pad := strings.Repeat("x", 400)
	var times []time.Time
	for c := range 3 {
		one := wish(w.key, "S", fmt.Sprint("c", c))
		writer := n.files.Begin(one, n.room.Begun())
		at := minute(0)
		for range 6000 {
			at = at.Add(time.Duration(max(0, chance.IntN(4)-2)) * time.Second) // half of them share theirs
			must(t, writer.Append(context.Background(), at, fmt.Appendf(nil, `{"P":%q}`, pad)))
			times = append(times, at)
		}
		stored, err := writer.Close(context.Background())
		must(t, err)
		w.propose(n.room.PlanAdd(one, stored))
	}
	line, err := n.room.Timeline(w.key, "S")
	must(t, err)
	starts := []time.Time{minute(0), minute(0).Add(-time.Hour), line.Children[1].Last, line.Children[1].Last.Add(time.Nanosecond)}
	for range 12 {
		starts = append(starts, times[chance.IntN(len(times))].Add(time.Duration(chance.IntN(3)-1)))
	}
	for _, start := range starts {
		want, got := 0, 0
		for _, at := range times {
			if !at.Before(start) {
				want++
			}
		}
		last := start
		_, err := n.files.Merge(context.Background(), notebooks.Merge{Key: w.key, Timeline: "S", Children: line.Children, Start: start}, func(r notebooks.Row) error {
			if r.At.Before(last) {
				return fmt.Errorf("%s after %s", r.At, last)
			}
			last = r.At
			got++
			return nil
		})
		if err != nil || got != want {
			t.Errorf("from %s: %d rows, not %d, %v", start, got, want, err)
		}
	}
}
