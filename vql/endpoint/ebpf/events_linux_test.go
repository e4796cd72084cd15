//go:build amd64 || arm64

package ebpf

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestTheTableNamesEachEventOnce(t *testing.T) {
	names, numbers := map[string]bool{}, map[int]string{}
	for i, e := range table {
		if names[e.name] || e.name == "" || e.doc == "" {
			t.Errorf("event %d (%q) has no name of its own, or no text", i, e.name)
		}
		names[e.name] = true
		if e.number == tracepoint {
			continue
		}
		if other, twice := numbers[e.number]; twice {
			t.Errorf("%s and %s have the same number", e.name, other)
		}
		numbers[e.number] = e.name
		if len(e.args) > 6 || len(e.args) == 0 {
			t.Errorf("%s has %d arguments", e.name, len(e.args))
		}
		for i, a := range e.args { // their length is the next argument
			if (a.kind == argAddress || a.kind == argPeer) && i+1 >= len(e.args) {
				t.Errorf("%s: the length of %s is not read", e.name, a.name)
			}
		}
	}
	for i, want := range []string{eventExec: "sched_process_exec", eventExit: "sched_process_exit", eventFork: "sched_process_fork"} {
		if table[i].name != want {
			t.Errorf("place %d holds %s, want %s", i, table[i].name, want)
		}
	}
}

func TestKnownTellsTheFields(t *testing.T) {
	known := Known()
	i := slices.IndexFunc(known, func(i Info) bool { return i.Name == "openat2" })
	want := "dirfd pathname flags mode resolve return_value error"
	if got := strings.Join(known[i].Fields, " "); got != want || known[i].Source != "system call" || known[i].Default {
		t.Errorf("got %+v", known[i])
	}
	if exec := known[eventExec]; exec.Source != "tracepoint" || !exec.Default {
		t.Errorf("got %+v", exec)
	}
}

func TestPickTakesDefaultsAndRefusesUnknownNames(t *testing.T) {
	got, err := pick(nil)
	if err != nil || !slices.Equal(got, []int{eventExec, eventExit, eventFork}) {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = pick([]string{"sched_process_fork", "sched_process_exec", "sched_process_fork"})
	if err != nil || !slices.Equal(got, []int{eventExec, eventFork}) {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = pick([]string{"openat", "execve"})
	if !errors.Is(err, ErrUnknownEvent) || !strings.Contains(err.Error(), `"execve"; known are accept, `) {
		t.Errorf("got %v", err)
	}
}

func TestOurOwnEventsHaveABudget(t *testing.T) {
	var b budget
	allowed := 0
	for i := range uint64(1000) {
		if b.allow(5e9 + i) {
			allowed++
		}
	}
	if allowed != ownPerSecond || b.dropped != 1000-ownPerSecond {
		t.Errorf("allowed %d, dropped %d", allowed, b.dropped)
	}
	if b.allow(4e9) { // a record of another processor that comes late
		t.Error("an older second opened the budget again")
	}
	if !b.allow(6e9) {
		t.Error("the next second has no budget")
	}
}
