package stories_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"raptorpack/cmd/node"
	"raptorpack/config"
	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
)

// Gossip's own probe of a node that died may be under way for a moment more.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// deployment is made once: its keys are dear, and no story depends on fresh ones.
var deployment = sync.OnceValues(func() ([]byte, error) {
	// Clear names of results: the agents' histories speak of them to the checker.
	return config.Generate(config.GenerateOptions{Now: time.Now(), MergeJSON: `{
		"Frontend": {"bind_address": "127.0.0.1", "hostname": "localhost", "do_not_compress_artifacts": true, "default_client_monitoring_artifacts": [],
			"resources": {"connections_per_second": 10000}},
		"Client": {"max_poll": 2, "max_poll_std": 1},
		"Bus": {"bind_address": "127.0.0.1"}, "Gossip": {"bind_address": "127.0.0.1"},
		"Pack": {"reserve_bytes": 1048576}
	}`})
})

// options of a pack; the zero value is a node with short times.
type options struct {
	edit func(*config.Loaded) // the server file, before the node sees it
	tune func(*node.Tuning)
}

// pack is a node in this process and what is needed to talk to it.
type pack struct {
	t     *testing.T
	store string // folder of the filestore
	file  *config.Loaded
	fs    *filestoretest.Faulty
	tune  node.Tuning
	log   *record
	http  *http.Client // of an operator with all rights

	node *node.Node
	stop func() error // SIGTERM: returns what Run said
}

// prepare makes a deployment of which nothing runs yet.
func prepare(t *testing.T, o options) *pack {
	t.Helper()
	text, err := deployment()
	if err != nil {
		t.Fatal(err)
	}
	file, err := config.Parse("server.yaml", text, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &pack{t: t, store: filepath.Join(t.TempDir(), "store"), file: file, log: &record{}}
	if err := os.Mkdir(p.store, 0o750); err != nil {
		t.Fatal(err)
	}
	file.Datastore.FilestoreDirectory = p.store
	// Any free port the first time, the same one after a restart.
	file.Frontend.BindPort, file.API.BindPort, file.GUI.BindPort, file.Monitoring.BindPort = 0, 0, 0, 0
	file.Bus.BindPort, file.Gossip.BindPort = 0, 0
	if o.edit != nil {
		o.edit(file)
	}
	disk, err := filestore.OpenOS(p.store)
	if err != nil {
		t.Fatal(err)
	}
	p.fs = filestoretest.NewFaulty(disk)
	p.tune = node.Tuning{
		LeaseTTL: 2 * time.Second, Silence: 2 * time.Second, CommitWait: 5 * time.Second, RetryDelay: 20 * time.Millisecond,
		DrainWindow: time.Second, DiskEvery: 50 * time.Millisecond,
	}
	if o.tune != nil {
		o.tune(&p.tune)
	}
	p.http = p.operator()
	t.Cleanup(func() {
		p.fs.Clear()
		if err := p.end(); err != nil && !t.Failed() {
			t.Errorf("the node did not end well: %v", err)
		}
		p.http.CloseIdleConnections()
		disk.Close()
		if p.log.has("panic") {
			t.Error("something panicked")
		}
		if t.Failed() {
			t.Logf("log:\n%s", p.log.tail(12_000))
		}
	})
	return p
}

// launch starts a pack and returns when its node is ready.
func launch(t *testing.T, o options) *pack {
	t.Helper()
	p := prepare(t, o)
	p.start()
	return p
}

// compose makes the node, as the program does.
func (p *pack) compose() (*node.Node, error) {
	name, err := ids.ParseNode("story")
	if err != nil {
		p.t.Fatal(err)
	}
	return node.New(p.t.Context(), node.Options{
		Config: p.file, Name: name, Master: true, Version: "story", Logger: p.log.logger(), FS: p.fs, Tune: p.tune,
	})
}

// start runs the node and waits until it is ready.
func (p *pack) start() {
	p.t.Helper()
	n, err := p.compose()
	if err != nil {
		p.t.Fatalf("node did not start: %v", err)
	}
	p.run(n)
	p.waitReady()
}

func (p *pack) run(n *node.Node) {
	p.node = n
	p.file.Frontend.BindPort, p.file.API.BindPort = portOf(n.FrontendAddress()), portOf(n.ProgramsAddress())
	p.file.GUI.BindPort, p.file.Monitoring.BindPort = portOf(n.OperatorsAddress()), portOf(n.MonitoringAddress())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	p.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

// end stops the node if one runs.
func (p *pack) end() error {
	if p.stop == nil {
		return nil
	}
	stop := p.stop
	p.stop = nil
	return stop()
}

// restart is a clean stop and a start on the same store and ports.
func (p *pack) restart() {
	p.t.Helper()
	if err := p.end(); err != nil {
		p.t.Fatalf("stop: %v", err)
	}
	p.start()
}

func portOf(address string) int {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		panic(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return port
}

// ready asks /readyz.
func (p *pack) ready() (code int, text string) { return p.monitoring("/readyz") }

func (p *pack) monitoring(path string) (code int, text string) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + p.node.MonitoringAddress() + path)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, strings.TrimSpace(string(body))
}

func (p *pack) waitReady() {
	p.t.Helper()
	wait(p.t, "the node to be ready", func() (bool, string) {
		code, text := p.ready()
		return code == http.StatusOK, text
	})
}

// waitUnready waits until /readyz gives a reason with all of these texts in it.
func (p *pack) waitUnready(reason ...string) {
	p.t.Helper()
	wait(p.t, "/readyz to say "+strings.Join(reason, ", "), func() (bool, string) {
		code, text := p.ready()
		return code == http.StatusServiceUnavailable && hasAll(text, reason), fmt.Sprint(code, " ", text)
	})
}

// metric sums the series of a metric whose labels contain all of these texts, as
// /metrics shows them.
func (p *pack) metric(name string, labels ...string) float64 {
	p.t.Helper()
	code, text := p.monitoring("/metrics")
	if code != http.StatusOK {
		p.t.Fatalf("/metrics: %d %s", code, text)
	}
	sum := 0.0
	for line := range strings.Lines(text) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		base, rest, _ := strings.Cut(series, "{")
		if !ok || base != name || !hasAll(rest, labels) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			p.t.Fatalf("metric %s: %v", line, err)
		}
		sum += number
	}
	return sum
}

