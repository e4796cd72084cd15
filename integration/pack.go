package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"raptorpack/config"
)

// Pack is server nodes and their agents, each a process of its own. All nodes run
// with one file and one folder as their filestore.
type Pack struct {
	t      testing.TB
	dir    string // configuration, logs, agents' folders
	binary string
	file   *config.Loaded
	http   *http.Client
	nodes  []*Node // the first one is "the server" of stories with one

	mu     sync.Mutex
	agents []*Agent
}

// Options say what a pack is made of.
type Options struct {
	Store   string         // folder of the filestore; empty: a temporary one
	Merge   map[string]any // laid over the generated file
	Binary  string         // empty: built from this tree
	Masters int            // candidates; 0: one
	Minions int

	// Apart gives each node process ids of its own, so that none can see that
	// another's process is gone, as if it ran on another host. Needs root.
	Apart bool
}

// Agent is one agent process with its folder.
type Agent struct {
	pack    *Pack
	dir     string
	process *process
	ID      string

	seen int    // acknowledgements at the last call of Progress,
	flow string // of this flow
}

// built is the folder of what build made.
var built string

// RemoveBinary removes the program that tests of this process built, if any did. It is
// for the end of TestMain.
func RemoveBinary() {
	if built != "" {
		_ = os.RemoveAll(built) // what is left in a folder for temporary files harms nobody
	}
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "raptorpack-binary")
	if err != nil {
		return "", err
	}
	built = dir
	binary := filepath.Join(dir, "raptorpack")
	cmd := exec.Command("go", "build", "-o", binary, "raptorpack/cmd/raptorpack")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return binary, nil
})

