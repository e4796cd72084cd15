package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"raptorpack/config"
)

// Node is one server node of a pack: a process that may come and go.
type Node struct {
	Name      string
	Candidate bool

	pack    *Pack
	offset  int
	apart   bool
	file    *config.Loaded
	process atomic.Pointer[process] // nil: never started
}

func (p *Pack) newNode(i int, candidate, apart bool) *Node {
	p.t.Helper()
	n := &Node{Name: "server", Candidate: candidate, pack: p, offset: i * portsOfNode, apart: apart}
	if i > 0 {
		n.Name = "node-" + strconv.Itoa(i)
	}
	var err error
	if n.file, err = config.Load(p.path("server.yaml"), config.Options{PortOffset: n.offset}); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// Start starts the node's process.
func (n *Node) Start() {
	n.pack.t.Helper()
	role := "--minion"
	if n.Candidate {
		role = "--master"
	}
	cmd := n.pack.program(n.Name, "frontend", role, "--config", n.pack.path("server.yaml"), "--node", n.Name,
		"--port-offset", strconv.Itoa(n.offset), "--log-level", "info")
	if n.apart {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	n.process.Store(launch(n.pack.t, cmd, n.pack.path(n.Name+".log")))
}

// WaitReady returns when the node says that it can serve.
func (n *Node) WaitReady() {
	n.pack.t.Helper()
	q := n.process.Load()
	n.pack.wait(n.Name+" to be ready", func() (bool, string) {
		select {
		case <-q.done:
			n.pack.t.Fatalf("%s ended: %v\n%s", n.Name, q.err, n.pack.tail(n.Name+".log"))
		default:
		}
		return n.Ready()
	})
}

// Ready asks the node once, and returns its reason too.
func (n *Node) Ready() (bool, string) {
	answer, err := http.Get("http://127.0.0.1:" + strconv.Itoa(n.file.Monitoring.BindPort) + "/readyz")
	if err != nil {
		return false, err.Error()
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body) // a lost answer shows as not ready
	return answer.StatusCode == http.StatusOK, string(text)
}

// Kill is kill -9; a node that does not run stays so.
func (n *Node) Kill() {
	if q := n.process.Load(); q != nil {
		q.kill(syscall.SIGKILL)
	}
}

// Stop is SIGTERM; it returns when the process has ended and fails the test if it
// did not end well.
func (n *Node) Stop() {
	n.pack.t.Helper()
	q := n.process.Load()
	q.kill(syscall.SIGTERM)
	if q.err != nil {
		n.pack.t.Errorf("%s did not stop well: %v\n%s", n.Name, q.err, n.pack.tail(n.Name+".log"))
	}
}

// Pause is SIGSTOP, Resume SIGCONT.
func (n *Node) Pause()  { n.signal(syscall.SIGSTOP) }
func (n *Node) Resume() { n.signal(syscall.SIGCONT) }

func (n *Node) signal(s syscall.Signal) {
	n.pack.t.Helper()
	if err := n.process.Load().cmd.Process.Signal(s); err != nil {
		n.pack.t.Fatal(err)
	}
}

// Rename gives the node another name for its next start, so that it need not wait
// for its own lease to run out.
func (n *Node) Rename(name string) {
	if n.Running() {
		n.pack.t.Fatalf("%s runs", n.Name)
	}
	n.Name = name
}

// Running reports whether the process has not ended.
func (n *Node) Running() bool {
	q := n.process.Load()
	if q == nil {
		return false
	}
	select {
	case <-q.done:
		return false
	default:
		return true
	}
}

// Post sends one JSON request with an idempotency key, once.
func (n *Node) Post(path, key string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, n.url(path), bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", key)
	answer, err := n.pack.http.Do(request)
	if err != nil {
		return err
	}
	return decode(answer, into)
}

// Label sets a label: the smallest change that goes through the ledger.
func (n *Node) Label(client, label, key string) error {
	return n.Post("/clients/labels", key, map[string]any{"clients": []string{client}, "add": []string{label}}, nil)
}

func (n *Node) url(path string) string {
	return "https://127.0.0.1:" + strconv.Itoa(n.file.GUI.BindPort) + "/api/v1" + path
}

// Status is what a node says of itself.
type Status struct {
	Node      string
	Role      string
	Ready     string
	Epoch     uint64
	Index     uint64
	Clients   int
	Connected int
}

// Status asks the node.
func (n *Node) Status() (Status, error) {
	var s Status
	answer, err := n.pack.http.Get(n.url("/status"))
	if err != nil {
		return s, err
	}
	return s, decode(answer, &s)
}

// Leads reports whether the node says that it is the master.
func (n *Node) Leads() bool {
	s, err := n.Status()
	return err == nil && s.Role == "master"
}

// StartAll starts every node and returns when all are ready and one leads.
func (p *Pack) StartAll() {
	p.t.Helper()
	for _, n := range p.nodes {
		n.Start()
	}
	for _, n := range p.nodes {
		n.WaitReady()
	}
	p.Master()
}

// Master waits for a node that leads.
func (p *Pack) Master() *Node {
	p.t.Helper()
	var found *Node
	p.wait("a master", func() (bool, string) {
		var all []string
		for _, n := range p.nodes {
			if !n.Running() {
				continue
			}
			s, err := n.Status()
			all = append(all, fmt.Sprintf("%+v %v", s, err))
			if err == nil && s.Role == "master" {
				found = n
			}
		}
		text, _ := json.Marshal(all)
		return found != nil, string(text)
	})
	return found
}

// Says reports whether a line of a node's log has all of these texts.
func (p *Pack) Says(name string, texts ...string) bool {
	p.t.Helper()
	log, err := os.ReadFile(p.path(name + ".log"))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(line, text)
		}
		if all {
			return true
		}
	}
	return false
}
