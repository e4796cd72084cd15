package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"raptorpack/internal/retry"
	"raptorpack/vql"
)

var (
	errSecrets   = errors.New("named secrets are not available here: give the credentials as arguments")
	errBodyLarge = errors.New("the answer is too long")
	errScheme    = errors.New("the URL should begin with https:// or http:// and name a host")
)

const (
	// maxReply bounds the answer to one request, in bytes.
	maxReply = 16 << 20
	// maxReplyText bounds what of an answer is shown in rows and errors, in bytes.
	maxReplyText = 2 << 10
	// headerWait is how long a target may think once it has the whole request.
	headerWait = 2 * time.Minute
)

// outboundOptions say how a primitive reaches its target.
type outboundOptions struct {
	skipVerify bool
	rootCA     string
	timeout    time.Duration // of one attempt; 0 is ten minutes
	idle       time.Duration // how long a connection is kept unused; 0 is 90 seconds
}

// outbound makes the requests of one call of a primitive. It follows no redirect,
// so that neither rows nor credentials go where nobody sent them. It is safe for
// concurrent use.
type outbound struct {
	options  outboundOptions
	settings *HTTPSettings

	mu    sync.Mutex
	hosts map[string]*http.Transport // by scheme and host: the pinned certificates differ
}

func newOutbound(scope *vql.Scope, options outboundOptions) (*outbound, error) {
	if _, err := tlsConfig(false, options.rootCA, nil); err != nil {
		return nil, err
	}
	if options.timeout <= 0 {
		options.timeout = 10 * time.Minute
	}
	if options.idle <= 0 {
		options.idle = 90 * time.Second
	}
	o := &outbound{options: options, settings: &HTTPSettings{}, hosts: map[string]*http.Transport{}}
	if s, ok := vql.Service[*HTTPSettings](scope); ok && s != nil {
		o.settings = s
	}
	return o, nil
}

func (o *outbound) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.hosts {
		t.CloseIdleConnections()
	}
}

func (o *outbound) transport(target *url.URL) (*http.Transport, error) {
	key := target.Scheme + "://" + target.Host
	o.mu.Lock()
	t := o.hosts[key]
	o.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t, err := o.newTransport(target)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if first := o.hosts[key]; first != nil {
		return first, nil
	}
	o.hosts[key] = t
	return t, nil
}

func (o *outbound) newTransport(target *url.URL) (*http.Transport, error) {
	var base *tls.Config
	if o.settings.TLS != nil {
		base = o.settings.TLS(target)
	}
	config, err := tlsConfig(o.options.skipVerify, o.options.rootCA, base)
	if err != nil {
		return nil, err
	}
	proxy := o.settings.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: proxy, DialContext: dialer.DialContext, TLSClientConfig: config,
		TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: headerWait,
		IdleConnTimeout: o.options.idle, MaxIdleConnsPerHost: maxForwardThreads, ForceAttemptHTTP2: true,
	}, nil
}

// open makes one attempt and leaves the body to the caller, who closes it.
func (o *outbound) open(request *http.Request) (*http.Response, error) {
	t, err := o.transport(request.URL)
	if err != nil {
		return nil, err
	}
	if request.Header.Get("User-Agent") == "" {
		agent := o.settings.UserAgent
		if agent == "" {
			agent = "raptorpack"
		}
		request.Header.Set("User-Agent", agent)
	}
	client := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	response, err := client.Do(request)
	var failed *url.Error
	if errors.As(err, &failed) { // its text would hold the whole URL, which may be a secret
		err = &requestError{host: request.URL.Host, cause: failed.Err}
	}
	return response, err
}

// requestError is a request that got no answer.
type requestError struct {
	host  string
	cause error
}

func (e *requestError) Error() string { return "ask " + e.host + ": " + e.cause.Error() }
func (e *requestError) Unwrap() error { return e.cause }

