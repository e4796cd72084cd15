package cluster

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("connection refused")

// attempts runs a joiner of 10.0.0.1, where peer lives, in a bubble and counts its
// attempts.
type attempts struct {
	*joiner
	mu      sync.Mutex
	made    int
	counted int // of those made, when since was last asked
}

func startJoiner(t *testing.T, s *settings, answer error) *attempts {
	t.Helper()
	j, _ := testJournal(100) // says nothing
	table := testTable(t)
	s.bind, s.Logger = netip.MustParseAddrPort("0.0.0.0:7946"), j.logger
	a := &attempts{joiner: &joiner{s: s, table: table, journal: j, metrics: table.metrics, pace: usual, aliases: map[netip.AddrPort]time.Time{}}}
	a.join = func(string) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.made++
		return answer
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return a
}

// since lets d pass and returns how many attempts were made since it was last asked,
// or since the start: the first may have been made before anybody can count.
func (a *attempts) since(d time.Duration) int {
	time.Sleep(d)
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.made - a.counted
	a.counted = a.made
	return n
}

func oneAddress() *settings { return &settings{join: []endpoint{{"10.0.0.1", 7946}}} }

func TestAddressThatFailsIsTriedEveryFewSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startJoiner(t, oneAddress(), errDown)
		if n := a.since(5 * time.Second); n < 3 || n > 6 {
			t.Errorf("%d attempts in the first 5 s", n)
		}
		a.since(time.Minute)
		if n := a.since(10 * time.Minute); n < 60 || n > 121 {
			t.Errorf("%d attempts in 10 min", n)
		}
	})
}

func TestAddressOfAMemberIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startJoiner(t, oneAddress(), errDown)
		a.since(time.Minute)
		a.table.NotifyJoin(peer("b-1", `{"v":1}`))
		a.since(10 * time.Second)
		if n := a.since(time.Hour); n != 0 {
			t.Errorf("%d attempts while it is a member", n)
		}
		a.table.NotifyLeave(peer("b-1", ``))
		if n := a.since(time.Second); n < 1 || n > 2 { // the first pause is half a second at least
			t.Errorf("%d attempts in the second after it had gone", n)
		}
	})
}

// What answers while gossip still takes its node for dead must not pass for an
// alias when that node, alive again, is lost another time.
func TestNodeThatWasSlowToComeBackIsJoinedWhenLostAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startJoiner(t, oneAddress(), nil)
		if n := a.since(aliasRest / 2); n != 1 {
			t.Errorf("%d attempts through an address that answered", n)
		}
		a.table.NotifyJoin(peer("b-1", `{"v":1}`))
		a.table.NotifyLeave(peer("b-1", ``))
		if n := a.since(time.Second); n != 1 {
			t.Errorf("%d attempts in the second after it was lost", n)
		}
	})
}

func TestAliasIsTriedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startJoiner(t, oneAddress(), nil)
		if n := a.since(time.Hour); n < 40 || n > 61 {
			t.Errorf("%d attempts in an hour", n)
		}
	})
}

func TestSeedsAreAskedOnWithPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked, hangs := 0, false
		s := &settings{Options: Options{Seeds: func(ctx context.Context) ([]string, error) {
			mu.Lock()
			asked++
			wait := hangs
			mu.Unlock()
			if wait {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			return []string{"10.0.0.1"}, nil
		}}}
		s.BindPort = 7946
		count := func(d time.Duration) int {
			mu.Lock()
			before := asked
			mu.Unlock()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return asked - before
		}
		a := startJoiner(t, s, nil)
		a.table.NotifyJoin(peer("b-1", `{"v":1}`))
		count(10 * time.Second)
		if n := count(10 * time.Minute); n < 20 || n > 41 {
			t.Errorf("asked %d times in 10 min with all of them here", n)
		}
		mu.Lock()
		hangs = true
		mu.Unlock()
		a.table.NotifyLeave(peer("b-1", ``))
		if n := a.since(10 * time.Second); n < 1 {
			t.Error("with Seeds hanging, what they named before is not joined")
		}
	})
}
