package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"raptorpack/wire"
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
	s.moveOn(s.address(), fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}))
	want("a server that is away", "wss://one/")
	s.moveOn(s.address(), broken)
	want("a socket that broke", "https://one/")
	s.moveOn(s.address(), broken)
	want("a post that broke too", "wss://one/")
	s.moveOn(s.address(), broken)
	s.answered(s.address())
	want("a post that is answered where a socket broke", "https://one/")
}

// A machine without power lets each connection wait: other addresses come first.
func TestServerThatIsAwayIsTriedOnce(t *testing.T) {
	d := testDeployment()
	server, err := wire.CheckServer(d.certificate, wire.Trust{CA: d.ca})
	if err != nil {
		t.Fatal(err)
	}
	session, err := wire.NewSession(wire.SessionOptions{Key: d.clients[0].Key, Server: server, Nonce: testNonce})
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"https://one/", "wss://one/"} {
		dialled := 0
		transport, err := wire.NewTransport(wire.TransportOptions{
			TLS: wire.TLSOptions{CA: d.ca}, Proxy: wire.ProxyOptions{IgnoreEnvironment: true},
			Dial: func(context.Context, string, string) (net.Conn, error) {
				dialled++
				return nil, &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		c := channel{
			comms: &comms{options: &Options{Transport: transport}, nanny: newNanny(0, 0), logger: slog.New(slog.DiscardHandler)},
			path:  wire.PathControl,
		}
		if _, err := c.try(t.Context(), peer{session: session, url: url}, false, nil); !unreached(err) || dialled != 1 {
			t.Errorf("%s: %d tries, %v", url, dialled, err)
		}
	}
}

// One of the two loops may learn late that a server is gone which both have left.
func TestLostContactIsToldOnce(t *testing.T) {
	o := &Options{ServerURLs: []string{"http://one/", "http://two/"}, MaxPoll: time.Second, Metrics: NewMetrics(nil)}
	var log bytes.Buffer
	c := channel{comms: &comms{options: o, servers: newServers(o, nil, nil), logger: slog.New(slog.NewTextHandler(&log, nil))}}
	gone := c.servers.address()
	trouble := func() {
		t.Helper()
		if _, err := c.trouble(t.Context(), gone, errors.New("no answer")); err != nil {
			t.Fatal(err)
		}
	}
	trouble()
	c.up(c.servers.address())
	trouble()
	if told := log.String(); strings.Count(told, "lost contact") != 1 || strings.Count(told, "is back") != 1 {
		t.Errorf("told:\n%s", told)
	}
}
