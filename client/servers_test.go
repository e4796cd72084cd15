package client

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestOnlyBlockedSocketsAreLeftForPost(t *testing.T) {
	s := newServers(&Options{
		ServerURLs: []string{"https://one/"}, UpgradeHTTP: true, FallbackTime: time.Hour, MaxPoll: time.Second, Metrics: NewMetrics(nil),
	}, nil, nil)
	broken := errors.New("connection reset")
	want := func(after, url string) {
		t.Helper()
		if got := s.address().url; got != url {
			t.Errorf("after %s: %s, want %s", after, got, url)
		}
	}
	want("nothing", "wss://one/")
	s.moveOn(s.address(), fmt.Errorf("%w: status 503", errAnswer))
	want("a refusal that came over a socket", "wss://one/")
	s.moveOn(s.address(), broken)
	want("a socket that broke", "https://one/")
	s.moveOn(s.address(), broken)
	want("a post that broke too", "wss://one/")
	s.moveOn(s.address(), broken)
	s.answered(s.address())
	want("a post that is answered where a socket broke", "https://one/")
}
