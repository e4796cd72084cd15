package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
)

// exitOf runs a command by itself and returns its exit code.
func exitOf(t *testing.T, c *cobra.Command, args ...string) int {
	t.Helper()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	c.SetOut(&bytes.Buffer{})
	c.SetErr(&bytes.Buffer{})
	err := c.ExecuteContext(t.Context())
	if err == nil {
		return 0
	}
	return exitCode(t.Context(), err)
}

func TestLostRowsAndDamageMakeResultsPartial(t *testing.T) {
	const rows, damage = `"items":[{"n":1},{"n":2}]`, `"damage":[{"path":"clients/x/1.jsonl.gz","offset":64,"bytes":9,"kind":"%s"}]`
	for _, c := range []struct {
		name  string
		state string
		known int // rows that the record has
		page  string
		args  []string
		exit  int
	}{
		{"all there", "completed", 2, rows, nil, 0},
		{"a hole", "completed", 3, rows + `,"holes":[{"start":1,"end":2}]`, nil, exitPartly},
		{"fewer than the record says", "completed", 3, rows, nil, exitPartly},
		{"fewer, of a name", "completed", 3, rows, []string{"--name", "A.B"}, exitPartly},
		{"fewer were asked for", "completed", 3, rows, []string{"--limit", "2"}, 0},
		{"more are on their way", "running", 3, rows, nil, 0},
		{"wrong checksum", "running", 2, rows + "," + fmt.Sprintf(damage, "checksum"), nil, exitPartly},
		{"lost end", "completed", 2, rows + "," + fmt.Sprintf(damage, "lost"), nil, exitPartly},
		{"write under way", "running", 2, rows + "," + fmt.Sprintf(damage, "torn"), nil, 0},
		{"torn after the end", "completed", 2, rows + "," + fmt.Sprintf(damage, "torn"), nil, exitPartly},
		{"after the seal", "completed", 2, rows + "," + fmt.Sprintf(damage, "beyond_seal"), nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, _ := standIn(t, func(w http.ResponseWriter, q *http.Request) {
				if strings.HasSuffix(q.URL.Path, "/results") || strings.HasSuffix(q.URL.Path, "/logs") {
					fmt.Fprintf(w, `{"state":%q,%s}`, c.state, c.page)
					return
				}
				fmt.Fprintf(w, `{"flow_id":"F.1","state":%q,"results":[{"name":"A.B","rows":%d}]}`, c.state, c.known)
			})
			if got := exitOf(t, newResults(g), append([]string{"C.1", "F.1"}, c.args...)...); got != c.exit {
				t.Errorf("exit code %d, want %d", got, c.exit)
			}
			if !strings.Contains(c.page, "damage") {
				return
			}
			if got := exitOf(t, newFlowLogs(g), "C.1", "F.1"); got != c.exit {
				t.Errorf("logs: exit code %d, want %d", got, c.exit)
			}
		})
	}
}

// transport answers requests in memory.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// quietStream gives one record and then nothing, until it breaks off.
type quietStream struct {
	record io.Reader
	quiet  time.Duration
}

func (q *quietStream) Read(p []byte) (int, error) {
	n, err := q.record.Read(p)
	if err == io.EOF {
		time.Sleep(q.quiet)
	}
	return n, err
}

func (q *quietStream) Close() error { return nil }

func TestFollowingSurvivesARestartAfterAQuietTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := &remote{door: &door{url: "http://x"}, note: func(string, ...any) {}, http: &http.Client{Transport: transport(func(q *http.Request) (*http.Response, error) {
			asked++
			answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}}
			switch {
			case asked == 1:
				answer.Body = &quietStream{strings.NewReader("data: {\"state\":\"running\"}\n\n"), 10 * giveUpAfter}
			case asked < 6:
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			default:
				answer.Body = io.NopCloser(strings.NewReader("data: {\"state\":\"completed\"}\n\n"))
			}
			return answer, nil
		})}}
		record, err := r.watch(t.Context(), "/clients/C.1/flows/F.1", func(*flowView) {})
		if err != nil || record.State != "completed" {
			t.Errorf("%+v, %v", record, err)
		}
	})
}

func TestAnInterruptedStartSaysThatItMayHaveHappened(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	g, _ := standIn(t, func(_ http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		interrupt()
		<-q.Context().Done()
	})
	c := command(t)
	c.SetContext(ctx)
	err := (&follower{g: g}).start(c, "C.1", "/clients/C.1/flows", map[string]string{})
	var coded *exitError
	if !errors.As(err, &coded) || coded.code != exitInterrupted || !strings.Contains(err.Error(), "may have been started") {
		t.Errorf("%v", err)
	}
}
