package main

import (
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestProcessesOfAPoolShareItsAgents(t *testing.T) {
	f := &poolFlags{clients: 10, first: 100, processes: 3, identities: "keys", ramp: 20}
	given := []string{"pool", "--clients", "10", "--stats", "lines", "--url", "http://a/"}
	next := 100
	for n := range f.processes {
		// As the process reads it: the later flag counts.
		args := f.arguments(given, n)
		c := newPool(&globals{})
		c.Flags().Bool("quiet", false, "")
		if err := c.ParseFlags(args[1:]); err != nil {
			t.Fatal(err)
		}
		get := func(name string) string { return c.Flags().Lookup(name).Value.String() }
		if first, err := c.Flags().GetInt("first"); err != nil || first != next {
			t.Errorf("process %d begins at %d, not %d (%v)", n, first, next, err)
		}
		clients, err := c.Flags().GetInt("clients")
		if err != nil {
			t.Fatal(err)
		}
		next += clients
		if get("stats") != "-" || get("processes") != "1" || get("identities") != "keys" || get("url") != "[http://a/]" {
			t.Errorf("process %d: %v", n, args)
		}
	}
	if next != 110 {
		t.Errorf("agents up to %d", next)
	}
	if !slices.Equal(given, []string{"pool", "--clients", "10", "--stats", "lines", "--url", "http://a/"}) {
		t.Errorf("the caller's arguments changed: %v", given)
	}
}

func TestPoolTakesAsManyProcessesAsItNeeds(t *testing.T) {
	f := &poolFlags{clients: 10}
	if err := f.divide(slog.New(slog.DiscardHandler)); err != nil || f.processes != 1 {
		t.Errorf("%d processes for ten agents (%v)", f.processes, err)
	}
	f = &poolFlags{clients: 10, processes: 4}
	if err := f.divide(slog.New(slog.DiscardHandler)); err != nil || f.processes != 4 {
		t.Errorf("%d processes instead of 4 (%v)", f.processes, err)
	}
}

func TestWrongSharesAreAMatterOfUsage(t *testing.T) {
	for _, args := range []string{
		"--misbehave steal=1%", "--misbehave cut=101%", "--misbehave cut=-1%", "--misbehave cut=NaN", "--offline 5%%", "--slow x",
		"--clients 0", "--first -1", "--processes -1", "--ramp 0",
	} {
		root := newRoot()
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		root.SetArgs(append([]string{"pool"}, strings.Fields(args)...))
		err := root.ExecuteContext(t.Context())
		if err == nil || exitCode(t.Context(), err) != exitUsage {
			t.Errorf("%s: %v", args, err)
		}
	}
	var s share
	for text, want := range map[string]share{"5%": 0.05, "0.5": 0.5, "100%": 1, "0": 0} {
		if err := s.Set(text); err != nil || s != want {
			t.Errorf("%s: %v, %v", text, float64(s), err)
		}
	}
	if err := s.Set("200%"); !errors.Is(err, errUsage) {
		t.Errorf("200%%: %v", err)
	}
}
