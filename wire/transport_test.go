package wire_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/internal/testkit"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// serve runs a test server; with a certificate it speaks TLS and HTTP/2.
func serve(t *testing.T, handler http.HandlerFunc, certificate *tls.Certificate) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if certificate == nil {
		s.Start()
	} else {
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s
}

func transport(t *testing.T, o wire.TransportOptions) *wire.Transport {
	t.Helper()
	if o.ConnectionTimeout == 0 {
		o.ConnectionTimeout = 10 * time.Second
	}
	tr, err := wire.NewTransport(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return tr
}

func TestFurtherSocketsResumeTheSession(t *testing.T) {
	d := wiretest.NewDeployment(t)
	ours := d.TLS(t)
	resumed := make(chan bool, 3)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		resumed <- r.TLS.DidResume
		conn, err := wire.Upgrade(w, r, wire.ConnOptions{})
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for {
				message, err := conn.Next()
				if err != nil {
					return
				}
				if _, err := io.Copy(io.Discard, message); err != nil {
					return
				}
				if err := conn.Write(wire.Frame{Code: http.StatusOK}.Append(nil)); err != nil {
					return
				}
			}
		}()
	}, &ours)
	base := "wss" + strings.TrimPrefix(s.URL, "https") + "/"
	tr := transport(t, wire.TransportOptions{TLS: wire.TLSOptions{CA: d.CA, SelfSigned: true}, Proxy: wire.ProxyOptions{IgnoreEnvironment: true}})
	for n := range 3 {
		e, err := tr.Endpoint(base, wire.PathControl)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if _, err := e.Exchange(t.Context(), wire.Request{Packet: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if got := <-resumed; got != (n > 0) {
			t.Errorf("connection %d resumed: %t", n, got)
		}
	}
}

func TestTLSModes(t *testing.T) {
	d := wiretest.NewDeployment(t)
	stranger, public := foreign(t, "127.0.0.1")
	ours := d.TLS(t)
	apiTemplate := wiretest.ServerTemplate()
	apiTemplate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	block, _ := pem.Decode(d.Certificate(t, apiTemplate, &d.Key.PublicKey))
	api := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: d.Key}
	thumb := func(c tls.Certificate) string {
		sum := sha256.Sum256(c.Certificate[0])
		text := strings.ToUpper(hex.EncodeToString(sum[:]))
		return text[:2] + ":" + text[2:]
	}
	ca := wire.TLSOptions{CA: d.CA, SelfSigned: true}
	with := func(edit func(*wire.TLSOptions)) wire.TLSOptions {
		o := ca
		edit(&o)
		return o
	}
	cases := map[string]struct {
		certificate tls.Certificate
		options     wire.TLSOptions
		good        bool
	}{
		"deployment CA":                      {ours, ca, true},
		"deployment CA, any name":            {ours, wire.TLSOptions{CA: d.CA}, true},
		"API certificate":                    {api, ca, false},
		"foreign certificate":                {stranger, ca, false},
		"extra roots, host name":             {stranger, wire.TLSOptions{CA: d.CA, Roots: public}, true},
		"extra roots, pinned name":           {stranger, with(func(o *wire.TLSOptions) { o.Roots = public }), false},
		"thumbprint only, listed":            {stranger, with(func(o *wire.TLSOptions) { o.Mode, o.Thumbprints = wire.ModeThumbprintOnly, []string{thumb(stranger)} }), true},
		"thumbprint only, not listed":        {ours, with(func(o *wire.TLSOptions) { o.Mode, o.Thumbprints = wire.ModeThumbprintOnly, []string{thumb(stranger)} }), false},
		"PKI or thumbprint, listed":          {stranger, with(func(o *wire.TLSOptions) { o.Mode, o.Thumbprints = wire.ModePKIOrThumbprint, []string{thumb(stranger)} }), true},
		"PKI or thumbprint, by CA":           {ours, with(func(o *wire.TLSOptions) { o.Mode = wire.ModePKIOrThumbprint }), true},
		"PKI or thumbprint, neither":         {stranger, with(func(o *wire.TLSOptions) { o.Mode = wire.ModePKIOrThumbprint }), false},
		"PKI ignores a thumbprint in a list": {stranger, with(func(o *wire.TLSOptions) { o.Thumbprints = []string{thumb(stranger)} }), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(d.Server) }, &c.certificate)
			tr := transport(t, wire.TransportOptions{TLS: c.options, Proxy: wire.ProxyOptions{IgnoreEnvironment: true}})
			_, err := tr.ServerPEM(t.Context(), s.URL+"/")
			if (err == nil) != c.good {
				t.Errorf("https: %v", err)
			}
			if err != nil && !errors.Is(err, wire.ErrForged) {
				t.Errorf("https: %v is not ErrForged", err)
			}
		})
	}
	for name, o := range map[string]wire.TLSOptions{
		"mode":       {CA: d.CA, Mode: "NONE"},
		"thumbprint": {CA: d.CA, Thumbprints: []string{"abc"}},
		"no CA":      {},
		"roots":      {CA: d.CA, Roots: []byte("x")},
	} {
		if _, err := wire.NewTransport(wire.TransportOptions{TLS: o}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// foreign makes a certificate of another authority, and that authority.
func foreign(t *testing.T, address string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(9), IPAddresses: []net.IP{net.ParseIP(address)}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func plainOptions(d *wiretest.Deployment) wire.TransportOptions {
	return wire.TransportOptions{TLS: wire.TLSOptions{CA: d.CA, SelfSigned: true}, Proxy: wire.ProxyOptions{IgnoreEnvironment: true}}
}

func TestPostsLookLikeThoseOfAgents(t *testing.T) {
	d := wiretest.NewDeployment(t)
	certificate := d.TLS(t)
	var got atomic.Pointer[http.Request]
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "packet" {
			t.Errorf("body %q, %v", body, err)
		}
		got.Store(r)
		w.Header().Set("Location", "https://elsewhere/")
		w.WriteHeader(http.StatusMovedPermanently)
	}, &certificate)
	e, err := transport(t, plainOptions(d)).Endpoint(s.URL+"/base/", wire.PathControl)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := e.Exchange(t.Context(), wire.Request{Packet: []byte("packet"), Urgent: true, Redirected: true})
	if err != nil || answer.Code != http.StatusMovedPermanently || answer.Location != "https://elsewhere/" {
		t.Fatalf("%+v, %v; redirects are the agent's to follow", answer, err)
	}
	r := got.Load()
	if r.ProtoMajor != 2 || r.URL.Path != "/base/control" || r.URL.RawQuery != "r=1" || r.ContentLength != 6 {
		t.Errorf("%s %s, length %d", r.Proto, r.URL, r.ContentLength)
	}
	if r.Header.Get("X-Priority") != "urgent" || r.Header.Get("Content-Type") != "application/binary" || r.UserAgent() != "Velociraptor" {
		t.Errorf("headers %v", r.Header)
	}
}

func TestServerURLsAreChecked(t *testing.T) {
	for text, good := range map[string]bool{
		"https://host:8000/": true, "wss://host/base/": true, "http://host/": true, "ws://h/": true,
		"https://host:8000": false, "https://host/base": false, "ftp://host/": false, "host/": false, "https:///": false, "": false, "http://[::1": false,
	} {
		if err := wire.CheckURL(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSilentAnswerEndsThePoll(t *testing.T) {
	d := wiretest.NewDeployment(t)
	release := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for range 5 { // pads keep it alive beyond the limit
			w.Write(wire.Pad)
			w.(http.Flusher).Flush()
			<-time.After(60 * time.Millisecond) // paces a real server
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}, nil)
	defer close(release)
	o := plainOptions(d)
	o.Silence = 200 * time.Millisecond
	e, err := transport(t, o).Endpoint(s.URL+"/", wire.PathReader)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = e.Exchange(t.Context(), wire.Request{})
	if err == nil || !strings.Contains(err.Error(), "silent") {
		t.Fatalf("half-open poll: %v", err)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("gave up after %v although pads came", took)
	}
}

func TestFallbackAddressIsDialled(t *testing.T) {
	d := wiretest.NewDeployment(t)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(d.Server) }, nil)
	o := plainOptions(d)
	o.Fallback = map[string]string{"nowhere.invalid:80": strings.TrimPrefix(s.URL, "http://")}
	text, err := transport(t, o).ServerPEM(t.Context(), "http://nowhere.invalid/")
	if err != nil || len(text) == 0 {
		t.Error(err)
	}
}

func TestProxiesCarryBothSchemes(t *testing.T) {
	d := wiretest.NewDeployment(t)
	certificate := d.TLS(t)
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(d.Server) }, &certificate)
	var connects atomic.Int32
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			connects.Add(100)
			w.Write(d.Server)
			return
		}
		connects.Add(1)
		onward, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		defer onward.Close()
		inward, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer inward.Close()
		io.WriteString(inward, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(onward, inward)
		io.Copy(inward, onward)
	}, nil)
	for name, c := range map[string]struct {
		proxy wire.ProxyOptions
		base  string
		want  int32
	}{
		"one for all, https":     {wire.ProxyOptions{Proxy: proxy.URL}, target.URL, 1},
		"one for all, http":      {wire.ProxyOptions{Proxy: proxy.URL}, "http://example.invalid", 100},
		"by scheme":              {wire.ProxyOptions{IgnoreEnvironment: true, HTTPS: proxy.URL}, target.URL, 1},
		"other scheme":           {wire.ProxyOptions{IgnoreEnvironment: true, HTTP: "http://127.0.0.1:1"}, target.URL, 0},
		"pattern":                {wire.ProxyOptions{IgnoreEnvironment: true, URLRegexp: map[string]string{"server.pem$": proxy.URL}}, target.URL, 1},
		"pattern means direct":   {wire.ProxyOptions{IgnoreEnvironment: true, URLRegexp: map[string]string{"127": ""}, HTTPS: "http://127.0.0.1:1"}, target.URL, 0},
		"pattern does not match": {wire.ProxyOptions{IgnoreEnvironment: true, URLRegexp: map[string]string{"nowhere": "http://127.0.0.1:1"}}, target.URL, 0},
	} {
		connects.Store(0)
		o := plainOptions(d)
		o.Proxy = c.proxy
		tr := transport(t, o)
		if _, err := tr.ServerPEM(t.Context(), c.base+"/"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := connects.Load(); got != c.want {
			t.Errorf("%s: proxy was asked %d times, want %d", name, got, c.want)
		}
		tr.Close()
	}
	for name, o := range map[string]wire.ProxyOptions{
		"proxy": {Proxy: "::"}, "scheme": {HTTP: "nohost"}, "pattern": {URLRegexp: map[string]string{"(": ""}}, "target": {URLRegexp: map[string]string{"a": "x"}},
	} {
		if _, err := wire.NewTransport(wire.TransportOptions{TLS: wire.TLSOptions{CA: d.CA}, Proxy: o}); err == nil {
			t.Errorf("bad %s: no error", name)
		}
	}
}

