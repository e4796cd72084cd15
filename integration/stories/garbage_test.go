package stories_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/config"
)

// plainClient is an HTTP client without a certificate that trusts any server.
func (p *pack) plainClient() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
}

// speak writes bytes to a port and reads until the other side closes, at most a
// little; what comes back is of no interest.
func speak(t *testing.T, address string, overTLS bool, junk []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Errorf("nobody listens at %s: %v", address, err)
		return
	}
	defer conn.Close()
	if overTLS {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	}
	conn.SetDeadline(time.Now().Add(300 * time.Millisecond)) // errors show below
	if _, err := conn.Write(junk); err == nil {
		io.Copy(io.Discard, io.LimitReader(conn, 1<<20)) // ends by close or deadline
	}
}

func clientHello(t *testing.T) []byte {
	t.Helper()
	var hello bytes.Buffer
	near, far := net.Pipe()
	go func() {
		io.CopyN(&hello, far, 200) // the beginning will do
		far.Close()
	}()
	tls.Client(near, &tls.Config{InsecureSkipVerify: true}).Handshake() // fails: there is nobody
	near.Close()
	return append([]byte{0x16, 0x03, 0x01, 0x02, 0x00}, hello.Bytes()...)
}

func TestGarbageOnEveryPort(t *testing.T) {
	t.Parallel()
	for name, plain := range map[string]bool{"TLS": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, options{edit: func(file *config.Loaded) {
				file.Frontend.UsePlainHTTP, file.GUI.UsePlainHTTP = plain, plain
			}})
			throwGarbage(t, p)
			for _, path := range []string{"/healthz", "/metrics", "/debug/pprof/"} {
				if code, text := p.monitoring(path); code != http.StatusOK {
					t.Errorf("%s: %d %.100s", path, code, text)
				}
			}
			p.waitReady()
			if plain {
				return // an operator's certificate needs TLS
			}
			p.agent(0).collect(500).complete()
		})
	}
}

func throwGarbage(t *testing.T, p *pack) {
	t.Helper()
	noise := make([]byte, 64<<10)
	rand.Read(noise)
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	junk := map[string][]byte{
		"random":            noise,
		"nothing":           {},
		"zeros":             make([]byte, 64<<10),
		"client hello":      clientHello(t),
		"preface":           []byte(preface),
		"preface and noise": append([]byte(preface), noise...),
		"huge frame":        append([]byte(preface), 0xff, 0xff, 0xff, 0x04, 0x00, 0xff, 0xff, 0xff, 0xff),
		"huge header":       []byte("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n"),
		"many headers":      []byte("GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 100_000) + "\r\n"),
		"long line":         []byte("GET /" + strings.Repeat("a/../", 100_000) + " HTTP/1.1\r\nHost: x\r\n\r\n"),
		"bad length":        []byte("POST /control HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"),
		"two lengths":       []byte("POST /control HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
		"huge length":       []byte("POST /control HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\nabc"),
		"odd upgrade":       []byte("GET /control HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
		"body":              append([]byte("POST /control HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n"), noise...),
	}
	var speakers sync.WaitGroup
	for _, address := range p.ports() {
		for _, bytes := range junk {
			for _, overTLS := range []bool{false, true} {
				speakers.Go(func() { speak(t, address, overTLS, bytes) })
			}
		}
	}
	speakers.Wait()
}

func (p *pack) ports() map[string]string {
	return map[string]string{
		"frontend": p.node.FrontendAddress(), "operators": p.node.OperatorsAddress(),
		"programs": p.node.ProgramsAddress(), "monitoring": p.node.MonitoringAddress(),
	}
}

// Half-open connections are those of which the other side is gone or sleeps. They
// cost a descriptor each until a timeout closes them, and keep nobody else out.
func TestHalfOpenConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	a := p.agent(0)
	var monitoring net.Conn
	for name, address := range p.ports() {
		for i := range 100 {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatalf("%s, connection %d: %v", name, i, err)
			}
			defer conn.Close()
			if i%2 == 0 {
				conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost:")) // and then silence
			}
			if name == "monitoring" && i == 0 {
				monitoring = conn
			}
		}
	}
	a.collect(1000).complete()
	if err := p.label(a.id, "served"); err != nil {
		t.Error(err)
	}
	p.waitReady()
	// The shortest of the timeouts is seen to strike; the others are longer than a
	// test may last.
	monitoring.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, monitoring); err != nil {
		t.Errorf("a half-open connection was not closed: %v", err)
	}
	t.Log(strconv.Itoa(len(p.ports())) + " ports served beside half-open connections")
}
