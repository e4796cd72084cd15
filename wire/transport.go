package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// The endpoints below a server's base URL.
const (
	PathServerPEM = "server.pem"
	PathControl   = "control"
	PathReader    = "reader"

	// Synonyms that some peers use.
	PathSendMessages    = "send_messages"
	PathReceiveMessages = "receive_messages"
)

// HeaderPriority with the value "urgent" marks a control post that must not
// queue behind others.
const HeaderPriority = "X-Priority"

// TransportOptions are an agent's way to its servers.
type TransportOptions struct {
	TLS   TLSOptions
	Proxy ProxyOptions

	// ConnectionTimeout bounds connecting, the TLS handshake, the wait for the
	// head of an answer, and how long an unused connection is kept
	// (connection_timeout); zero is 300 s. There is no total timeout, and a TCP
	// connection is given 15 s at most.
	ConnectionTimeout time.Duration

	// PingWait is ws_ping_wait_sec; zero is 60 s.
	PingWait time.Duration

	// Silence is how long a held HTTP answer may bring nothing, not even a pad,
	// before it counts as broken; zero is 180 s, since proxies may hold pads
	// back until a poll ends.
	Silence time.Duration

	// MaxAnswer bounds the bytes of one answer; zero is 128 MiB.
	MaxAnswer int64

	// Fallback maps host:port to the host:port dialled when it does not answer
	// (fallback_addresses).
	Fallback map[string]string

	// UserAgent of HTTP requests; empty is what balancers in front of existing
	// deployments may filter on.
	UserAgent string

	// Dial replaces the TCP dialler; nil is net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Transport carries packets to servers over HTTP (also HTTP/2) and WebSocket,
// as the scheme of each URL says. Safe for concurrent use.
type Transport struct {
	options TransportOptions
	judge   *verifier // of no host yet
	proxy   proxyFunc
	dial    func(ctx context.Context, network, address string) (net.Conn, error)

	// sessions let a further connection resume: the server signs once for both of
	// an agent's sockets, and not again after a short interruption. Signing is the
	// dearest part of a handshake.
	sessions tls.ClientSessionCache

	mu    sync.Mutex
	hosts map[string]*http.Transport
}

// keptSessions is for the servers that an agent may know.
const keptSessions = 16

// dialPatience bounds a TCP connection: a machine without power answers nothing, and
// other addresses wait for their turn. Linux has asked four times by then (after 0,
// 1, 3 and 7 s: RFC 6298).
const dialPatience = 15 * time.Second

func newDialer(o TransportOptions) *net.Dialer {
	return &net.Dialer{Timeout: min(o.ConnectionTimeout, dialPatience), KeepAlive: o.ConnectionTimeout}
}

// NewTransport checks the options; it connects to nobody yet.
func NewTransport(o TransportOptions) (*Transport, error) {
	setDefault(&o.ConnectionTimeout, 300*time.Second)
	setDefault(&o.PingWait, time.Minute)
	setDefault(&o.Silence, 180*time.Second)
	setDefault(&o.MaxAnswer, 128<<20)
	if o.UserAgent == "" {
		o.UserAgent = "Velociraptor" // protocol section 3.1
	}
	judge, err := o.TLS.verifier()
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	proxy, err := o.Proxy.Choose()
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	t := &Transport{options: o, judge: judge, proxy: proxy, sessions: tls.NewLRUClientSessionCache(keptSessions), hosts: make(map[string]*http.Transport)}
	t.dial = o.Dial
	if t.dial == nil {
		t.dial = newDialer(o).DialContext
	}
	return t, nil
}

// Close drops connections that are not in use. Endpoints are closed by their
// owners.
func (t *Transport) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.hosts {
		h.CloseIdleConnections()
	}
}

func (t *Transport) connect(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := t.dial(ctx, network, address)
	if err == nil {
		return conn, nil
	}
	other, ok := t.options.Fallback[address]
	if !ok || ctx.Err() != nil {
		return nil, err
	}
	conn, again := t.dial(ctx, network, other)
	if again != nil {
		return nil, errors.Join(err, again)
	}
	return conn, nil
}

func (t *Transport) tlsConfig(u *url.URL) (*tls.Config, error) {
	config, err := t.options.TLS.judgedBy(*t.judge, u.Hostname())
	if err != nil {
		return nil, err
	}
	config.ClientSessionCache = t.sessions
	verify := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		err := verify(state)
		if err != nil && state.DidResume {
			// The certificate is that of the first handshake, and may have expired
			// since. The server's present one shows when nothing is resumed.
			t.sessions.Put(config.ServerName, nil)
		}
		return err
	}
	return config, nil
}

// roundTripper returns the pool of connections to one host: the verified name
// depends on the host, so each has a TLS configuration of its own.
func (t *Transport) roundTripper(u *url.URL) (*http.Transport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known, ok := t.hosts[u.Host]; ok {
		return known, nil
	}
	config, err := t.tlsConfig(u)
	if err != nil {
		return nil, err
	}
	wait := t.options.ConnectionTimeout
	made := &http.Transport{
		Proxy: t.proxy, DialContext: t.connect, TLSClientConfig: config, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: wait, ResponseHeaderTimeout: wait, IdleConnTimeout: wait,
		MaxIdleConnsPerHost: 2, DisableCompression: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: time.Minute, PingTimeout: 30 * time.Second},
	}
	t.hosts[u.Host] = made
	return made, nil
}

