package pool_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"raptorpack/internal/testkit"
	"raptorpack/pool"
)

// partVariable makes this test program a process of a Split, and says which one.
const partVariable = "RAPTORPACK_TEST_POOL_PART"

// part is such a process: it says something, then does what its name says.
func part(kind string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch kind {
	case "breaks":
		return 3
	case "babbles":
		fmt.Println("no JSON")
		<-ctx.Done()
		return 0
	}
	if pool.Record(ctx, os.Stdout, saying{}) != nil {
		return 1
	}
	return 0
}

type saying struct{}

func (saying) Stats() pool.Stats {
	s := pool.Stats{Processes: 1, CPU: 0.5, Memory: 100}
	s.Clients, s.Flows = 10, 3
	s.Flow = pool.Histogram{Count: 2, Sum: time.Second, Max: time.Second, Buckets: map[int]uint32{4: 2}}
	return s
}

func partOf(t *testing.T, kind string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program)
	c.Env = append(os.Environ(), partVariable+"="+kind)
	c.Stderr = os.Stderr
	return c
}

func TestSplitAddsUpItsProcessesAndEndsThem(t *testing.T) {
	s := pool.NewSplit(partOf(t, "works"), partOf(t, "works"), partOf(t, "works"))
	run(t, s.Run)
	testkit.Eventually(t, "all have told", func() (any, bool) { now := s.Stats(); return now, now.Processes == 3 })
	now := s.Stats()
	if now.Clients != 30 || now.Flows != 9 || now.Memory != 300 || now.Flow.Count != 6 || now.Flow.Buckets[4] != 6 {
		t.Errorf("%+v", now)
	}
}

func TestProcessThatEndsByItselfEndsTheSplit(t *testing.T) {
	for kind, want := range map[string]string{"breaks": "exit status 3", "babbles": "line of figures"} {
		s := pool.NewSplit(partOf(t, "works"), partOf(t, kind))
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "process 2 of 2") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	missing := pool.NewSplit(exec.Command("/nonexistent/raptorpack"))
	if err := missing.Run(t.Context()); err == nil {
		t.Error("a program that is not there was started")
	}
}
