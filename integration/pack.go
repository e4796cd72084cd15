package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
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

type process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when the process has ended
	err  error
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

func (p *Pack) start(name string, args ...string) *process {
	p.t.Helper()
	cmd := exec.Command(p.binary, args...)
	cmd.Env = append(os.Environ(), "RAPTORPACK_CLOCK="+p.clock(name))
	return launch(p.t, cmd, p.path(name+".log"))
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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

// clock is the file that says how far the clock of a process stands off; only a
// program built for it looks.
func (p *Pack) clock(name string) string { return p.path(name + ".clock") }

// SetClock puts the server's clock that far off the true time, now or for its
// next start.
func (p *Pack) SetClock(off time.Duration) {
	p.t.Helper()
	p.setClock("server", p.server, off)
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

// patience bounds waiting for conditions; only a broken build waits so long.
const patience = 3 * time.Minute

// wait waits for a condition and prints its last state when it gives up.
func (p *Pack) wait(what string, met func() (bool, string)) {
	p.t.Helper()
	p.waitFor(patience, what, met)
}

func (p *Pack) waitFor(limit time.Duration, what string, met func() (bool, string)) {
	p.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	last := ""
	for {
		var ok bool
		if ok, last = met(); ok {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			p.t.Fatalf("waited %v for %s; last: %s", limit, what, last)
		}
	}
}

// operator is an HTTP client with the rights of somebody on the server's host.
func (p *Pack) operator() *http.Client {
	p.t.Helper()
	pair, err := p.file.LocalCaller("integration", time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.PrivateKey))
	if err != nil {
		p.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(p.file.Client.CACertificate))
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: p.file.Client.PinnedServerName, Certificates: []tls.Certificate{certificate},
	}}}
}

func (p *Pack) url(path string) string {
	return "https://127.0.0.1:" + strconv.Itoa(p.file.GUI.BindPort) + "/api/v1" + path
}

// Get reads one JSON answer.
func (p *Pack) Get(path string, into any) error {
	answer, err := p.http.Get(p.url(path))
	if err != nil {
		return err
	}
	return decode(answer, into)
}

// Post sends one JSON request, again and again while the server is away: it
// carries an idempotency key.
func (p *Pack) Post(path string, body, into any) {
	p.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	key := strconv.FormatInt(time.Now().UnixNano(), 36)
	p.wait("POST "+path, func() (bool, string) {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, p.url(path), bytes.NewReader(text))
		if err != nil {
			p.t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Idempotency-Key", key)
		answer, err := p.http.Do(request)
		if err == nil {
			err = decode(answer, into)
		}
		return err == nil, fmt.Sprint(err)
	})
}

func decode(answer *http.Response, into any) error {
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// Flow is what the server says of a collection.
type Flow struct {
	ID     string `json:"flow_id"`
	State  string `json:"state"`
	Error  string `json:"error"`
	Rows   int64  `json:"rows"`
	Folder string `json:"folder"`
}

// SetArtifact stores a custom definition.
func (p *Pack) SetArtifact(text string) {
	p.t.Helper()
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		p.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPut, p.url("/artifacts"), bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := p.http.Do(request)
	if err == nil {
		err = decode(answer, nil)
	}
	if err != nil {
		p.t.Fatalf("set artifact: %v", err)
	}
}

// Collect starts a collection and returns its flow id.
func (p *Pack) Collect(a *Agent, artifact string, parameters map[string]string) string {
	p.t.Helper()
	var started struct {
		Flow string `json:"flow_id"`
	}
	p.Post("/clients/"+a.ID+"/flows", map[string]any{
		"artifacts": []map[string]any{{"name": artifact, "parameters": parameters}},
		"limits":    map[string]any{"timeout_seconds": 3600},
	}, &started)
	return started.Flow
}

// Await returns a flow when it has a final state.
func (p *Pack) Await(a *Agent, flow string) Flow {
	p.t.Helper()
	var f Flow
	p.waitFor(10*time.Minute, "flow "+flow+" to end", func() (bool, string) {
		err := p.Get("/clients/"+a.ID+"/flows/"+flow, &f)
		switch f.State {
		case "completed", "incomplete", "errored", "cancelled":
			return err == nil, fmt.Sprint(err)
		}
		return false, fmt.Sprintf("%+v, %v", f, err)
	})
	return f
}

// CollectAll collects several artifacts in one flow.
func (p *Pack) CollectAll(a *Agent, artifacts map[string]map[string]string) string {
	p.t.Helper()
	var specs []map[string]any
	for name, parameters := range artifacts {
		specs = append(specs, map[string]any{"name": name, "parameters": parameters})
	}
	var started struct {
		Flow string `json:"flow_id"`
	}
	p.Post("/clients/"+a.ID+"/flows", map[string]any{"artifacts": specs, "limits": map[string]any{"timeout_seconds": 3600}}, &started)
	return started.Flow
}

// Upload is a finished upload.
type Upload struct {
	StoredPath string `json:"stored_path"`
	SHA256     string `json:"sha256"`
}

// Uploads lists what a flow uploaded.
func (p *Pack) Uploads(a *Agent, flow string) []Upload {
	p.t.Helper()
	var list struct{ Items []Upload }
	p.wait("the list of uploads", func() (bool, string) {
		err := p.Get("/clients/"+a.ID+"/flows/"+flow+"/uploads", &list)
		return err == nil, fmt.Sprint(err)
	})
	return list.Items
}

// Progress returns true once more of a flow was acknowledged to the agent than at
// the call before, and false if the flow ended first.
func (p *Pack) Progress(a *Agent, flow string) bool {
	p.t.Helper()
	ended := false
	p.wait("progress of flow "+flow, func() (bool, string) {
		acked, err := readHistory(a.History(), flow)
		if err != nil {
			return false, err.Error()
		}
		for _, one := range acked {
			ended = ended || one.Kind == "end"
		}
		if ended || len(acked) > a.seen {
			a.seen = len(acked)
			return true, ""
		}
		return false, fmt.Sprintf("%d acknowledgements", len(acked))
	})
	return !ended
}

// ConfigFile is the path of the server's configuration.
func (p *Pack) ConfigFile() string { return p.path("server.yaml") }

// Reload tells the server to read its configuration again.
func (p *Pack) Reload() {
	p.t.Helper()
	if err := p.server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		p.t.Fatal(err)
	}
}

// Certificate is what the server shows of itself at its door for agents.
func (p *Pack) Certificate() (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", "127.0.0.1:"+strconv.Itoa(p.file.Frontend.BindPort), &tls.Config{
		InsecureSkipVerify: true, // it is what we look at
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// WaitFor waits for a condition that a story sets itself.
func (p *Pack) WaitFor(what string, met func() (bool, string)) {
	p.t.Helper()
	p.wait(what, met)
}
