package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"raptorpack/integration"
)

// timeNow is how the standard library takes the time of day. The monotonic clock,
// its third result, stays as it is, like that of a machine whose clock is set.
var timeNow = regexp.MustCompile(`func Now\(\) Time \{\n\tsec, nsec, mono := \w+\(\)\n`)

// clockSource follows the file named by RAPTORPACK_CLOCK: its text is how far the
// time of day stands off, and a copy says that it was taken.
const clockSource = `package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

func init() {
	path := os.Getenv("RAPTORPACK_CLOCK")
	take := func() {
		text, err := os.ReadFile(path)
		if err != nil {
			return
		}
		off, err := time.ParseDuration(string(text))
		if err != nil {
			panic(err)
		}
		time.Off.Store(int64(off / time.Second))
		if err := os.WriteFile(path+".taken", text, 0o600); err != nil {
			panic(err)
		}
	}
	take()
	set := make(chan os.Signal, 1)
	signal.Notify(set, syscall.SIGUSR1)
	go func() {
		for range set {
			take()
		}
	}()
}
`

// buildWithClock builds the program on a standard library whose clock can be set.
func buildWithClock(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	library := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(library)
	if err != nil {
		t.Fatal(err)
	}
	if len(timeNow.FindAllIndex(text, -1)) != 1 {
		t.Fatalf("%s takes the time in a way not known here", library)
	}
	text = timeNow.ReplaceAll(text, []byte("${0}\tsec += Off.Load()\n"))
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	main, err := filepath.Abs("../cmd/raptorpack/overlaid_clock.go")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		library: write("time.go", string(text)),
		filepath.Join(filepath.Dir(library), "off.go"): write("off.go", "package time\n\nimport \"sync/atomic\"\n\nvar Off atomic.Int64\n"),
		main: write("clock.go", clockSource),
	}})
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "raptorpack-clock")
	cmd := exec.Command("go", "build", "-overlay", write("overlay.json", string(overlay)), "-o", binary, "raptorpack/cmd/raptorpack")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

func TestJumpingClocksLoseAndDoubleNothing(t *testing.T) {
	s := begin(t, integration.Launch(t, integration.Options{Binary: buildWithClock(t)}))
	jumps := []func(){
		func() { s.pack.SetClock(time.Hour) },
		func() { s.agent.SetClock(-time.Hour) },
		func() { s.pack.SetClock(-time.Hour) },
		func() { s.agent.SetClock(time.Hour) },
		func() { s.pack.SetClock(2 * time.Hour) },
		func() { s.pack.SetClock(0) },
	}
	s.each(func(n int) { jumps[n%len(jumps)]() })
	s.end()
	var status struct{ Epoch int }
	if err := s.pack.Get("/status", &status); err != nil || status.Epoch != 1 {
		t.Errorf("the node leads in epoch %d, %v; a jump must not cost it the lease", status.Epoch, err)
	}

	s.pack.SetClock(time.Hour)
	s.again()
	// Started in the past of what it wrote, after a clean stop and without one.
	s.agent.Kill()
	s.agent.SetClock(-2 * time.Hour)
	s.pack.StopServer()
	s.pack.SetClock(-time.Hour)
	s.pack.StartServer()
	s.agent.Start()
	s.again()
	s.pack.KillServer()
	s.pack.SetClock(-2 * time.Hour)
	s.pack.StartServer()
	s.again()
	s.pack.StopServer()

	s.pack.Command("ledger", "verify")
	s.pack.Command("filestore", "check")
	var last entry
	for line := range bytes.Lines(s.pack.Command("ledger", "cat")) {
		var next entry
		if err := json.Unmarshal(line, &next); err != nil {
			t.Fatal(err)
		}
		if next.Index != last.Index+1 || next.Time.Before(last.Time) {
			t.Errorf("entry %d of %v follows entry %d of %v", next.Index, next.Time, last.Index, last.Time)
		}
		last = next
	}
	if last.Time.Before(time.Now().Add(30 * time.Minute)) {
		t.Errorf("the last entry is of %v: nothing was written while the clock stood in the future", last.Time)
	}
}

// entry is what the story reads of a ledger's line.
type entry struct {
	Index uint64
	Time  time.Time
}

// again collects a few rows more.
func (s *story) again() {
	s.t.Helper()
	const rows = 1000
	flow := s.pack.Collect(s.agent, "Custom.Integration.Numbers", map[string]string{"Rows": strconv.Itoa(rows)})
	if ended := s.pack.Await(s.agent, flow); ended.State != "completed" {
		s.t.Errorf("flow ended %s: %s", ended.State, ended.Error)
	}
	if err := (integration.Check{
		Store: s.pack.Store(), Client: s.agent.ID, Flow: flow, Result: "Custom.Integration.Numbers", Rows: rows, History: s.agent.History(),
	}).Run(s.t.Context()); err != nil {
		s.t.Error(err)
	}
}
