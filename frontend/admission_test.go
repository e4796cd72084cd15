package frontend_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"raptorpack/frontend"
)

// dawdle sends the head of a post and a part of its body, and returns when the
// server reads the body.
func (n *node) dawdle(t *testing.T, length string, part string) net.Conn {
	t.Helper()
	conn := dialRaw(t, n.address)
	fmt.Fprintf(conn, "POST /control HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n%s\r\n\r\n", length)
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("answer %q, %v", line, err)
	}
	io.WriteString(conn, part)
	return conn
}

func noise(n int) string {
	text := make([]byte, n)
	rand.Read(text)
	return strings.ToValidUTF8(string(text), "x")
}

// Whoever begins a body and does not go on holds nothing that others wait for.
func TestDawdlersHoldNothing(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) {
		o.SmallMemory, o.StrangerMemory, o.AdmissionWait = 256<<10, 4<<20, time.Millisecond
	})
	for range 32 {
		n.dawdle(t, "Content-Length: 2000", "x")
		n.dawdle(t, "Transfer-Encoding: chunked", "1\r\nx\r\n")
	}
	for range 4 {
		n.dawdle(t, "Content-Length: 3000000", strings.Repeat("x", 1500))
	}
	if code := n.known(t, "http", 0).post(rows("F.1", "")); code != http.StatusOK {
		t.Errorf("small post of another: %d", code)
	}
	if code := n.known(t, "http", 1).post(rows("F.1", noise(300_000))); code != http.StatusOK {
		t.Errorf("large first post of another: %d", code)
	}
}

// Strangers that send what they hold leave the half of known sessions alone.
func TestKnownSessionsHaveAShareOfTheirOwn(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.SmallMemory, o.AdmissionWait = 256<<10, time.Millisecond })
	a := n.known(t, "http", 0)
	if code := a.post(rows("F.0", "")); code != http.StatusOK {
		t.Fatalf("first post: %d", code)
	}
	for range 32 {
		n.dawdle(t, "Content-Length: 60000", strings.Repeat("x", 20_000))
	}
	if code := a.post(rows("F.1", "")); code != http.StatusOK {
		t.Errorf("post of a known session: %d", code)
	}
}

// One address gets half of what strangers have; the rest is for others.
func TestOneSourceLeavesRoomForOthers(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) {
		o.SmallMemory, o.AdmissionWait, o.ProxyHeader = 256<<10, time.Millisecond, "X-Real-IP"
	})
	for range 32 {
		n.dawdle(t, "X-Real-IP: 192.0.2.1\r\nContent-Length: 60000", strings.Repeat("x", 20_000))
	}
	a := n.known(t, "http", 0)
	if code := n.rawPost(t, "control", a.seal(rows("F.1", "")), func(r *http.Request) { r.Header.Set("X-Real-IP", "192.0.2.2") }); code != http.StatusOK {
		t.Errorf("post from another address: %d", code)
	}
}

// A source that nobody knows may not use up the private key; others go on, and so
// does the same one as soon as somebody there is known.
func TestNewSessionsOfStrangersAreRationed(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.ProxyHeader = "X-Real-IP" })
	a := n.known(t, "http", 0)
	from := func(address string, body []byte) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/control", bytes.NewReader(body))
		r.Header.Set("X-Real-IP", address)
		w := httptest.NewRecorder()
		n.frontend.Handler().ServeHTTP(w, r)
		return w.Code
	}
	refused := func() float64 { return n.metric(t, "raptorpack_frontend_shed_total", "busy") }
	eventually(t, "a flood is rationed", func() bool {
		from("192.0.2.1", []byte("x"))
		return refused() > 0
	}, func() any { return refused() })
	if code := from("192.0.2.2", a.seal(rows("F.1", ""))); code != http.StatusOK {
		t.Errorf("known client elsewhere: %d", code)
	}
	if code := from("192.0.2.1", a.seal(rows("F.1", ""))); code != http.StatusOK {
		t.Errorf("known session at the same address: %d", code)
	}
	before := refused()
	for range 300 {
		from("192.0.2.1", []byte("x"))
	}
	if refused() != before {
		t.Error("an address that is known by now is rationed")
	}
}