func TestSocketEndpointReconnectsAndCancels(t *testing.T) {
	d := wiretest.NewDeployment(t)
	var conns atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := wire.Upgrade(w, r, wire.ConnOptions{})
		if err != nil {
			return
		}
		conns.Add(1)
		go echo(conn)
	}, nil)
	e, err := transport(t, plainOptions(d)).Endpoint(strings.Replace(s.URL, "http", "ws", 1)+"/", wire.PathControl)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for i, c := range []struct {
		packet string
		code   int
		conns  int32
	}{{"200", 200, 1}, {"200", 200, 1}, {"503", 503, 1}, {"200", 200, 2}} {
		answer, err := e.Exchange(t.Context(), wire.Request{Packet: []byte(c.packet)})
		if err != nil || answer.Code != c.code || conns.Load() != c.conns {
			t.Errorf("exchange %d: %+v, %v, %d connections", i, answer, err, conns.Load())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := e.Exchange(ctx, wire.Request{Packet: []byte("wait")}); err == nil {
		t.Error("a cancelled exchange gave an answer")
	}
	if _, err := e.Exchange(t.Context(), wire.Request{Packet: []byte("hang up")}); err == nil {
		t.Error("an exchange without an answer succeeded")
	}
	e.Close()
	if _, err := e.Exchange(t.Context(), wire.Request{Packet: []byte("200")}); !errors.Is(err, wire.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// echo answers each message as the message says.
func echo(conn wire.Conn) {
	defer conn.Close()
	for {
		r, err := conn.Next()
		if err != nil {
			return
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return
		}
		code := map[string]int{"200": 200, "503": 503, "hang up": -1, "wait": 0}[string(text)]
		switch {
		case code < 0:
			return
		case code == 0:
			continue
		}
		if conn.Write(wire.Frame{Code: code}.Append(nil)) != nil {
			return
		}
	}
}

func TestMessagesOverTheLimitEndTheSocket(t *testing.T) {
	d := wiretest.NewDeployment(t)
	got := make(chan error, 1)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := wire.Upgrade(w, r, wire.ConnOptions{MaxMessage: 1000})
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			r, err := conn.Next()
			if err == nil {
				_, err = io.ReadAll(r)
			}
			got <- err
		}()
	}, nil)
	e, err := transport(t, plainOptions(d)).Endpoint(strings.Replace(s.URL, "http", "ws", 1)+"/", wire.PathControl)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Exchange(t.Context(), wire.Request{Packet: make([]byte, 1001)}); err == nil {
		t.Error("answered")
	}
	if err := <-got; !errors.Is(err, wire.ErrTooLarge) {
		t.Errorf("server saw %v", err)
	}
}

func TestIdentityNeedsItsOwnKey(t *testing.T) {
	d := wiretest.NewDeployment(t)
	other := wiretest.ClientKey(t, 0)
	for name, o := range map[string]wire.IdentityOptions{
		"other key": {Key: other, Certificate: d.Server}, "no key": {Certificate: d.Server}, "no certificate": {Key: d.Key},
	} {
		if _, err := wire.NewIdentity(o); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Where sockets follow, the connection that server.pem came over is closed: a server
// holds it for minutes otherwise.
func TestFetchingServerPEMLeavesNoConnection(t *testing.T) {
	d := wiretest.NewDeployment(t)
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(d.Server) }))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{d.TLS(t)}}
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		open[c] = state != http.StateClosed
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	tr := transport(t, wire.TransportOptions{TLS: wire.TLSOptions{CA: d.CA, SelfSigned: true}, Proxy: wire.ProxyOptions{IgnoreEnvironment: true}})
	if _, err := tr.ServerPEM(t.Context(), "wss"+strings.TrimPrefix(s.URL, "https")+"/"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the connection's end", func() (any, bool) {
		mu.Lock()
		defer mu.Unlock()
		for _, still := range open {
			if still {
				return open, false
			}
		}
		return open, len(open) == 1
	})
}
