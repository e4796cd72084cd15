package client

import (
	"fmt"
	"testing"

	"raptorpack/proto/wirepb"
)

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
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range numbered(0, 40) {
		put(t, c.buffer, "F.A", text)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	a := start(t, o)
	waitFor(t, "delivery", func() bool { return a.Pending() == 0 }, func() string {
		return fmt.Sprintf("%d messages came, %d pending", s.count(), a.Pending())
	})
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.received() {
		if m.GetSessionId() == "F.A" {
			got = append(got, m.GetVqlResponse().GetJsonlResponse())
		}
	}
	equal(t, got, append(numbered(0, 17), numbered(18, 40)...))
	if refused < 2*maxRefusals { // in company, and alone
		t.Fatalf("dropped after %d refusals", refused)
	}
}
