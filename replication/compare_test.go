package replication_test

import (
	"testing"
	"time"

	"raptorpack/replication"
)

func comparing(o *replication.Options) { o.CompareEvery = time.Millisecond }

// forge changes a state behind the ledger's back.
func (b *book) forge(body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[body]++
}

func TestStateThatAppliedOtherwiseIsNoticedAndLoadedAgain(t *testing.T) {
	k := newPack(t, comparing, "a-1", "b-1", "c-1")
	a, b, c := k.nodes[0], k.nodes[1], k.nodes[2]
	a.leads(1)
	a.propose("agreed")
	b.eventually("it follows", func() (any, bool) { n := b.book.count("agreed"); return n, n == 1 })
	b.book.forge("agreed")
	b.eventually("the difference is healed", func() (any, bool) {
		a.propose("more")
		n := b.book.count("agreed")
		return n, n == 1
	})
	if b.node.StateMismatches() != 1 || c.node.StateMismatches() != 0 {
		t.Errorf("b found %v differences, c %v; want one at b", b.node.StateMismatches(), c.node.StateMismatches())
	}
	b.eventually("they agree again", func() (any, bool) {
		a.propose("more")
		return "", b.node.Agrees()
	})
	b.book.forge("agreed")
	b.eventually("the next one is healed too", func() (any, bool) {
		a.propose("more")
		n := b.book.count("agreed")
		return n, n == 1
	})
}

// A follower cannot mend what the master has wrong. It must not load again and
// again, but tell.
func TestMasterThatAppliedOtherwiseIsToldOfAndFollowed(t *testing.T) {
	k := newPack(t, comparing, "a-1", "b-1")
	a, b := k.nodes[0], k.nodes[1]
	a.leads(1)
	a.propose("agreed")
	a.book.forge("agreed")
	b.eventually("the difference is told of more than once", func() (any, bool) {
		a.propose("more")
		n := b.node.StateMismatches()
		return n, n > 2
	})
	if got := b.node.Reloads(); got != 1 {
		t.Errorf("the state was loaded again %v times, want once", got)
	}
	b.propose("it follows")
}

func TestStatesOfOtherVersionsAreNotCompared(t *testing.T) {
	k := newPack(t, comparing, "a-1", "b-1")
	a, b := k.nodes[0], k.nodes[1]
	b.version.Store(new("another"))
	a.leads(1)
	b.book.forge("agreed")
	before := a.node.Compared()
	a.eventually("it compared three times", func() (any, bool) {
		a.propose("more")
		n := a.node.Compared()
		return n, n > before+3
	})
	if b.node.StateMismatches() != 0 {
		t.Error("states that another version wrote were compared")
	}
}