// reply is an answer that was read whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// text is as much of the body as people get to see.
func (r *reply) text() string { return cutText(string(r.body)) }

func cutText(text string) string {
	if len(text) > maxReplyText {
		return text[:maxReplyText] + "..."
	}
	return text
}

// do makes one attempt and reads the answer.
func (o *outbound) do(request *http.Request) (*reply, error) {
	ctx, cancel := context.WithTimeout(request.Context(), o.options.timeout)
	defer cancel()
	response, err := o.open(request.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxReply {
		return nil, fmt.Errorf("%w: more than %d bytes", errBodyLarge, maxReply)
	}
	return &reply{status: response.StatusCode, header: response.Header, body: body}, nil
}

// statusError is an answer that is no success.
type statusError struct {
	status int
	text   string
	after  time.Duration // what the target asks us to wait
}

func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("the target answers %d %s", e.status, http.StatusText(e.status))
	}
	return fmt.Sprintf("the target answers %d: %s", e.status, e.text)
}

// statusErr is nil for an answer that is a success or one of accepted.
func (r *reply) statusErr(accepted ...int) error {
	if r.status/100 == 2 {
		return nil
	}
	for _, status := range accepted {
		if r.status == status {
			return nil
		}
	}
	return &statusError{status: r.status, text: r.text(), after: retryAfter(r.header)}
}

// passing tells whether a failure may go away by itself: the target is busy, away,
// or the connection broke. A certificate that we do not trust stays as it is.
func passing(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		switch status.status {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) || errors.Is(err, errBodyLarge) || errors.Is(err, context.Canceled) {
		return false
	}
	var unanswered *requestError
	var network net.Error
	return errors.As(err, &unanswered) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
}

// longestRetryAfter bounds the wait that a target may ask for.
const longestRetryAfter = 2 * time.Minute

// retryAfter reads the seconds of the header of that name (RFC 9110, 10.2.3).
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseInt(h.Get("Retry-After"), 10, 32)
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, longestRetryAfter)
}

func afterOf(err error) time.Duration {
	var status *statusError
	if errors.As(err, &status) {
		return status.after
	}
	return 0
}

// webURL reads the address of a target. Its errors show neither password nor query.
func webURL(text string) (*url.URL, error) {
	target, err := url.Parse(text)
	if err != nil {
		return nil, errScheme
	}
	if target.Scheme != "https" && target.Scheme != "http" || target.Host == "" {
		return nil, fmt.Errorf("%w, not %s://%s", errScheme, target.Scheme, target.Host)
	}
	return target, nil
}

// uploadTries is how often a part of a file is sent.
const uploadTries = 7

// pauses gives how long to wait after a failed attempt (1, 2, ...): the host's
// waits, or growing ones from first to a minute.
func (o *outbound) pauses(first time.Duration) func(try int) time.Duration {
	if waits := o.settings.RetryWaits; len(waits) > 0 {
		return func(try int) time.Duration { return waits[min(try, len(waits))-1] }
	}
	return retry.Policy{First: first, Cap: time.Minute}.Pause
}

// ask makes the request that build makes, again while the failure is a passing one.
// Statuses in accepted are no failure.
func (o *outbound) ask(ctx context.Context, build func() (*http.Request, error), accepted ...int) (*reply, error) {
	for try := 1; ; try++ {
		answer, err := o.once(build, accepted)
		if err == nil || try >= uploadTries || !passing(err) || ctx.Err() != nil {
			return answer, err
		}
		if !retry.Sleep(ctx, max(o.pauses(time.Second)(try), afterOf(err))) {
			return nil, ctx.Err()
		}
	}
}

func (o *outbound) once(build func() (*http.Request, error), accepted []int) (*reply, error) {
	request, err := build()
	if err != nil {
		return nil, err
	}
	answer, err := o.do(request)
	if err != nil {
		return nil, err
	}
	return answer, answer.statusErr(accepted...)
}