// Launch makes a deployment of its own; nothing runs yet.
func Launch(t testing.TB, o Options) *Pack {
	t.Helper()
	binary := o.Binary
	if binary == "" {
		binary = os.Getenv("RAPTORPACK_BINARY") // built before, for machines without Go
	}
	if binary == "" {
		var err error
		if binary, err = build(); err != nil {
			t.Fatal(err)
		}
	}
	p := &Pack{t: t, dir: t.TempDir(), binary: binary}
	if o.Store == "" {
		o.Store = filepath.Join(p.dir, "store")
	}
	count := max(o.Masters, 1) + o.Minions
	port := freePorts(t, count)
	var urls []string
	for i := range count {
		urls = append(urls, "https://localhost:"+strconv.Itoa(port+i*portsOfNode)+"/")
	}
	merge := map[string]any{
		"Frontend":   map[string]any{"bind_address": "127.0.0.1", "bind_port": port, "hostname": "localhost", "do_not_compress_artifacts": true},
		"API":        map[string]any{"bind_port": port + 1},
		"GUI":        map[string]any{"bind_port": port + 2},
		"Monitoring": map[string]any{"bind_port": port + 3},
		"Bus":        map[string]any{"bind_address": "127.0.0.1", "bind_port": port + 4},
		"Gossip":     map[string]any{"bind_address": "127.0.0.1", "bind_port": port + 5},
		"Pack":       map[string]any{"reserve_bytes": 1 << 20},
		"Client": map[string]any{
			"server_urls": urls,
			"max_poll":    2, "max_poll_std": 1, "min_poll": 1, "default_server_flow_stats_update": 1,
		},
	}
	for section, keys := range o.Merge {
		into, ok := merge[section].(map[string]any)
		if !ok {
			into = map[string]any{}
			merge[section] = into
		}
		for key, value := range keys.(map[string]any) {
			into[key] = value
		}
	}
	text, err := json.Marshal(merge)
	if err != nil {
		t.Fatal(err)
	}
	generated, err := config.Generate(config.GenerateOptions{Datastore: o.Store, MergeJSON: string(text), Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	p.write("server.yaml", generated)
	if p.file, err = config.Load(p.path("server.yaml"), config.Options{}); err != nil {
		t.Fatal(err)
	}
	client, err := p.file.ClientFile()
	if err != nil {
		t.Fatal(err)
	}
	p.write("client.yaml", client)
	p.http = p.operator()
	for i := range count {
		p.nodes = append(p.nodes, p.newNode(i, i < max(o.Masters, 1), o.Apart))
	}
	t.Cleanup(p.stopAll)
	return p
}

func (p *Pack) path(name string) string { return filepath.Join(p.dir, name) }

func (p *Pack) write(name string, text []byte) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), text, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// Store is the folder that results lie in.
func (p *Pack) Store() string { return p.file.Datastore.FilestoreDirectory }

// portsOfNode is how far the ports of two nodes lie apart.
const portsOfNode = 10

// freePorts finds a row of ports for so many nodes, of which none is in use.
func freePorts(t testing.TB, nodes int) int {
	t.Helper()
	for range 200 {
		first := 20_000 + portsOfNode*rand.N(2000)
		if allFree(first, nodes) {
			return first
		}
	}
	t.Fatal("no free row of ports")
	return 0
}

func allFree(first, nodes int) bool {
	for i := range nodes * portsOfNode {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(first+i))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// Nodes are all nodes of the pack, candidates first.
func (p *Pack) Nodes() []*Node { return p.nodes }

// StartServer starts the first node and returns when it is ready.
func (p *Pack) StartServer() {
	p.t.Helper()
	p.nodes[0].Start()
	p.nodes[0].WaitReady()
}

// KillServer is kill -9 of the first node.
func (p *Pack) KillServer() { p.nodes[0].Kill() }

// StopServer is SIGTERM to the first node; it returns when the process has ended
// and fails the test if it did not end well.
func (p *Pack) StopServer() {
	p.t.Helper()
	p.nodes[0].Stop()
}

// AddAgent makes an agent with a folder of its own and starts it; it returns when
// the agent is enrolled and connected.
func (p *Pack) AddAgent() *Agent {
	p.t.Helper()
	p.mu.Lock()
	a := &Agent{pack: p, dir: p.path("agent-" + strconv.Itoa(len(p.agents)))}
	p.agents = append(p.agents, a)
	p.mu.Unlock()
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	a.Start()
	a.awaitEnrolled(filepath.Join(a.dir, "writeback.yaml"))
	return a
}

// awaitEnrolled returns when the agent has an id, of which its writeback file tells,
// and is connected.
func (a *Agent) awaitEnrolled(writeback string) {
	p := a.pack
	p.t.Helper()
	p.wait("the agent to know its id", func() (bool, string) {
		text, err := os.ReadFile(writeback)
		if err != nil {
			return false, err.Error()
		}
		for line := range strings.Lines(string(text)) {
			if id, ok := strings.CutPrefix(line, "client_id:"); ok {
				a.ID = strings.Trim(strings.TrimSpace(id), `"`)
				return true, ""
			}
		}
		return false, string(text)
	})
	p.wait("the agent to be connected", func() (bool, string) {
		var c struct{ Online bool }
		err := p.Get("/clients/"+a.ID, &c)
		return err == nil && c.Online, fmt.Sprint(err)
	})
}

// Start starts the agent's process.
func (a *Agent) Start() {
	a.pack.t.Helper()
	a.process = a.pack.start(filepath.Base(a.dir), "client", "--config", a.pack.path("client.yaml"),
		"--writeback", filepath.Join(a.dir, "writeback.yaml"), "--buffer", filepath.Join(a.dir, "buffer"),
		"--history", a.History(), "--min-back-off", "200ms")
}

// Kill is kill -9.
func (a *Agent) Kill() { a.process.kill(syscall.SIGKILL) }

// History is the file that the agent writes acknowledgements to.
func (a *Agent) History() string { return filepath.Join(a.dir, "history.jsonl") }

// Command runs the program as an operator on the server's host would, and returns
// what it printed.
func (p *Pack) Command(args ...string) []byte {
	p.t.Helper()
	cmd := exec.Command(p.binary, append(args, "--config", p.path("server.yaml"))...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("raptorpack %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.Bytes())
	}
	return out
}

func (p *Pack) stopAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.agents {
		if a.process != nil {
			a.process.kill(syscall.SIGKILL)
		}
	}
	for _, n := range p.nodes {
		n.Kill()
	}
	if p.t.Failed() {
		for _, n := range p.nodes {
			p.t.Logf("log of %s ends:\n%s", n.Name, p.tail(n.Name+".log"))
		}
		for i := range p.agents {
			p.t.Logf("agent %d log ends:\n%s", i, p.tail("agent-"+strconv.Itoa(i)+".log"))
		}
	}
}

func (p *Pack) tail(name string) string {
	text, err := os.ReadFile(p.path(name))
	if err != nil {
		return err.Error()
	}
	if len(text) > 6000 {
		text = text[len(text)-6000:]
	}
	return string(text)
}
