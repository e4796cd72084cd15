package endpoint_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"raptorpack/vql/endpoint"
)

// cloud stands for all hosts of the internet: a proxy that leads every connection to
// one server, whose certificate the settings trust.
func cloud(t *testing.T, server *target) *endpoint.HTTPSettings {
	t.Helper()
	server.StartTLS()
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	lines := &lines{to: server.Listener.Addr().String()}
	proxy := httptest.NewServer(lines)
	t.Cleanup(func() {
		proxy.Close()
		server.CloseClientConnections()
		lines.close()
	})
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	settings := quick()
	settings.Proxy = http.ProxyURL(address)
	settings.TLS = func(*url.URL) *tls.Config {
		return &tls.Config{RootCAs: pool, ServerName: "example.com", MinVersion: tls.VersionTLS12}
	}
	return settings
}

// newCloud is a target that answers for every host.
func newCloud(t *testing.T, serve func(*target, http.ResponseWriter, *http.Request, []byte), faults ...func(http.ResponseWriter)) (*target, *endpoint.HTTPSettings) {
	t.Helper()
	s := &target{t: t, faults: faults}
	s.Server = httptest.NewUnstartedServer(s.handler(serve))
	return s, cloud(t, s)
}

// lines is a proxy that leads each connection to one server.
type lines struct {
	to string

	mu     sync.Mutex // a hijacked connection outlives its server's Close
	closed bool
	open   sync.WaitGroup
}

func (l *lines) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.open.Add(1)
	}
	return !l.closed
}

// close waits for the connections, which end with the server's.
func (l *lines) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.open.Wait()
}

func (l *lines) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect || !l.begin() {
		http.Error(w, "no", http.StatusMethodNotAllowed)
		return
	}
	defer l.open.Done()
	there, err := net.Dial("tcp", l.to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return // the client has gone
	}
	fmt.Fprint(here, "HTTP/1.1 200 OK\r\n\r\n")
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(here, there); _ = here.Close() }) // ends with the connection
	_, _ = io.Copy(there, here)
	_ = there.Close()
	back.Wait()
}
