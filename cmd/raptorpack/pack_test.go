package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/spf13/cobra"

	"raptorpack/cmd/node"
	"raptorpack/internal/testkit"
)

const (
	n1 = `{"node":"n1","incarnation":"n1-4","version":"1","role":"minion","ready":"","epoch":7,"index":90,"lag":10,"ageMs":1500,` +
		`"connected":3,"clients":9,"outbox":2,"cpu":0.251,"memoryBytes":1048576,"draining":false,"self":true}`
	n2 = `{"node":"n2","incarnation":"n2-1","version":"1","role":"master","ready":"the disk\u001b[2J is full","epoch":7,"index":100,"lag":0,` +
		`"ageMs":-1,"connected":0,"clients":9,"outbox":0,"cpu":0,"memoryBytes":0,"draining":true,"self":false}`
)

func packOf(nodes ...string) string { return `{"items":[` + strings.Join(nodes, ",") + `]}` }

// packShown runs pack status against an answer.
func packShown(t *testing.T, format, answer string) (out, errs string) {
	t.Helper()
	g, _ := standIn(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/api/v1/pack" {
			t.Errorf("asked for %s", q.URL.Path)
		}
		fmt.Fprint(w, answer)
	})
	g.format, g.quiet = format, false
	c := newPackStatus(g)
	var stdout, stderr bytes.Buffer
	c.SetOut(&stdout)
	c.SetErr(&stderr)
	c.SetArgs(nil)
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String()
}

func TestPackStatusIsATableForPeopleAndRowsForScripts(t *testing.T) {
	table, errs := packShown(t, "table", packOf(n1, n2))
	want := "NODE  ROLE    EPOCH  INDEX  LAG  AGE   CLIENTS  CONNECTED  OUTBOX  CPU  MEM      STATE\n" +
		"n1 *  minion  7      90     10   1.5s  9        3          2       25%  1.0 MiB  ready\n" +
		"n2    master  7      100    0    -     9        0          0       0%   0 B      the disk\\x1b[2J is full\n"
	if table != want || errs != "" {
		t.Errorf("got\n%s%s\nwant\n%s", table, errs, want)
	}
	if rows, _ := packShown(t, "jsonl", packOf(n1, n2)); rows != n1+"\n"+n2+"\n" {
		t.Errorf("rows\n%s", rows)
	}
	if _, errs := packShown(t, "jsonl", packOf(n1)); !strings.Contains(errs, "no node that is heard leads") {
		t.Errorf("without a master: %q", errs)
	}
}

// watched runs a watch against answers, one for each second, and then interrupts
// it. An empty answer is a server that is not there, one of digits a refusal.
func watched(t *testing.T, format string, terminal bool, answers ...string) (out, notes string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		asked := 0
		var printed, noted strings.Builder
		note := func(format string, args ...any) { fmt.Fprintf(&noted, format+"\n", args...) }
		r := &remote{door: &door{url: "http://x"}, note: note, http: &http.Client{Transport: transport(func(q *http.Request) (*http.Response, error) {
			if asked++; asked > len(answers) {
				interrupt()
				return nil, q.Context().Err()
			}
			answer := answers[asked-1]
			status := 200
			switch {
			case answer == "":
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			case answer == "hangs":
				<-q.Context().Done()
				return nil, q.Context().Err()
			case len(answer) == 3:
				fmt.Sscan(answer, &status)
			}
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer))}, nil
		})}}
		g, c := &globals{format: format}, &cobra.Command{}
		c.SetOut(&printed)
		w := &packWatch{printer: func() (*printer, error) {
			p, err := g.packPrinter(c)
			p.terminal = terminal
			return p, err
		}}
		err = w.run(ctx, r)
		interrupt()
		out, notes = printed.String(), noted.String()
	})
	return out, notes, err
}

func TestAWatchPrintsWhatChanges(t *testing.T) {
	older := strings.Replace(n1, `"ageMs":1500,`, `"ageMs":2500,`, 1)
	further := strings.Replace(n1, `"index":90,"lag":10`, `"index":95,"lag":5`, 1)
	answers := []string{packOf(n1, n2), packOf(older, n2), packOf(further, n2), packOf(further, n2), packOf(n2)}
	for _, c := range []struct {
		format   string
		terminal bool
		tables   int
		mark     string // begins each
	}{
		{"table", false, 3, "NODE "},
		{"jsonl", false, 3, n2},
		{"jsonl", true, 3, n2},
		{"table", true, 5, "\x1b[H\x1b[JNODE "},
	} {
		out, _, err := watched(t, c.format, c.terminal, answers...)
		if got := strings.Count(out, c.mark); err != nil || got != c.tables {
			t.Errorf("%s, terminal %t: %v, %d tables, want %d:\n%s", c.format, c.terminal, err, got, c.tables, out)
		}
	}
}

func TestAWatchOutlivesItsServer(t *testing.T) {
	out, notes, err := watched(t, "table", false, packOf(n1, n2), "", "503", "hangs", packOf(n1, n2), packOf(n2))
	if err != nil || strings.Count(out, "NODE ") != 2 {
		t.Errorf("%v:\n%s", err, out)
	}
	if strings.Count(notes, "going on to ask") != 1 || strings.Count(notes, "answers again") != 1 {
		t.Errorf("notes:\n%s", notes)
	}
}

func TestAWatchEndsWhenThereIsNoPoint(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []string
		exit    int
	}{
		{"not there", []string{""}, exitUnreachable},
		{"does not answer", []string{"hangs"}, exitUnreachable},
		{"denied", []string{"401"}, exitForbidden},
		{"denied later", []string{packOf(n2), "403"}, exitForbidden},
		{"gone for long", append([]string{packOf(n2)}, make([]string, 1000)...), exitUnreachable},
	} {
		if _, _, err := watched(t, "jsonl", false, c.answers...); err == nil || exitCode(t.Context(), err) != c.exit {
			t.Errorf("%s: %v, want exit code %d", c.name, err, c.exit)
		}
	}
}

func TestADrainNamesTheRunThatItMeans(t *testing.T) {
	for _, c := range []struct{ node, asked string }{
		{"n2", "/api/v1/pack/nodes/n2/drain?incarnation=n2-1"},
		{"n3", "/api/v1/pack/nodes/n3/drain"}, // not heard here: the server says so
	} {
		asked := ""
		g, _ := standIn(t, func(w http.ResponseWriter, q *http.Request) {
			if q.Method == http.MethodGet {
				fmt.Fprint(w, packOf(n1, n2))
				return
			}
			asked = q.URL.RequestURI()
			fmt.Fprint(w, `{}`)
		})
		if got := exitOf(t, newPackDrain(g), c.node); got != 0 || asked != c.asked {
			t.Errorf("exit code %d, asked %s, want %s", got, asked, c.asked)
		}
	}
}

func TestADrainedNodeEnds(t *testing.T) {
	p := &pack{dir: t.TempDir(), ports: map[string]int{}}
	n, err := node.New(t.Context(), node.Options{Config: p.configure(t), Master: true, Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1) // one value
	go func() { ended <- n.Run(t.Context()) }()
	testkit.Eventually(t, "the node is ready", func() (any, bool) { err := n.Ready(); return err, err == nil })
	g := &globals{config: filepath.Join(p.dir, "server.yaml"), quiet: true}
	if err := g.withRemote(command(t), func(ctx context.Context, r *remote) error { return r.drain(ctx, n.Status().Node) }); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
