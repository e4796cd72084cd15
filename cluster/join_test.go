package cluster_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"raptorpack/cluster"
	"raptorpack/internal/testkit"
)

// seedbed stands for the heartbeats on the filestore.
type seedbed struct {
	mu        sync.Mutex
	addresses []string
	err       error
	asked     int
}

func (s *seedbed) name(err error, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addresses, s.err = addresses, err
}

func (s *seedbed) seeds(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.addresses, s.err
}

// looks counts how often somebody asked for the seeds.
func (s *seedbed) looks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func TestGroupsMergeOnceSeedsNameEachOther(t *testing.T) {
	t.Parallel()
	var bed seedbed
	seeded := func(incarnation string, join ...string) *node {
		o := options(t, incarnation, join...)
		o.Seeds = bed.seeds
		return launch(t, o, cluster.Rejoin(20*time.Millisecond))
	}
	a := seeded("a-1")
	b := seeded("b-1", a.Address())
	c := seeded("c-1")
	d := seeded("d-1", c.Address())
	a.sees(t, "b-1")
	d.sees(t, "c-1")

	// Everybody is named, themselves included, as in a directory of heartbeats.
	bed.name(nil, a.Address(), b.Address(), c.Address(), d.Address(), "no address:")

	a.sees(t, "b-1 c-1 d-1")
	b.sees(t, "a-1 c-1 d-1")
	c.sees(t, "a-1 b-1 d-1")
	d.sees(t, "a-1 b-1 c-1")
	// Others may have made them one before a looked at the seeds itself.
	testkit.Eventually(t, "a says that a seed is no address", func() (any, bool) {
		return a.log.String(), a.log.count("is no address") > 0
	})
	before := bed.looks()
	testkit.Eventually(t, "everybody looks again and again", func() (any, bool) { return bed.looks(), bed.looks() >= before+20 })
	if n := a.log.count("is no address"); n != 1 {
		t.Errorf("a says %d times that a seed is no address:\n%s", n, a.log)
	}
}

func TestSeedsThatFailAreAskedAgainAndJoinGoesOn(t *testing.T) {
	t.Parallel()
	var bed seedbed
	bed.name(errors.New("the mount hangs"))
	a, b := launch(t, options(t, "a-1")), launch(t, options(t, "b-1"))
	o := options(t, "c-1", a.Address())
	o.Seeds = bed.seeds
	c := launch(t, o, cluster.Rejoin(20*time.Millisecond))
	c.sees(t, "a-1")
	c.reaches(t, "raptorpack_cluster_troubles_total", 3)
	if n := c.log.count("the mount hangs"); n != 1 {
		t.Errorf("c says it %d times:\n%s", n, c.log)
	}
	bed.name(nil, b.Address())
	c.sees(t, "a-1 b-1")
}

func TestAddressThatComesUpLaterIsJoined(t *testing.T) {
	t.Parallel()
	late, err := cluster.New(options(t, "b-1"))
	if err != nil {
		t.Fatal(err)
	}
	address := late.Address()
	if err := late.Close(); err != nil {
		t.Fatal(err)
	}
	a := launch(t, options(t, "a-1", address), cluster.Rejoin(20*time.Millisecond))
	a.reaches(t, "raptorpack_cluster_joins_failed_total", 3)
	if n := a.log.count("join address does not answer"); n != 1 {
		t.Errorf("a says it %d times:\n%s", n, a.log)
	}

	o := options(t, "b-1")
	o.BindPort = portIn(t, address)
	launch(t, o)

	a.sees(t, "b-1")
	testkit.Eventually(t, "a says so", func() (any, bool) {
		return a.log.String(), a.log.count("join address answers") == 1
	})
}

// All settle on one address that is nobody's own, and are not joined through it
// again and again.
func TestAddressThatIsNoMembersIsLeftAlone(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	var passed atomic.Int64
	balancer := relay(t, a.Address(), &passed)
	var bed seedbed
	bed.name(nil, balancer)
	o := options(t, "b-1")
	o.Seeds = bed.seeds
	b := launch(t, o, cluster.Rejoin(10*time.Millisecond))
	b.sees(t, "a-1")
	testkit.Eventually(t, "some rounds", func() (any, bool) {
		bed.mu.Lock()
		defer bed.mu.Unlock()
		return bed.asked, bed.asked > 5
	})
	if n := passed.Load(); n != 1 {
		t.Errorf("joined %d times through the balancer", n)
	}
}

// The dead are forgotten at once, so that only the seeds can bring the halves
// together again.
func TestHealedPartitionIsJoinedAgain(t *testing.T) {
	t.Parallel()
	var bed seedbed
	var side [2]sync.Map // addresses of each half
	var cut atomic.Bool
	seeded := func(half int, incarnation string, join ...string) *node {
		o := options(t, incarnation, join...)
		o.Seeds = bed.seeds
		n := launch(t, o, cluster.Rejoin(50*time.Millisecond), cluster.ForgetAtOnce(),
			cluster.Through(func(sockets memberlist.NodeAwareTransport) memberlist.NodeAwareTransport {
				return &cable{sockets, func(address string) bool {
					_, beyond := side[1-half].Load(address)
					return beyond && cut.Load()
				}}
			}))
		side[half].Store(n.Address(), true)
		return n
	}
	a := seeded(0, "a-1")
	b := seeded(0, "b-1", a.Address())
	c := seeded(1, "c-1", a.Address())
	d := seeded(1, "d-1", a.Address())
	all := []*node{a, b, c, d}
	bed.name(nil, a.Address(), b.Address(), c.Address(), d.Address())
	whole := func() {
		for i, others := range []string{"b-1 c-1 d-1", "a-1 c-1 d-1", "a-1 b-1 d-1", "a-1 b-1 c-1"} {
			all[i].sees(t, others)
		}
	}
	whole()

	cut.Store(true)
	for i, other := range []string{"b-1", "a-1", "d-1", "c-1"} {
		all[i].sees(t, other)
	}
	for _, n := range all {
		n.reaches(t, "raptorpack_cluster_joins_failed_total", 2) // each goes on trying
	}
	cut.Store(false)
	whole()
}

var errCut = errors.New("cable is cut")

// cable loses what goes to addresses beyond it.
type cable struct {
	memberlist.NodeAwareTransport
	cut func(address string) bool
}

func (c *cable) WriteTo(b []byte, address string) (time.Time, error) {
	if c.cut(address) {
		return time.Now(), nil // as UDP does
	}
	return c.NodeAwareTransport.WriteTo(b, address)
}

func (c *cable) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return c.WriteTo(b, a.Addr)
}

func (c *cable) DialTimeout(address string, limit time.Duration) (net.Conn, error) {
	if c.cut(address) {
		return nil, errCut
	}
	return c.NodeAwareTransport.DialTimeout(address, limit)
}

func (c *cable) DialAddressTimeout(a memberlist.Address, limit time.Duration) (net.Conn, error) {
	return c.DialTimeout(a.Addr, limit)
}
