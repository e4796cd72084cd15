package replication_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/replication"
)

// knowing makes programs that know levels up to one.
func knowing(level uint32) func(*replication.Options) {
	return func(o *replication.Options) { o.Level, o.LevelEvery = level, time.Millisecond }
}

func (b *busRig) wantLevel(want uint32) {
	b.t.Helper()
	b.eventually(b.o.Incarnation+" is at the level", func() (any, bool) {
		got := b.node.Level()
		return got, got == want
	})
}

func TestLevelIsRaisedOnceAllNodesKnowIt(t *testing.T) {
	living := atomic.Pointer[[]string]{}
	living.Store(&[]string{"a-1", "b-1", "c-1"})
	alive := func() ([]string, bool) { return *living.Load(), true }
	k := newPack(t, func(o *replication.Options) { knowing(2)(o); o.Living = alive }, "a-1", "b-1")
	old := k.add("c-1", knowing(1))
	a, b := k.nodes[0], k.nodes[1]
	a.leads(1)
	a.propose("early")
	old.eventually("the old program follows", func() (any, bool) { n := old.book.count("early"); return n, n == 1 })
	if got := a.node.Level(); got != 1 {
		t.Fatalf("level %d while a node knows 1 only", got)
	}
	old.dies()
	k.add("c-2", knowing(3))
	living.Store(&[]string{"a-1", "b-1", "c-2"})
	for _, n := range []*busRig{a, b, k.nodes[2]} {
		n.wantLevel(2)
	}
	a.propose("late")
	k.same()
}

// A node that lives and is not heard may be an old one.
func TestLevelWaitsForNodesThatAreNotHeard(t *testing.T) {
	var gone atomic.Bool
	asked := make(chan struct{}, 1000) // looks of the master; more are of no use
	k := newPack(t, func(o *replication.Options) {
		knowing(2)(o)
		o.Living = func() ([]string, bool) {
			select {
			case asked <- struct{}{}:
			default:
			}
			if gone.Load() {
				return []string{"a-1", "b-1"}, true
			}
			return []string{"a-1", "b-1", "silent-1"}, true
		}
	}, "a-1", "b-1")
	a := k.nodes[0]
	a.leads(1)
	a.propose("x")
	for range 20 {
		<-asked
	}
	if got := a.node.Level(); got != 1 {
		t.Fatalf("level %d while a node is not heard", got)
	}
	gone.Store(true)
	a.wantLevel(2)
}

// A program that is older than the ledger says so and does not go on: not from the
// bus, not from files, not from a snapshot.
func TestOldProgramDoesNotGoOnBeyondItsLevel(t *testing.T) {
	k := newPack(t, func(o *replication.Options) {
		knowing(2)(o)
		every(5)(o)
		o.Living = func() ([]string, bool) { return []string{"a-1", "b-1"}, true }
	}, "a-1", "b-1")
	a := k.nodes[0]
	a.leads(1)
	a.wantLevel(2)
	fromFiles := newRig(t, k.disk, "old-1", knowing(1))
	if err := fromFiles.node.Load(context.Background()); !errors.Is(err, replication.ErrLevel) {
		t.Errorf("start from files: %v", err)
	}
	a.grow(4)
	a.eventually("the beginning of the ledger is gone", func() (any, bool) {
		dir := "ledger/" + mustFind(t, k.disk, "ledger")[0].Name()
		first := mustFind(t, k.disk, dir)[0].Name()
		return first, first > fmt.Sprintf("%020d", 1)
	})
	fromSnapshot := newRig(t, k.disk, "old-2", knowing(1))
	if err := fromSnapshot.node.Load(context.Background()); !errors.Is(err, replication.ErrLevel) {
		t.Errorf("start from a snapshot: %v", err)
	}
	fresh := newRig(t, k.disk, "new-1", knowing(2))
	if err := fresh.node.Load(context.Background()); err != nil || fresh.node.Level() != 2 {
		t.Errorf("start of a program that knows the level: %v, level %d", err, fresh.node.Level())
	}
}
