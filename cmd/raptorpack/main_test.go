package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"raptorpack/client"
	"raptorpack/cmd/agent"
	"raptorpack/cmd/node"
	"raptorpack/config"
	"raptorpack/internal/testkit"
)

// checked runs the tests and looks for goroutines that they left behind.
type checked struct{ m *testing.M }

func (c checked) Run() int {
	code := c.m.Run()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// The test binary is the program too: scripts run it under the program's name.
func TestMain(m *testing.M) { testscript.Main(checked{m}, map[string]func(){"raptorpack": main}) }

// pack is a real node with a real agent, in this process.
type pack struct {
	dir    string
	client string
	ports  map[string]int
	node   *node.Node
	stop   func()
}

// startPack starts both and waits until the agent is connected and was asked
// about its host.
func startPack(t *testing.T, level slog.Level) *pack {
	t.Helper()
	return startTuned(t, level, node.Tuning{})
}

func startTuned(t *testing.T, level slog.Level, tune node.Tuning) *pack {
	t.Helper()
	p := &pack{dir: t.TempDir(), ports: map[string]int{}}
	loaded := p.configure(t)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	n, err := node.New(t.Context(), node.Options{Config: loaded, Master: true, Version: "test", Logger: log, Tune: tune})
	if err != nil {
		t.Fatal(err)
	}
	p.node = n
	stopNode := running(t, "node", n.Run)
	testkit.Eventually(t, "the node is ready", func() (any, bool) { err := n.Ready(); return err, err == nil })
	stopAgent := p.startAgent(t, loaded, log)
	p.stop = func() {
		stopAgent()
		stopNode()
	}
	t.Cleanup(p.stop)
	testkit.Eventually(t, "the agent is connected", func() (any, bool) { s := n.Status(); return s, s.Connected == 1 })
	return p
}

func (p *pack) startAgent(t *testing.T, loaded *config.Loaded, log *slog.Logger) (stop func()) {
	t.Helper()
	options, err := agent.Options(loaded.Client, agent.Settings{
		Version: "test", Logger: log, Writeback: filepath.Join(p.dir, "writeback.yaml"), Buffer: filepath.Join(p.dir, "buffer"), MinBackOff: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := client.New(options)
	if err != nil {
		t.Fatal(err)
	}
	p.client = a.ID().String()
	return running(t, "agent", a.Run)
}

// running runs a part of the world; stop ends it, once.
func running(t *testing.T, name string, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value
	go func() { ended <- run(ctx) }()
	done := false
	return func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// configure writes server.yaml and robot.yaml into the pack's folder.
func (p *pack) configure(t *testing.T) *config.Loaded {
	t.Helper()
	for _, section := range []string{"Frontend", "API", "GUI", "Monitoring", "Bus", "Gossip"} {
		p.ports[section] = freePort(t)
	}
	merge := map[string]any{
		"Frontend": map[string]any{"bind_address": "127.0.0.1", "bind_port": p.ports["Frontend"]},
		"API":      map[string]any{"bind_port": p.ports["API"]}, "GUI": map[string]any{"bind_port": p.ports["GUI"]},
		"Monitoring": map[string]any{"bind_port": p.ports["Monitoring"]},
		"Bus":        map[string]any{"bind_address": "127.0.0.1", "bind_port": p.ports["Bus"]},
		"Gossip":     map[string]any{"bind_address": "127.0.0.1", "bind_port": p.ports["Gossip"]},
		"Client":     map[string]any{"server_urls": []string{fmt.Sprintf("https://127.0.0.1:%d/", p.ports["Frontend"])}, "max_poll": 1},
	}
	text, err := json.Marshal(merge)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := config.Generate(config.GenerateOptions{Datastore: filepath.Join(p.dir, "store"), MergeJSON: string(text), Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(p.dir, "server.yaml")
	if err := config.WriteNew(name, raw); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Load(name, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "ca.pem"), []byte(loaded.Client.CACertificate), 0o600); err != nil {
		t.Fatal(err)
	}
	return loaded
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (p *pack) env(e *testscript.Env) error {
	e.Setenv("CLIENT", p.client)
	e.Setenv("SERVER_YAML", filepath.Join(p.dir, "server.yaml"))
	e.Setenv("CA_PEM", filepath.Join(p.dir, "ca.pem"))
	e.Setenv("SERVER_URL", fmt.Sprintf("https://127.0.0.1:%d", p.ports["GUI"]))
	e.Setenv("STORE", filepath.Join(p.dir, "store"))
	return nil
}

// scripts are the words that our scripts have beside testscript's own.
var scripts = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// exits CODE COMMAND...: the command ends with that exit code.
	"exits": func(ts *testscript.TestScript, _ bool, args []string) {
		err := ts.Exec(args[1], args[2:]...)
		code := 0
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			code = ended.ExitCode()
		} else if err != nil {
			ts.Fatalf("%v", err)
		}
		if want, _ := strconv.Atoi(args[0]); code != want {
			ts.Fatalf("exit code %d, want %s\n%s\n%s", code, args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
	},
	// capture NAME REGEX [stderr]: the first group in the last output becomes a
	// variable.
	"capture": func(ts *testscript.TestScript, _ bool, args []string) {
		text := ts.ReadFile(append(args, "stdout")[2])
		m := regexp.MustCompile(args[1]).FindStringSubmatch(text)
		if m == nil {
			ts.Fatalf("%s does not occur in %s", args[1], text)
		}
		ts.Setenv(args[0], m[1])
	},
	// flip FILE: changes one byte in the middle.
	"flip": func(ts *testscript.TestScript, _ bool, args []string) {
		name := ts.MkAbs(args[0])
		data, err := os.ReadFile(name)
		ts.Check(err)
		data[len(data)/2] ^= 1
		ts.Check(os.WriteFile(name, data, 0o600))
	},
	// until REGEX COMMAND...: repeats the command until its output has it.
	"until": func(ts *testscript.TestScript, _ bool, args []string) {
		pattern := regexp.MustCompile(args[0])
		for end := time.Now().Add(20 * time.Second); ; {
			if err := ts.Exec(args[1], args[2:]...); err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
				return
			}
			if time.Now().After(end) {
				ts.Fatalf("%s does not come: %s", args[0], ts.ReadFile("stdout"))
			}
		}
	},
}

func TestScripts(t *testing.T) {
	p := startPack(t, slog.LevelError)
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Cmds: scripts, Setup: p.env, RequireExplicitExec: true, UpdateScripts: *update})
}

// standIn is a JSON door that answers as a test wants.
func standIn(t *testing.T, handler http.HandlerFunc) (*globals, *httptest.Server) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	name := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RAPTORPACK_API_KEY", "secret")
	return &globals{server: server.URL, ca: name, quiet: true}, server
}
