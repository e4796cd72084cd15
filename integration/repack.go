package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// ClientFile is the text of the agents' configuration.
func (p *Pack) ClientFile() string {
	p.t.Helper()
	text, err := os.ReadFile(p.path("client.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// Repack puts a client file and further files into a copy of the program, by the
// command.
func (p *Pack) Repack(clientFile, output string, binaries ...string) {
	p.t.Helper()
	p.write("repacked.yaml", []byte(clientFile))
	args := []string{"config", "repack", "--config", p.path("repacked.yaml"), "--output", output}
	for _, b := range binaries {
		args = append(args, "--binary", b)
	}
	if out, err := exec.Command(p.binary, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("config repack: %v\n%s", err, out)
	}
}

// AddRepacked starts a program that has its configuration inside, from an empty folder
// and without any that the surroundings name, and returns when the agent is enrolled
// and connected. writeback is where that configuration keeps its identity.
func (p *Pack) AddRepacked(program, writeback string) *Agent {
	p.t.Helper()
	p.mu.Lock()
	a := &Agent{pack: p, dir: p.path("agent-" + strconv.Itoa(len(p.agents)))}
	p.agents = append(p.agents, a)
	p.mu.Unlock()
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(program, "client")
	cmd.Dir = a.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + a.dir}
	a.process = launch(p.t, cmd, p.path(filepath.Base(a.dir)+".log"))
	a.awaitEnrolled(writeback)
	return a
}

// AgentLog is what an agent has written to its log.
func (a *Agent) AgentLog() string {
	a.pack.t.Helper()
	text, err := os.ReadFile(a.pack.path(filepath.Base(a.dir) + ".log"))
	if err != nil {
		a.pack.t.Fatal(err)
	}
	return string(bytes.TrimSpace(text))
}