// waitMetric waits until a metric is at least that high.
func (p *pack) waitMetric(least float64, name string, labels ...string) {
	p.t.Helper()
	wait(p.t, fmt.Sprintf("%s%v of %v", name, labels, least), func() (bool, string) {
		got := p.metric(name, labels...)
		return got >= least, fmt.Sprint(got)
	})
}

// waitLog waits for a log line that has all of these texts.
func (p *pack) waitLog(texts ...string) {
	p.t.Helper()
	wait(p.t, "a log line with "+strings.Join(texts, ", "), func() (bool, string) {
		return p.log.has(texts...), p.log.tail(2000)
	})
}

// patience bounds waiting for conditions; only a broken build waits so long.
const patience = time.Minute

// wait waits for a condition and prints its last state when it gives up.
func wait(t *testing.T, what string, met func() (bool, string)) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		ok, last := met()
		if ok {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("waited %v for %s; last: %s", patience, what, last)
		}
	}
}

func hasAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// operator is an HTTP client with the rights of somebody on the server's host.
func (p *pack) operator() *http.Client {
	p.t.Helper()
	pair, err := localCaller()
	if err != nil {
		p.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(p.file.Client.CACertificate))
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: p.file.Client.PinnedServerName, Certificates: []tls.Certificate{pair},
	}}}
}

var localCaller = sync.OnceValues(func() (tls.Certificate, error) {
	text, err := deployment()
	if err != nil {
		return tls.Certificate{}, err
	}
	file, err := config.Parse("server.yaml", text, config.Options{})
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := file.LocalCaller("story", time.Now())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.PrivateKey))
})

// call sends a request to the JSON door and returns the answer as it is.
func (p *pack) call(method, path string, body any) (code int, text []byte, err error) {
	content, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequest(method, "https://"+p.node.OperatorsAddress()+"/api/v1"+path, bytes.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := p.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	return answer.StatusCode, text, err
}

var errAnswer = errors.New("not answered with 200")

// get reads one JSON answer.
func (p *pack) get(path string, into any) error { return p.ask(http.MethodGet, path, nil, into) }

func (p *pack) ask(method, path string, body, into any) error {
	code, text, err := p.call(method, path, body)
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s: %w", method, path, code, text, errAnswer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// label sets a label: the smallest change that has to go through the ledger.
func (p *pack) label(client, label string) error {
	return p.ask(http.MethodPost, "/clients/labels", map[string]any{"clients": []string{client}, "add": []string{label}}, nil)
}

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write implements io.Writer.
func (r *record) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(line)
}

// has reports whether one line has all of these texts.
func (r *record) has(texts ...string) bool {
	for line := range strings.Lines(r.tail(-1)) {
		if hasAll(line, texts) {
			return true
		}
	}
	return false
}

// tail returns the last bytes; less than zero: all.
func (r *record) tail(n int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.text.String()
	if n >= 0 && len(text) > n {
		text = text[len(text)-n:]
	}
	return text
}
