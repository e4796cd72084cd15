package frontend_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"raptorpack/frontend"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
)

func (c *collections) ended() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// A check-in that somebody caught and repeats neither takes the place of the
// client that waits, nor changes what is known of it.
func TestRepeatedCheckInsChangeNothing(t *testing.T) {
	for _, scheme := range []string{"http", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			n := launch(t, false, func(o *frontend.Options) { o.ProxyHeader, o.StrangerMemory = "X-Real-IP", -1 })
			a := n.known(t, scheme, 0)
			caught := a.seal(checkIn(7))
			got := make(chan int, 1)
			go func() {
				answer, err := a.reader.Exchange(t.Context(), wire.Request{Packet: caught})
				if err != nil {
					t.Error(err)
				}
				jobs, err := a.session.Open(t.Context(), answer.Body)
				if err != nil {
					t.Error(err)
				}
				got <- len(jobs)
			}()
			n.waiting(t, 1)
			eventually(t, "check-in taken", func() bool { return n.collections.kept("E.Foreman") == 1 }, func() any { return "" })

			from := func(r *http.Request) { r.Header.Set("X-Real-IP", "192.0.2.9") }
			if code := n.rawPost(t, "reader", caught, from); code != http.StatusOK {
				t.Errorf("repeated over HTTP: %d", code)
			}
			thief := n.known(t, "ws", 0)
			answer, err := thief.reader.Exchange(t.Context(), wire.Request{Packet: caught})
			if err != nil || answer.Code != http.StatusOK || string(answer.Body) != string(wire.Pad) {
				t.Errorf("repeated over a WebSocket: %+v, %v", answer, err)
			}
			if n.metric(t, "raptorpack_notifier_replaced_waiters_total") != 0 || n.collections.kept("E.Foreman") != 1 {
				t.Error("the reader was replaced, or the check-in was taken again")
			}
			n.sightings.mu.Lock()
			if at := n.sightings.seen[a.id]; at != "127.0.0.1" {
				t.Errorf("seen at %q", at)
			}
			n.sightings.mu.Unlock()
			if code := n.rawPost(t, "control", []byte(strings.Repeat("x", 100_000)), from); code != http.StatusServiceUnavailable {
				t.Errorf("large body from the address of the repeated packet: %d, want 503 as for all strangers", code)
			}
			n.collections.give(a.id, "F.1")
			if jobs := <-got; jobs != 1 {
				t.Errorf("the client got %d jobs", jobs)
			}
		})
	}
}

// A client that asked twice for its enrolment is no trouble once it is known.
func TestEnrolmentRequestsOfKnownClientsAreDropped(t *testing.T) {
	n := launch(t, false, nil)
	a := n.known(t, "http", 0)
	csr, err := wire.NewCSR(a.key)
	if err != nil {
		t.Fatal(err)
	}
	if code := a.post(wire.EnrolMessage(csr), rows("F.1", "")); code != http.StatusOK {
		t.Errorf("code %d", code)
	}
	n.collections.mu.Lock()
	defer n.collections.mu.Unlock()
	if len(n.collections.durable) != 1 || n.collections.durable[0].SessionId != "F.1" {
		t.Errorf("handed on: %v", n.collections.durable)
	}
}

// A mistake of ours ends one connection, is told, and keeps no memory.
func TestPanicsEndOneConnection(t *testing.T) {
	for _, scheme := range []string{"http", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			n := launch(t, false, func(o *frontend.Options) { o.SmallMemory, o.AdmissionWait = 256<<10, time.Millisecond })
			a := n.known(t, scheme, 0)
			n.collections.setCommit(func(context.Context, []*wirepb.VeloMessage) error { panic("a mistake") })
			const times = 20
			for range times {
				if answer, err := a.control.Exchange(t.Context(), wire.Request{Packet: a.seal(rows("F.1", ""))}); err == nil {
					t.Fatalf("answer %+v", answer)
				}
			}
			n.collections.setCommit(nil)
			if code := a.post(rows("F.1", "")); code != http.StatusOK {
				t.Errorf("post afterwards: %d", code)
			}
			if n.metric(t, "raptorpack_frontend_panics_total") != times || !strings.Contains(n.log.String(), "level=ERROR msg=\"panic while serving") {
				t.Error("not counted, or not told")
			}
		})
	}
}

// Whoever opens a WebSocket has to say who it is, however lively it is.
func TestSocketsOfStrangersDoNotStay(t *testing.T) {
	for _, path := range []string{"reader", "control", "server.pem"} {
		n := launch(t, false, func(o *frontend.Options) { o.PingWait = 400 * time.Millisecond })
		conn := dialRaw(t, n.address)
		io.WriteString(conn, "GET /"+path+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		go io.Copy(io.Discard, conn)
		// It pings for as long as it is let.
		eventually(t, "the server ends it", func() bool {
			_, err := io.WriteString(conn, "\x89\x80\x00\x00\x00\x00")
			return err != nil
		}, func() any { return path })
	}
}
