package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

type process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when the process has ended
	err  error
}

func (p *Pack) start(name string, args ...string) *process {
	p.t.Helper()
	return launch(p.t, p.program(name, args...), p.path(name+".log"))
}

func (p *Pack) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(p.binary, args...)
	cmd.Env = append(os.Environ(), "RAPTORPACK_CLOCK="+p.clock(name))
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return cmd
}

// launch starts a process whose output goes to the end of a file.
func launch(t testing.TB, cmd *exec.Cmd, path string) *process {
	t.Helper()
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	// Whatever becomes of the test, nothing outlives it.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	one := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		one.err = cmd.Wait()
		close(one.done)
	}()
	return one
}

func (q *process) kill(signal syscall.Signal) {
	select {
	case <-q.done:
		return
	default:
	}
	// The process may have ended by itself a moment ago.
	_ = q.cmd.Process.Signal(signal)
	<-q.done
	q.log.Close()
}

// clock is the file that says how far the clock of a process stands off; only a
// program built for it looks.
func (p *Pack) clock(name string) string { return p.path(name + ".clock") }

// SetClock puts the server's clock that far off the true time, now or for its
// next start.
func (p *Pack) SetClock(off time.Duration) {
	p.t.Helper()
	p.setClock(p.nodes[0].Name, p.nodes[0].process.Load(), off)
}

// SetClock puts the agent's clock that far off the true time, now or for its next
// start.
func (a *Agent) SetClock(off time.Duration) {
	a.pack.t.Helper()
	a.pack.setClock(filepath.Base(a.dir), a.process, off)
}

func (p *Pack) setClock(name string, q *process, off time.Duration) {
	p.t.Helper()
	p.write(name+".clock", []byte(off.String()))
	select {
	case <-q.done:
		return
	default:
	}
	if err := q.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		p.t.Fatal(err)
	}
	p.wait("the clock of "+name+" to be set", func() (bool, string) {
		taken, err := os.ReadFile(p.clock(name) + ".taken")
		return string(taken) == off.String(), fmt.Sprintf("%s, %v", taken, err)
	})
}

// ConfigFile is the path of the server's configuration.
func (p *Pack) ConfigFile() string { return p.path("server.yaml") }

// Reload tells the server to read its configuration again.
func (p *Pack) Reload() {
	p.t.Helper()
	if err := p.nodes[0].process.Load().cmd.Process.Signal(syscall.SIGHUP); err != nil {
		p.t.Fatal(err)
	}
}

// patience bounds waiting for conditions; only a broken build waits so long.
const patience = 3 * time.Minute

// wait waits for a condition and prints its last state when it gives up.
func (p *Pack) wait(what string, met func() (bool, string)) {
	p.t.Helper()
	await(p.t, patience, what, met)
}

func await(t testing.TB, limit time.Duration, what string, met func() (bool, string)) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		ok, last := met()
		if ok {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("waited %v for %s; last: %s", limit, what, last)
		}
	}
}
