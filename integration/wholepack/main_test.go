package wholepack_test

import (
	"flag"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"raptorpack/integration/wholepack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	// long runs the crashes at the number that the project promises.
	long = flag.Bool("long", false, "run the stories at full size")

	// seed repeats a run, as far as goroutines and file calls let themselves be
	// repeated: the same faults hit the same nodes in the same order.
	seed = flag.Uint64("seed", 0, "seed of random schedules; 0: by chance")
)

// chance is the seed of a test's schedule. It is told, so that the run can be
// repeated.
func chance(t *testing.T) uint64 {
	t.Helper()
	one := *seed
	if one == 0 {
		one = rand.Uint64N(1 << 32)
	}
	t.Logf("schedule of -seed %d", one)
	return one
}

// launch starts a pack with two agents that its nodes know.
func launch(t *testing.T, o wholepack.Options) *wholepack.Pack {
	t.Helper()
	p := wholepack.New(t, o)
	p.Start()
	for i := range 2 {
		p.AddAgent(wholepack.AgentOptions{Key: i})
	}
	p.Enrolled()
	return p
}
