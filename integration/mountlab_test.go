package integration_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"raptorpack/config"
	"raptorpack/integration"
)

// mounts are views of one store on the faulty filesystem, a node's each.
type mounts struct {
	t     *testing.T
	dir   string
	names []string
}

// mountStores mounts the store several times. Where that cannot be done the test is
// skipped, as newLab does.
func mountStores(t *testing.T, names ...string) *mounts {
	t.Helper()
	m := &mounts{t: t, dir: t.TempDir(), names: names}
	// Cached and written back as an NFS client does it.
	flags := []string{"--", "-write-back", "20s", "-attr-timeout", "1s", "-entry-timeout", "1s", "-negative-timeout", "1s"}
	if out, err := m.run("up", append(slices.Clone(names), flags...)...); err != nil {
		var exit *exec.ExitError
		impossible := errors.As(err, &exit) && exit.ExitCode() == 77
		if impossible && os.Getenv("RAPTORPACK_LABS") != "required" {
			t.Skipf("no lab on this machine: %s", out)
		}
		t.Fatalf("lab: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := m.run("down"); err != nil {
			t.Errorf("lab: %v\n%s", err, out)
		}
	})
	return m
}

func (m *mounts) run(command string, args ...string) (string, error) {
	script, err := filepath.Abs("lab/slowfs/slowfs.sh")
	if err != nil {
		return "", err
	}
	out, err := exec.Command(script, append([]string{command, m.dir}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *mounts) control(name string, command ...string) {
	m.t.Helper()
	if out, err := m.run("ctl", append([]string{name}, command...)...); err != nil {
		m.t.Fatalf("lab: %v\n%s", err, out)
	}
}

func (m *mounts) store(name string) string { return filepath.Join(m.dir, name, "pack") }

// launchOn makes a pack whose nodes see the store through a mount of their own.
func launchOn(t *testing.T, m *mounts, o integration.Options) *integration.Pack {
	t.Helper()
	if err := os.Mkdir(m.store(m.names[0]), 0o750); err != nil {
		t.Fatal(err)
	}
	o.Store = m.store(m.names[0])
	pack := integration.Launch(t, o)
	sections := "\nNodes:\n"
	for i, n := range pack.Nodes() {
		sections += fmt.Sprintf("  %s:\n    Datastore:\n      location: %q\n      filestore_directory: %[2]q\n", n.Name, m.store(m.names[i]))
	}
	file, err := os.OpenFile(pack.ConfigFile(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(sections); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return pack
}

// watched is a node with what it says on its monitoring port and to operators.
type watched struct {
	*integration.Node
	t        *testing.T
	file     *config.Loaded
	operator *http.Client
}

func watch(t *testing.T, pack *integration.Pack, i int) *watched {
	t.Helper()
	w := &watched{Node: pack.Nodes()[i], t: t}
	var err error
	if w.file, err = config.Load(pack.ConfigFile(), config.Options{PortOffset: i * 10}); err != nil {
		t.Fatal(err)
	}
	pair, err := w.file.LocalCaller("integration", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(w.file.Client.CACertificate))
	w.operator = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: w.file.Client.PinnedServerName, Certificates: []tls.Certificate{certificate},
	}}}
	t.Cleanup(w.operator.CloseIdleConnections)
	return w
}

// read reads from the JSON door.
func (w *watched) read(path string) error {
	answer, err := w.operator.Get("https://127.0.0.1:" + strconv.Itoa(w.file.GUI.BindPort) + "/api/v1" + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return err
}

// metric sums the series of a metric that have all of these texts.
func (w *watched) metric(name string, labels ...string) (sum float64) {
	w.t.Helper()
	answer, err := http.Get("http://127.0.0.1:" + strconv.Itoa(w.file.Monitoring.BindPort) + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		base, rest, _ := strings.Cut(series, "{")
		if base != name || slices.ContainsFunc(labels, func(label string) bool { return !strings.Contains(rest, label) }) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			w.t.Fatalf("metric %s: %v", line, err)
		}
		sum += number
	}
	return sum
}

// present are the agents whose connection for work is open.
func (w *watched) present() int {
	return int(w.metric("raptorpack_frontend_connections", `"reader_socket"`))
}

// accepted are the sockets that the node ever took.
func (w *watched) accepted() float64 { return w.metric("raptorpack_frontend_accepts_total", `"taken"`) }

// putOff are the posts that the node answered with "later". Such an answer is the
// last one of its socket, as the protocol has it.
func (w *watched) putOff() float64 {
	return w.metric("raptorpack_frontend_answers_total", `"control"`, `"503"`)
}