// forget makes what is sent to a host next go over a new connection. Requests that are
// under way keep theirs.
func (t *Transport) forget(u *url.URL) {
	t.mu.Lock()
	known := t.hosts[u.Host]
	delete(t.hosts, u.Host)
	t.mu.Unlock()
	if known != nil {
		known.CloseIdleConnections()
	}
}

// resolve appends an endpoint to a base URL, which must end in a slash.
func resolve(base, endpoint string) (*url.URL, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("server url %.200q: %w", base, err)
	}
	switch u.Scheme {
	case "http", "https", "ws", "wss":
	default:
		return nil, fmt.Errorf("server url %.200q: scheme is not http, https, ws or wss", base)
	}
	if u.Host == "" || !strings.HasSuffix(u.Path, "/") {
		return nil, fmt.Errorf("server url %.200q: needs a host and a slash at its end", base)
	}
	u.Path += endpoint
	return u, nil
}

// CheckURL tells whether a configured server URL can be used.
func CheckURL(base string) error {
	_, err := resolve(base, "")
	return err
}

func overHTTP(u *url.URL) *url.URL {
	plain := *u
	plain.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
	return &plain
}

// ServerPEM fetches server.pem of a base URL; with a WebSocket URL over HTTP
// first, then over the WebSocket. Give the answer to CheckServer.
func (t *Transport) ServerPEM(ctx context.Context, base string) ([]byte, error) {
	u, err := resolve(base, PathServerPEM)
	if err != nil {
		return nil, err
	}
	socket := strings.HasPrefix(u.Scheme, "ws")
	answer, err := t.fetch(ctx, overHTTP(u), socket)
	if err == nil || !socket {
		return answer, err
	}
	overSocket, again := t.fetchSocket(ctx, base)
	if again != nil {
		return nil, errors.Join(err, again)
	}
	return overSocket, nil
}

// fetch gets a page. If it is the last over HTTP the connection is closed after it: kept,
// it would cost the server as much as both sockets, for minutes, and serve nobody.
func (t *Transport) fetch(ctx context.Context, u *url.URL, last bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, t.options.ConnectionTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", u, err)
	}
	request.Close = last
	// A connection of before may lead to a machine that is there no more, which HTTP/2
	// would notice minutes later.
	t.forget(u)
	response, err := t.roundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	defer response.Body.Close()
	body, err := ReadWithin(response.Body, maxPEM, nil)
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch %s: %w", u, err)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("fetch %s: status %d", u, response.StatusCode)
	}
	return body, nil
}

func (t *Transport) fetchSocket(ctx context.Context, base string) ([]byte, error) {
	e, err := t.Endpoint(base, PathServerPEM)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	ctx, cancel := context.WithTimeout(ctx, t.options.ConnectionTimeout)
	defer cancel()
	answer, err := e.Exchange(ctx, Request{Packet: Pad})
	switch {
	case err != nil:
		return nil, err
	case answer.Code != http.StatusOK:
		return nil, fmt.Errorf("fetch %s over WebSocket: status %d", base, answer.Code)
	}
	return answer.Body, nil
}

func (t *Transport) roundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", t.options.UserAgent)
	r.Header.Set("Content-Type", "application/binary")
	pool, err := t.roundTripper(r.URL)
	if err != nil {
		return nil, err
	}
	response, err := pool.RoundTrip(r) // no redirects: they are the agent's to follow
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Method, r.URL, err)
	}
	return response, nil
}

// post sends one packet and reads the answer to its end.
func (t *Transport) post(ctx context.Context, u *url.URL, q Request) (Answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(q.Packet))
	if err != nil {
		return Answer{}, fmt.Errorf("post %s: %w", u, err)
	}
	if q.Urgent {
		request.Header.Set(HeaderPriority, "urgent")
	}
	if q.Redirected {
		request.URL.RawQuery = "r=1"
	}
	response, err := t.roundTrip(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	alarm := time.AfterFunc(t.options.Silence, func() { cancel(errSilent) })
	defer alarm.Stop()
	body, err := ReadWithin(&watched{response.Body, alarm, t.options.Silence}, t.options.MaxAnswer, nil)
	if err != nil {
		if context.Cause(ctx) == errSilent {
			err = errSilent
		}
		return Answer{}, fmt.Errorf("answer of %s: %w", u, err)
	}
	return Answer{Code: response.StatusCode, Text: response.Status, Body: body, Location: response.Header.Get("Location")}, nil
}

var errSilent = errors.New("server fell silent")

// watched pushes an alarm away whenever bytes arrive.
type watched struct {
	io.Reader
	alarm   *time.Timer
	silence time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.alarm.Reset(w.silence)
	}
	return n, err
}

// dialSocket opens a WebSocket.
func (t *Transport) dialSocket(ctx context.Context, u *url.URL) (Conn, error) {
	config, err := t.tlsConfig(u)
	if err != nil {
		return nil, err
	}
	config.NextProtos = []string{"http/1.1"}
	dialer := websocket.Dialer{
		NetDialContext: t.connect, Proxy: t.proxy, TLSClientConfig: config, HandshakeTimeout: t.options.ConnectionTimeout,
		ReadBufferSize: writeBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers,
	}
	ws, response, err := dialer.DialContext(ctx, u.String(), nil)
	if err != nil {
		if response != nil {
			return nil, fmt.Errorf("dial %s: status %d: %w", u, response.StatusCode, err)
		}
		return nil, fmt.Errorf("dial %s: %w", u, err)
	}
	return newSocket(ws, ConnOptions{PingWait: t.options.PingWait, MaxMessage: t.options.MaxAnswer/3*4 + 4096}), nil
}
