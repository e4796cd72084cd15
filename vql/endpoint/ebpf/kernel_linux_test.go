//go:build amd64 || arm64

package ebpf

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"raptorpack/internal/testkit"
)

// needKernel skips a test where the kernel refuses, and only there.
func needKernel(t testing.TB) {
	t.Helper()
	err := Supported()
	if err == nil {
		var p *programs
		if p, err = load([]int{eventFork}, false); err == nil {
			p.close()
			return
		}
	}
	if errors.Is(err, ErrUnsupported) || errors.Is(err, ErrPermission) {
		t.Skip(err)
	}
	t.Fatal(err)
}

// watched is a watcher that runs beside the test.
type watched struct {
	t  *testing.T
	mu sync.Mutex
	// seen are the events so far, lines what was logged.
	seen  []*Event
	lines []string
}

// watch runs a watcher until the test ends; it returns when all is attached.
func watch(t *testing.T, o Options, each func(*Event) error) *watched {
	t.Helper()
	needKernel(t)
	s := &watched{t: t}
	o.Log = func(line string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lines = append(s.lines, line)
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.look = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1) // one result
	w.ready = func() { close(ready) }
	go func() {
		done <- w.Run(ctx, func(e *Event) error {
			s.mu.Lock()
			s.seen = append(s.seen, e)
			s.mu.Unlock()
			return each(e)
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("the watcher did not begin: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the watcher ended with %v", err)
		}
	})
	return s
}

func ignore(*Event) error { return nil }

// wait waits for an event of a name that matches, old ones too.
func (s *watched) wait(name string, match func(*Event) bool) *Event {
	s.t.Helper()
	var found *Event
	from := 0 // what was looked at before
	testkit.Eventually(s.t, name, func() (any, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range s.seen[from:] {
			from++
			if e.Name == name && match(e) {
				found = e
				return nil, true
			}
		}
		return len(s.seen), false
	})
	return found
}

// waitText waits for an event of this process whose text holds part.
func (s *watched) waitText(name, part string) *Event {
	s.t.Helper()
	return s.wait(name, func(e *Event) bool {
		return int(e.LocalPID) == os.Getpid() && strings.Contains(e.Text(), part)
	})
}

func (s *watched) waitLog(part string) {
	s.t.Helper()
	testkit.Eventually(s.t, "log line "+part, func() (any, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := strings.Join(s.lines, "\n")
		return all, strings.Contains(all, part)
	})
}

// field finds a field of an event.
func field(t testing.TB, e *Event, name string) any {
	t.Helper()
	for _, f := range e.Data {
		if f.Name == name {
			return f.Value
		}
	}
	t.Fatalf("%s has no %s: %+v", e.Name, name, e.Data)
	return nil
}

func TestTheKernelTakesEachProgram(t *testing.T) {
	needKernel(t)
	for i, e := range table {
		t.Run(e.name, func(t *testing.T) {
			for _, env := range []bool{false, true} {
				p, err := load([]int{i}, env)
				if err != nil {
					t.Fatalf("%+v", err)
				}
				if err := p.attach(); err != nil {
					t.Error(err)
				}
				p.close()
			}
		})
	}
}

func TestTheKernelTakesAllEventsAtOnce(t *testing.T) {
	needKernel(t)
	all := make([]int, len(table))
	for i := range all {
		all[i] = i
	}
	p, err := load(all, true)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	p.close()
}

// descriptors counts the open files of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNothingStaysOpen(t *testing.T) {
	needKernel(t)
	turn := func(end error) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w, err := New(Options{Events: []string{"sched_process_exec", "openat"}})
		if err != nil {
			t.Fatal(err)
		}
		w.ready = func() { _, _ = os.Stat("/"); openOnce(t, "/dev/null") }
		err = w.Run(ctx, func(*Event) error {
			if end == nil {
				cancel()
			}
			return end
		})
		if !errors.Is(err, end) {
			t.Fatalf("ended with %v, want %v", err, end)
		}
	}
	turn(nil) // what the runtime opens once
	before := descriptors(t)
	for range 5 {
		turn(nil)
		turn(errors.New("enough"))
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d open files, before %d", after, before)
	}
}

func openOnce(t testing.TB, name string) {
	f, err := os.Open(name)
	if err != nil {
		t.Error(err)
		return
	}
	_ = f.Close() // read from nobody
}

func TestAContextThatHasEndedWatchesNothing(t *testing.T) {
	needKernel(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(ctx, func(*Event) error { t.Error("an event"); return nil }); err != nil {
		t.Error(err)
	}
}

func TestWhoMayNotIsTold(t *testing.T) {
	needKernel(t)
	result := make(chan error, 1) // one result
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := dropCapabilities(); err != nil {
			result <- err
			return
		}
		p, err := load([]int{eventExec}, false)
		if err == nil {
			p.close()
		}
		result <- err
	}()
	if err := <-result; !errors.Is(err, ErrPermission) {
		t.Errorf("got %v, want ErrPermission", err)
	}
}

// dropCapabilities makes the calling thread one that may nothing.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

func TestLostEventsAreCounted(t *testing.T) {
	needKernel(t)
	p, err := load([]int{place(t, "openat")}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.attach(); err != nil {
		t.Fatal(err)
	}
	for range 1_000_000 { // nobody reads: the ring has room for some thousand
		if p.count(countLost) > 10 {
			break
		}
		openOnce(t, "/dev/null")
	}
	var lines []string
	w, err := New(Options{Log: func(line string) { lines = append(lines, line) }})
	if err != nil {
		t.Fatal(err)
	}
	w.tell(p)
	if len(lines) != 1 || !strings.Contains(lines[0], "events were lost because they came too fast") {
		t.Errorf("logged %q", lines)
	}
}
