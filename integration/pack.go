package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
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

// Pack is one server node and its agents, each a process of its own.
type Pack struct {
	t      testing.TB
	dir    string // configuration, logs, agents' folders
	binary string
	file   *config.Loaded
	http   *http.Client

	mu     sync.Mutex
	server *process
	agents []*Agent
}

// Options say what a pack is made of.
type Options struct {
	Store  string         // folder of the filestore; empty: a temporary one
	Merge  map[string]any // laid over the generated file
	Binary string         // empty: built from this tree
}

// Agent is one agent process with its folder.
type Agent struct {
	pack    *Pack
	dir     string
	process *process
	ID      string

	seen int // acknowledgements at the last call of Progress
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "raptorpack-binary")
	if err != nil {
		return "", err
	}
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
	ports := freePorts(t, 4)
	merge := map[string]any{
		"Frontend":   map[string]any{"bind_address": "127.0.0.1", "bind_port": ports[0], "hostname": "localhost", "do_not_compress_artifacts": true},
		"API":        map[string]any{"bind_port": ports[1]},
		"GUI":        map[string]any{"bind_port": ports[2]},
		"Monitoring": map[string]any{"bind_port": ports[3]},
		"Pack":       map[string]any{"reserve_bytes": 1 << 20},
		"Client": map[string]any{
			"server_urls": []string{"https://localhost:" + strconv.Itoa(ports[0]) + "/"},
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

func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

// StartServer starts the node and returns when it is ready.
func (p *Pack) StartServer() {
	p.t.Helper()
	p.mu.Lock()
	p.server = p.start("server", "frontend", "--master", "--config", p.path("server.yaml"), "--log-level", "info")
	server := p.server
	p.mu.Unlock()
	p.wait("the server to be ready", func() (bool, string) {
		select {
		case <-server.done:
			p.t.Fatalf("server ended: %v\n%s", server.err, p.tail("server.log"))
		default:
		}
		answer, err := http.Get("http://127.0.0.1:" + strconv.Itoa(p.file.Monitoring.BindPort) + "/readyz")
		if err != nil {
			return false, err.Error()
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body) // a lost answer shows as not ready
		return answer.StatusCode == http.StatusOK, string(text)
	})
}

// KillServer is kill -9.
func (p *Pack) KillServer() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server.kill(syscall.SIGKILL)
}

// StopServer is SIGTERM; it returns when the process has ended and fails the test
// if it did not end well.
func (p *Pack) StopServer() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server.kill(syscall.SIGTERM)
	if p.server.err != nil {
		p.t.Errorf("server did not stop well: %v\n%s", p.server.err, p.tail("server.log"))
	}
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
	p.wait("the agent to know its id", func() (bool, string) {
		text, err := os.ReadFile(filepath.Join(a.dir, "writeback.yaml"))
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
	return a
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
	if p.server != nil {
		p.server.kill(syscall.SIGKILL)
	}
	if p.t.Failed() {
		p.t.Logf("server log ends:\n%s", p.tail("server.log"))
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
