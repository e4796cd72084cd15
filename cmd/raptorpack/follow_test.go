package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

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
