package integration_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/integration"
)

// lab is a store on the faulty filesystem: one mount, whose power can be cut.
type lab struct {
	t   *testing.T
	dir string
}

// newLab mounts the store. Where that cannot be done the test is skipped, unless
// RAPTORPACK_LABS=required says that a skipped lab proves nothing.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir()}
	if out, err := l.run("up"); err != nil {
		var exit *exec.ExitError
		impossible := errors.As(err, &exit) && exit.ExitCode() == 77
		if impossible && os.Getenv("RAPTORPACK_LABS") != "required" {
			t.Skipf("no lab on this machine: %s", out)
		}
		t.Fatalf("lab: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := l.run("down"); err != nil {
			t.Errorf("lab: %v\n%s", err, out)
		}
	})
	return l
}

func (l *lab) run(command string, args ...string) (string, error) {
	script, err := filepath.Abs("lab/slowfs/slowfs.sh")
	if err != nil {
		return "", err
	}
	words := []string{command, l.dir}
	switch command {
	case "up":
		// Nothing is written back by itself: what is not synced is lost.
		words = append(words, "a", "--", "-write-back", "1h", "-attr-timeout", "1s", "-entry-timeout", "1s", "-negative-timeout", "1s")
	case "ctl":
		words = append(append(words, "a"), args...)
	}
	out, err := exec.Command(script, words...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (l *lab) store() string { return filepath.Join(l.dir, "a") }

// cutPower loses everything that was not synced; the mount answers errors until
// powerOn.
func (l *lab) cutPower() {
	l.t.Helper()
	// The process that answers ends before it can.
	_, _ = l.run("ctl", "crash")
}

func (l *lab) powerOn() {
	l.t.Helper()
	for _, command := range []string{"down", "up"} {
		if out, err := l.run(command); err != nil {
			l.t.Fatalf("lab %s: %v\n%s", command, err, out)
		}
	}
}

// powerStory cuts the power of the store and its server in the middle of work.
func powerStory(t *testing.T, binary string) *story {
	t.Helper()
	l := newLab(t)
	s := begin(t, integration.Launch(t, integration.Options{Store: filepath.Join(l.store(), "pack"), Binary: binary}))
	s.each(func(int) {
		l.cutPower()
		s.pack.KillServer()
		l.powerOn()
		s.pack.StartServer()
	})
	return s
}

func TestPowerCutsLoseAndDoubleNothing(t *testing.T) {
	powerStory(t, "").end()
}

// With sync taken out of the program the same story has to fail: in the checker,
// or because the server notices what it lost and refuses to go on.
func TestPowerCutsAreNoticedWhenSyncIsTakenOut(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "raptorpack-seeded")
	build := exec.Command("go", "build", "-tags", "seeded", "-ldflags", "-X raptorpack/internal/seeded.linked=sync", "-o", binary, "raptorpack/cmd/raptorpack")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	l := newLab(t)
	p := integration.Launch(t, integration.Options{Store: filepath.Join(l.store(), "pack"), Binary: binary})
	s := begin(t, p)
	if !s.pack.Progress(s.agent, s.flow) {
		t.Fatal("the flow ended before the power could be cut")
	}
	l.cutPower()
	s.pack.KillServer()
	l.powerOn()
	if err := s.lost(); err == nil {
		t.Error("acknowledged rows survived a power cut without sync: the story shows nothing")
	} else {
		t.Logf("noticed: %v", err)
	}
}
