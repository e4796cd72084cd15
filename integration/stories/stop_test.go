package stories_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"raptorpack/cmd/node"
	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

func TestStopInTheMiddleDrainsAndTheNextStartGoesOn(t *testing.T) {
	t.Parallel()
	// Leases far longer than the test: a start that had to wait for one would show.
	p := launch(t, options{tune: func(u *node.Tuning) { u.LeaseTTL, u.IncarnationTTL = time.Hour, time.Hour }})
	a := p.agent(0)
	var held *filestoretest.Injection
	middle := a.atRow(1000, func() {
		held = p.fs.Inject(filestoretest.Fault{
			Op: filestoretest.Sync, Hang: true, Match: func(path string) bool { return strings.Contains(path, "/results/") },
		})
	})
	c := a.collect(someRows)
	<-middle
	wait(t, "a post to be on its way", func() (bool, string) { return held.Hanging() > 0, "" })
	told := a.rowsAcked()

	monitoring := p.node.MonitoringAddress()
	stopped := make(chan error, 1)
	go func() { stopped <- p.end() }()
	p.waitLog("node stops")
	wait(t, "/readyz to say draining", func() (bool, string) {
		answer, err := http.Get("http://" + monitoring + "/readyz")
		if err != nil {
			return false, err.Error()
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return answer.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text), "draining"), fmt.Sprint(string(text), err)
	})
	select {
	case err := <-stopped:
		t.Fatalf("the node has ended with a post under way: %v", err)
	default:
	}
	held.Lift()
	if err := <-stopped; err != nil {
		t.Fatalf("a stop is no failure: %v", err)
	}
	// The answer was written before the node ended; the agent may still be reading it.
	wait(t, "the post under way to be finished", func() (bool, string) { return a.rowsAcked() > told, "" })
	p.wantOrder("handing clients over", "clients handed over", "led no more, told to stop")

	p.start()
	c.complete()
	if code, text := p.ready(); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
}

// wantOrder checks that the log says these one after the other.
func (p *pack) wantOrder(texts ...string) {
	p.t.Helper()
	rest := p.log.tail(-1)
	for _, text := range texts {
		_, after, found := strings.Cut(rest, text)
		if !found {
			p.t.Errorf("the log does not say %q, or not in the order of %q", text, texts)
			return
		}
		rest = after
	}
}

func TestSecondNodeOfOneNameIsRefused(t *testing.T) {
	t.Parallel()
	p := launch(t, options{tune: func(u *node.Tuning) { u.IncarnationTTL = 10 * time.Second }})
	ports := p.file.Frontend.BindPort
	_, err := p.compose()
	if !errors.Is(err, filestore.ErrNodeRunning) {
		t.Fatalf("a second node of the same name: %v", err)
	}
	host, hostErr := os.Hostname()
	if hostErr != nil {
		t.Fatal(hostErr)
	}
	year := strconv.Itoa(time.Now().UTC().Year())
	if !hasAll(err.Error(), []string{"node story", "host " + host, "pid " + strconv.Itoa(os.Getpid()), "since " + year}) {
		t.Errorf("the error does not say who runs: %v", err)
	}
	// The first one has felt nothing.
	if p.file.Frontend.BindPort != ports {
		t.Error("ports changed")
	}
	p.waitReady()
	p.agent(0).collect(500).complete()
}

func TestRestartFromASnapshotIsTheSameState(t *testing.T) {
	t.Parallel()
	p := launch(t, options{tune: func(u *node.Tuning) { u.SnapshotEntries = 10 }})
	a := p.agent(0)
	a.waitInterrogated()
	c := a.collect(1000)
	c.complete()
	for i := range 40 {
		if err := p.label(a.id, "label-"+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	p.waitMetric(2, "raptorpack_replication_snapshots_total", "verified")
	for i := range 3 { // the tail: fewer than call for another snapshot
		if err := p.label(a.id, "tail-"+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	snapshot := p.metric("raptorpack_replication_snapshot_index")
	files, err := filepath.Glob(filepath.Join(p.store, "snapshots", "*", "clients.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("snapshots: %v, %v", files, err)
	}
	before := p.remembered(a)
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	p.start()
	if after := p.remembered(a); after != before {
		t.Errorf("state before:\n%s\nand after:\n%s", before, after)
	}
	if got := p.metric("raptorpack_replication_entries_total", "applied"); got > snapshot {
		t.Errorf("%v entries were applied after a snapshot of index %v: it was not used", got, snapshot)
	}
	a.waitOnline()
	if got := p.metric("raptorpack_frontend_enrolments_total"); got != 0 {
		t.Errorf("a known client had to enrol %v times", got)
	}
	c.complete()
	a.collect(500).complete()
}

// remembered is what the doors say that does not change by itself.
func (p *pack) remembered(a *endpoint) string {
	p.t.Helper()
	var client struct {
		Labels   []string          `json:"labels"`
		Metadata map[string]string `json:"metadata"`
		Hostname string            `json:"hostname"`
		OS       string            `json:"os"`
	}
	if err := p.get("/clients/"+a.id, &client); err != nil {
		p.t.Fatal(err)
	}
	var flows struct {
		Items []struct {
			Flow      string          `json:"flow_id"`
			State     string          `json:"state"`
			Rows      int64           `json:"rows"`
			CPU       *int64          `json:"cpu_ns"` // our agent tells it of every flow
			Artifacts json.RawMessage `json:"artifacts"`
		} `json:"items"`
	}
	if err := p.get("/clients/"+a.id+"/flows", &flows); err != nil {
		p.t.Fatal(err)
	}
	for _, f := range flows.Items {
		if f.CPU == nil || *f.CPU <= 0 {
			p.t.Errorf("flow %s tells no processor time", f.Flow)
		}
	}
	_, artifact, err := p.call(http.MethodGet, "/artifacts/"+numbersName, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := json.Marshal([]any{client, flows})
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text) + "\n" + string(artifact)
}
