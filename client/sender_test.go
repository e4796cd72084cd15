package client

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"raptorpack/proto/wirepb"
)

// produce fills an agent's buffer before its start.
func produce(t *testing.T, o Options, texts []string) {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		put(t, c.buffer, "F.A", text)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// produced is what came of that.
func produced(s *testServer) (texts []string) {
	for _, m := range s.received() {
		if m.GetSessionId() == "F.A" {
			texts = append(texts, m.GetVqlResponse().GetJsonlResponse())
		}
	}
	return texts
}

func TestOnlyTheMessageThatIsRefusedIsDropped(t *testing.T) {
	s := newTestServer(t)
	refused := 0
	s.refuse = func(messages []*wirepb.VeloMessage) bool {
		for _, m := range messages {
			if m.GetVqlResponse().GetJsonlResponse() == "message 17" {
				refused++
				return true
			}
		}
		return false
	}
	o := testOptions(t, t.TempDir(), s.URL+"/")
	produce(t, o, numbered(0, 40))
	a := start(t, o)
	waitFor(t, "delivery", func() bool { return a.Pending() == 0 }, func() string {
		return fmt.Sprintf("%d messages came, %d pending", s.count(), a.Pending())
	})
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	equal(t, produced(s), append(numbered(0, 17), numbered(18, 40)...))
	if refused < 2*maxRefusals { // in company, and alone
		t.Fatalf("dropped after %d refusals", refused)
	}
}

func TestWayThatCarriesOnlySmallPostsIsFoundAndUsed(t *testing.T) {
	s := newTestServer(t)
	next := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/control" && r.ContentLength > 8<<10 {
			panic(http.ErrAbortHandler) // the connection breaks
		}
		next.ServeHTTP(w, r)
	})
	o := testOptions(t, t.TempDir(), s.URL+"/")
	o.DisableCompression = true
	texts := numbered(0, 200)
	for i := range texts {
		texts[i] += strings.Repeat(" text", 200)
	}
	produce(t, o, texts)
	a := start(t, o)
	waitFor(t, "delivery", func() bool { return a.Pending() == 0 }, func() string {
		return fmt.Sprintf("%d messages came, %d pending", s.count(), a.Pending())
	})
	equal(t, produced(s), texts)
}
