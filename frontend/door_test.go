package frontend_test

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"raptorpack/frontend"
	"raptorpack/wire/wiretest"
)

func TestHTTP2IsSpokenOverTLS(t *testing.T) {
	n := launch(t, true, nil)
	conn, err := tls.Dial("tcp", n.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Errorf("negotiated %q", p)
	}
	if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("version %x", v)
	}
	if old, err := tls.Dial("tcp", n.address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		old.Close()
		t.Error("TLS 1.2 was let in")
	}
}

func TestHealth(t *testing.T) {
	var mu sync.Mutex
	trouble := errors.New("store does not answer")
	n := launch(t, false, func(o *frontend.Options) {
		o.BasePath = "/velo"
		o.Ready = func() error {
			mu.Lock()
			defer mu.Unlock()
			return trouble
		}
	})
	get := func(path string) (int, string) {
		response, err := http.Get("http://" + n.address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	if code, text := get("/velo/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "store") {
		t.Errorf("not ready: %d %q", code, text)
	}
	mu.Lock()
	trouble = nil
	mu.Unlock()
	if code, _ := get("/velo/healthz"); code != http.StatusOK {
		t.Errorf("ready: %d", code)
	}
	if code, text := get("/velo/server.pem"); code != http.StatusOK || text != string(n.Server) {
		t.Errorf("server.pem below the base path: %d", code)
	}
	if code, _ := get("/healthz"); code != http.StatusNotFound {
		t.Errorf("outside the base path: %d", code)
	}
	if code, _ := get("/velo/control"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET control: %d", code)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestAddressBehindProxies(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16")}
	for name, c := range map[string]struct {
		header  string
		trusted []netip.Prefix
		want    string
	}{
		"one proxy":          {"203.0.113.9", trusted, "203.0.113.9"},
		"two proxies":        {"203.0.113.9, 10.1.2.3", trusted, "203.0.113.9"},
		"claim of a client":  {"1.2.3.4, 203.0.113.9, 10.1.2.3", trusted, "203.0.113.9"},
		"no address":         {"unknown", trusted, "127.0.0.1"},
		"untrusted proxy":    {"203.0.113.9", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "127.0.0.1"},
		"nobody is listed":   {"203.0.113.9", nil, "203.0.113.9"},
		"nearest is claimed": {"1.2.3.4, 203.0.113.9", nil, "203.0.113.9"},
	} {
		n := launch(t, false, func(o *frontend.Options) { o.ProxyHeader, o.TrustedProxies = "X-Forwarded-For", c.trusted })
		a := n.known(t, "http", 0)
		n.rawPost(t, "control", a.seal(rows("F.1", "")), func(r *http.Request) { r.Header.Set("X-Forwarded-For", c.header) })
		n.sightings.mu.Lock()
		if got := n.sightings.seen[a.id]; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		n.sightings.mu.Unlock()
	}
}

func TestProxyProtocolTellsTheAddress(t *testing.T) {
	l, err := frontend.Listen(t.Context(), frontend.ListenOptions{Address: "127.0.0.1:0", ProxyProtocol: true})
	if err != nil {
		t.Fatal(err)
	}
	n := launch(t, false, func(o *frontend.Options) { o.Listener.Close(); o.Listener = l })
	n.address = l.Addr().String()
	s := n.Session(t, wiretest.ClientKey(t, 0))
	client := n.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	body, err := s.SealMessages(rows("F.1", ""))
	if err != nil {
		t.Fatal(err)
	}
	conn := dialRaw(t, n.address)
	io.WriteString(conn, "PROXY TCP4 203.0.113.7 127.0.0.1 4711 8000\r\nPOST /control HTTP/1.1\r\nHost: x\r\nContent-Length: "+
		itoa(len(body))+"\r\n\r\n"+string(body))
	answer := make([]byte, 256)
	if read, err := conn.Read(answer); err != nil || !strings.HasPrefix(string(answer[:read]), "HTTP/1.1 200") {
		t.Fatalf("%q, %v", answer[:read], err)
	}
	n.sightings.mu.Lock()
	defer n.sightings.mu.Unlock()
	if n.sightings.seen[client] != "203.0.113.7" {
		t.Errorf("seen at %q", n.sightings.seen[client])
	}
}

func TestDoorShedsConnections(t *testing.T) {
	var told lockedBuffer
	l, err := frontend.Listen(t.Context(), frontend.ListenOptions{Address: "127.0.0.1:0", PerSecond: -1, MaxConnections: 1, Logger: slog.New(slog.NewTextHandler(&told, nil))})
	if err != nil {
		t.Fatal(err)
	}
	launch(t, false, func(o *frontend.Options) { o.Listener.Close(); o.Listener = l })
	first := dialRaw(t, l.Addr().String())
	io.WriteString(first, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := first.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	second := dialRaw(t, l.Addr().String())
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("a connection over the limit was served")
	}
	third := dialRaw(t, l.Addr().String())
	third.Read(make([]byte, 1)) // until it is shed, too
	if n := strings.Count(told.String(), "too many are open"); n != 1 {
		t.Errorf("told %d times: %s", n, told.String())
	}
}

func TestCertificateIsExchangedWhileServing(t *testing.T) {
	d := wiretest.NewDeployment(t)
	pair := &frontend.Certificate{}
	config, err := frontend.TLSConfig(frontend.TLSOptions{Certificate: pair, AllowWeak: true})
	if err != nil {
		t.Fatal(err)
	}
	if config.MinVersion != tls.VersionTLS12 {
		t.Errorf("weak servers allowed, least version %x", config.MinVersion)
	}
	n := launch(t, false, func(o *frontend.Options) { o.TLS = config })
	served := func() string {
		conn, err := tls.Dial("tcp", n.address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return ""
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	if got := served(); got != "" {
		t.Errorf("served %s before a certificate was set", got)
	}
	for _, serial := range []int64{71, 72} {
		template := wiretest.ServerTemplate()
		template.SerialNumber = big.NewInt(serial)
		if err := pair.Set(d.Certificate(t, template, &d.Key.PublicKey), wiretest.PrivatePEM(d.Key)); err != nil {
			t.Fatal(err)
		}
		if got := served(); got != itoa(int(serial)) {
			t.Errorf("serial %s, want %d", got, serial)
		}
	}
	if err := pair.Set([]byte("x"), []byte("y")); err == nil || served() != "72" {
		t.Error("a broken pair must leave the old one in place")
	}
}

func TestProxyProtocolOnlyFromTrustedProxies(t *testing.T) {
	l, err := frontend.Listen(t.Context(), frontend.ListenOptions{
		Address: "127.0.0.1:0", ProxyProtocol: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	launch(t, false, func(o *frontend.Options) { o.Listener.Close(); o.Listener = l })
	conn := dialRaw(t, l.Addr().String())
	io.WriteString(conn, "PROXY TCP4 203.0.113.7 127.0.0.1 4711 8000\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err == nil && strings.Contains(string(answer), "200 OK") {
		t.Errorf("a stranger told an address: %q", answer)
	}
}
