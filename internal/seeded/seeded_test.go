package seeded_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"raptorpack/internal/seeded"
)

func TestOrdinaryBuildsKeepEveryGuard(t *testing.T) {
	for _, guard := range seeded.Guards {
		if seeded.Out(guard) {
			t.Errorf("%s is taken out", guard)
		}
	}
}

// A program of a seeded build takes out what it is told to, and nothing else.
func TestSeededBuildsTakeOutWhatTheyAreTold(t *testing.T) {
	run := func(flags, environment string) string {
		t.Helper()
		cmd := exec.Command("go", "run", "-tags", "seeded", "-ldflags", flags, "./testdata/told.go")
		cmd.Env = append(os.Environ(), "RAPTORPACK_SEEDED="+environment)
		text, err := cmd.CombinedOutput()
		if err != nil && !strings.Contains(string(text), "no guard is called") {
			t.Fatalf("%v: %s", err, text)
		}
		return strings.TrimSpace(string(text))
	}
	for _, c := range []struct{ flags, environment, want string }{
		{"", "", ""},
		{"", "lease", "lease"},
		{"-X raptorpack/internal/seeded.linked=sync", "", "sync"},
		{"-X raptorpack/internal/seeded.linked=sync", "seal,incarnation", "seal sync incarnation"},
	} {
		if got := run(c.flags, c.environment); got != c.want {
			t.Errorf("with %q and %q: out are %q, want %q", c.flags, c.environment, got, c.want)
		}
	}
	if got := run("", "leese"); !strings.Contains(got, `no guard is called "leese"`) {
		t.Errorf("a word that is no guard: %s", got)
	}
}
