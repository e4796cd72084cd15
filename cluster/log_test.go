package cluster

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func testJournal(level slog.Level) (*journal, *bytes.Buffer) {
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))
	return &journal{logger: logger, troubles: newMetrics(nil, func() int { return 0 }).troubles, said: map[string]time.Time{}}, &out
}

func TestLinesOfTheLibraryAreJudged(t *testing.T) {
	for line, want := range map[string]string{
		"[DEBUG] memberlist: Stream connection from=10.0.0.1:5":                                                            `DEBUG msg=memberlist text="Stream connection from=10.0.0.1:5"`,
		"[INFO] memberlist: Suspect b-1 has failed, no acks received":                                                      `DEBUG msg=memberlist`,
		"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=10.0.0.1:5":             `ERROR msg="gossip under another key refused: its sender cannot join this pack" from=10.0.0.1 `,
		"[ERR] memberlist: failed to receive: encryption is configured but remote state is not encrypted from=[::1]:5":     `ERROR msg="gossip without a key refused: its sender cannot join this pack" from=::1 `,
		"[ERR] memberlist: Decrypt packet failed: unsupported encryption version 71 from=10.0.0.1:5":                       `WARN msg="bytes that are no gossip refused" from=10.0.0.1`,
		"[ERR] memberlist: Conflicting address for b-1. Mine: 10.0.0.1:1 Theirs: 10.0.0.2:1 Old state: 0":                  `ERROR msg="two processes gossip under one incarnation"`,
		"[WARN] memberlist: Refuting a suspect message (from: b-1)":                                                        `WARN msg="another node took this one for gone`,
		"[WARN] memberlist: Was able to connect to b-1 over TCP but UDP probes failed, network may be misconfigured":       `WARN msg="gossip arrives by TCP but not by UDP`,
		"[WARN] memberlist: Got ping for unexpected node 'b-1' from=10.0.0.1:5":                                            `DEBUG msg="gossip meant for an earlier run"`,
		"[ERR] memberlist: Failed to send gossip to 10.0.0.1:1: write udp4: network is unreachable":                        `DEBUG msg="gossip could not be sent"`,
		"[ERR] memberlist: Push/Pull with b-1 failed: dial tcp 10.0.0.1:1: connect: connection refused":                    `DEBUG msg="exchange with another node broke"`,
		"[ERR] memberlist: failed to receive: read tcp 10.0.0.1:1->10.0.0.2:5: i/o timeout from=10.0.0.2:5":                `DEBUG msg="gossip stream broke"`,
		"[WARN] memberlist: something new: with details":                                                                   `WARN msg="gossip trouble" from="" text="something new: with details"`,
		"Err: Could not set the deadline: use of closed network connection":                                                `WARN msg="gossip trouble"`,
		"[WARN] memberlist: handler queue full, dropping message (4) from=10.0.0.1:5":                                      `WARN msg="gossip arrives faster than it is taken`,
		"[ERR] memberlist: failed to receive: " + errTooLarge.Error() + " from=10.0.0.1:5":                                 `WARN msg="gossip stream cut off: it is too large"`,
		"[ERR] memberlist: failed to receive and remove the stream label header: cannot decode label; from=10.0.0.1:5":     `WARN msg="bytes that are no gossip refused"`,
		"[ERR] memberlist: Failed fallback TCP ping: timeout 500ms: read tcp 10.0.0.1:1->10.0.0.2:5: i/o timeout":          `DEBUG msg="another node does not answer by TCP"`,
		"[WARN] memberlist: Got ping for unexpected node b-1 from=10.0.0.1:5 and\nanother line\twith a tab":                `DEBUG msg="gossip meant for an earlier run"`,
		"[ERR] memberlist: failed to receive: remote node state is larger than limit (4294967295) from=10.0.0.1:5":         `WARN msg="bytes that are no gossip refused"`,
		"[ERR] memberlist: Failed to read remote state: number of nodes in header (-1) exceeds limit from=10.0.0.1:5 more": `DEBUG msg="gossip stream broke"`,
	} {
		j, out := testJournal(slog.LevelDebug)
		if n, err := j.Write([]byte(line + "\n")); n != len(line)+1 || err != nil {
			t.Errorf("%s: wrote %d, %v", line, n, err)
		}
		if got := out.String(); !strings.Contains(got, " level="+want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%s\nbecame %swant level=%s", line, got, want)
		}
	}
}

func TestOrdinaryEventsAreQuiet(t *testing.T) {
	j, out := testJournal(slog.LevelInfo)
	for _, line := range []string{
		"[DEBUG] memberlist: Initiating push/pull sync with:  10.0.0.1:1", "[INFO] memberlist: Marking b-1 as failed, suspect timeout reached (0 peer confirmations)",
		"[WARN] memberlist: Got ping for unexpected node 'b-1' from=10.0.0.1:5", "[ERR] memberlist: Push/Pull with b-1 failed: EOF",
	} {
		_, _ = j.Write([]byte(line)) // cannot fail
	}
	if out.Len() != 0 {
		t.Errorf("said:\n%s", out)
	}
}

func TestTroubleIsSaidOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, out := testJournal(slog.LevelInfo)
		say := func(host string, want int) {
			t.Helper()
			for range 3 {
				_, _ = fmt.Fprintf(j, "[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=%s:%d\n", host, 1024+out.Len())
			}
			if n := strings.Count(out.String(), "\n"); n != want {
				t.Fatalf("%d lines, want %d:\n%s", n, want, out)
			}
		}
		say("10.0.0.1", 1)
		say("10.0.0.2", 2)
		time.Sleep(sayAgain / 2)
		say("10.0.0.1", 2)
		time.Sleep(sayAgain / 2)
		say("10.0.0.1", 3)
	})
}

func TestStrangersCannotFillTheMemoryOfWhatWasSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, _ := testJournal(slog.LevelInfo)
		for i := range 2 * sayMost {
			if got, want := j.first(fmt.Sprint("host ", i)), i < sayMost; got != want {
				t.Fatalf("host %d is said: %v", i, got)
			}
		}
		if len(j.said) != sayMost {
			t.Errorf("%d are remembered", len(j.said))
		}
		time.Sleep(sayAgain)
		if !j.first("another") || len(j.said) != 1 {
			t.Errorf("after an hour %d are remembered", len(j.said))
		}
	})
}

func TestDeafJournalSaysNothing(t *testing.T) {
	j, out := testJournal(slog.LevelDebug)
	j.deaf.Store(true)
	for _, line := range []string{"[DEBUG] memberlist: a", "[ERR] memberlist: b", "[WARN] memberlist: Refuting a dead message (from: b)"} {
		_, _ = j.Write([]byte(line)) // cannot fail
	}
	if out.Len() != 0 {
		t.Errorf("said:\n%s", out)
	}
}
