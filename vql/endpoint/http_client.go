package endpoint

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"raptorpack/vql"
)

// errNoPath means that a file to send has no path.
var errNoPath = errors.New("a file to send needs a path")

// HTTPSettings is a service by which the host says how queries reach the network.
// Without one the environment's proxies and the system's certificates count.
type HTTPSettings struct {
	// Proxy picks a proxy for a request; nil is http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS returns the configuration for a URL, to pin a server's certificate; nil,
	// or a nil result, is the usual one.
	TLS func(*url.URL) *tls.Config
	// UserAgent is what requests say they come from.
	UserAgent string
	// RetryWaits are the pauses between attempts to connect; nil is the default of
	// some 90 seconds in all. What posts rows or sends files waits so too, the last
	// pause again and again.
	RetryWaits []time.Duration
}

// defaultRetryWaits add up to 91 s.
var defaultRetryWaits = []time.Duration{
	time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
	16 * time.Second, 30 * time.Second, 30 * time.Second,
}

const (
	defaultHTTPChunk = 4 << 20
	maxHTTPChunk     = 256 << 20
)

type httpArgs struct {
	URL               []string    `vql:"url" doc:"The URL, or several of which the first that answers well counts. /path:unix/url asks a unix socket."`
	Params            *vql.Dict   `vql:"params" doc:"Parameters: of the URL, or a form when the method has a body."`
	Headers           *vql.Dict   `vql:"headers" doc:"Headers."`
	Method            string      `vql:"method" doc:"The method (GET)."`
	Data              string      `vql:"data" doc:"The body."`
	ChunkSize         int64       `vql:"chunk_size" doc:"Bytes in a row (4 MiB)."`
	DisableSSL        bool        `vql:"disable_ssl_security" doc:"Accept any certificate."`
	SkipVerify        bool        `vql:"skip_verify" doc:"Accept any certificate."`
	TempfileExtension string      `vql:"tempfile_extension" doc:"Store the body in a temporary file with this extension; Content is its name."`
	RemoveLast        bool        `vql:"remove_last" doc:"Keep that file until the whole query ends."`
	RootCA            string      `vql:"root_ca" doc:"Certificates in PEM to trust too."`
	CookieJar         *vql.Dict   `vql:"cookie_jar" doc:"A dict that keeps cookies between calls."`
	UserAgent         string      `vql:"user_agent" doc:"What the request says it comes from."`
	Secret            string      `vql:"secret" doc:"A named secret; this build has none."`
	Files             []vql.Value `vql:"files" doc:"Files to send as multipart: dicts with file, key, path and accessor."`
}

var httpClientPlugin = vql.NewPlugin(vql.Spec{
	Name: "http_client", Permission: "NETWORK", Columns: []string{"Url", "Content", "Response", "Headers"},
	Doc: "Makes an HTTP request. A request that fails gives a row with Response 500 and the error in Content.",
}, func(ctx context.Context, scope *vql.Scope, args *httpArgs, emit vql.Emit) error {
	if len(args.URL) == 0 {
		return errors.New("url is needed")
	}
	if args.Secret != "" {
		return errors.New("secrets are not available here")
	}
	c, err := newHTTPCall(scope, args)
	if err != nil {
		return err
	}
	defer c.close()
	response, address, err := c.askAll(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		scope.Log(vql.LevelDefault, "http_client: %v", err)
		return emit(httpRow(address, err.Error(), http.StatusInternalServerError, nil))
	}
	defer response.Body.Close()
	if args.TempfileExtension != "" {
		return c.store(ctx, response, address, emit)
	}
	return c.stream(ctx, response, address, emit)
})

// httpCall is one call of http_client.
type httpCall struct {
	scope    *vql.Scope
	args     *httpArgs
	settings *HTTPSettings
	clients  []*http.Client // to be closed
}

func newHTTPCall(scope *vql.Scope, args *httpArgs) (*httpCall, error) {
	c := &httpCall{scope: scope, args: args, settings: &HTTPSettings{}}
	if s, ok := vql.Service[*HTTPSettings](scope); ok && s != nil {
		c.settings = s
	}
	if args.Method == "" {
		args.Method = http.MethodGet
	}
	args.Method = strings.ToUpper(args.Method)
	_, err := tlsConfig(false, args.RootCA, nil)
	return c, err
}

func (c *httpCall) close() {
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
}

// tlsConfig builds the configuration of a call on top of the host's.
func tlsConfig(skipVerify bool, rootCA string, base *tls.Config) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		config = base.Clone()
	}
	if skipVerify {
		config.InsecureSkipVerify = true // the caller asks for it
	}
	if rootCA == "" {
		return config, nil
	}
	pool := config.RootCAs
	if pool == nil {
		system, err := x509.SystemCertPool()
		if err != nil {
			system = x509.NewCertPool()
		}
		pool = system
	} else {
		pool = pool.Clone()
	}
	if !pool.AppendCertsFromPEM([]byte(rootCA)) {
		return nil, errors.New("root_ca holds no certificate in PEM")
	}
	config.RootCAs = pool
	return config, nil
}

// askAll tries the URLs in turn until one gives a 2xx, and starts over while none
// of them could be reached. The last answer, or the last error, stands.
func (c *httpCall) askAll(ctx context.Context) (response *http.Response, address string, err error) {
	waits := c.settings.RetryWaits
	if waits == nil {
		waits = defaultRetryWaits
	}
	for attempt := 0; ; attempt++ {
		response, address, err = c.askEach(ctx)
		if err == nil || !retriable(err) || attempt >= len(waits) {
			return response, address, err
		}
		c.scope.Log(vql.LevelDebug, "http_client: attempt %d: %v", attempt+1, err)
		pause := time.NewTimer(waits[attempt])
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, address, ctx.Err()
		}
	}
}

func (c *httpCall) askEach(ctx context.Context) (response *http.Response, address string, err error) {
	for i, u := range c.args.URL {
		if err := c.scope.Charge(ctx); err != nil {
			return nil, u, err
		}
		address = u
		response, err = c.ask(ctx, u)
		good := err == nil && response.StatusCode/100 == 2
		if good || i == len(c.args.URL)-1 {
			break
		}
		if err == nil {
			_ = response.Body.Close() // the next URL's turn
		}
	}
	return response, address, err
}

// retriable tells that no connection came about, so that nothing has been done yet.
func retriable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func (c *httpCall) ask(ctx context.Context, address string) (*http.Response, error) {
	client, target, err := c.client(ctx, address)
	if err != nil {
		return nil, err
	}
	request, err := c.request(ctx, target)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

// client makes a client for one URL and says which URL to ask it for.
func (c *httpCall) client(ctx context.Context, address string) (*http.Client, *url.URL, error) {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSHandshakeTimeout: 30 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute, ForceAttemptHTTP2: true, MaxIdleConns: 1,
	}
	if transport.Proxy = c.settings.Proxy; transport.Proxy == nil {
		transport.Proxy = http.ProxyFromEnvironment
	}
	if socket, rest, ok := strings.Cut(address, ":unix"); ok && strings.HasPrefix(address, "/") {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
		address = "http://unix" + rest
	}
	target, err := url.Parse(address)
	if err != nil {
		return nil, nil, err
	}
	var base *tls.Config
	if c.settings.TLS != nil {
		base = c.settings.TLS(target)
	}
	if transport.TLSClientConfig, err = tlsConfig(c.args.SkipVerify || c.args.DisableSSL, c.args.RootCA, base); err != nil {
		return nil, nil, err
	}
	client := &http.Client{Transport: transport}
	if c.args.CookieJar != nil {
		client.Jar = dictJar{func(v vql.Value) string { return c.scope.String(ctx, v) }, c.args.CookieJar}
	}
	c.clients = append(c.clients, client)
	return client, target, nil
}

func (c *httpCall) request(ctx context.Context, target *url.URL) (*http.Request, error) {
	values := c.values(ctx)
	body, contentType, err := c.body(ctx, values)
	if err != nil {
		return nil, err
	}
	if contentType == "" && len(values) > 0 { // no form: the parameters belong to the URL
		query := target.Query()
		for key, list := range values {
			query[key] = append(query[key], list...)
		}
		target.RawQuery = query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, c.args.Method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	agent := c.args.UserAgent
	if agent == "" {
		agent = c.settings.UserAgent
	}
	if agent == "" {
		agent = "raptorpack"
	}
	request.Header.Set("User-Agent", agent)
	if c.args.Headers != nil {
		for _, key := range c.args.Headers.Keys() {
			v, _ := c.args.Headers.Get(key)
			if text := c.scope.String(ctx, v); strings.EqualFold(key, "Host") {
				request.Host = text
			} else {
				request.Header.Set(key, text)
			}
		}
	}
	return request, nil
}

func (c *httpCall) values(ctx context.Context) url.Values {
	out := url.Values{}
	if c.args.Params == nil {
		return out
	}
	for _, key := range c.args.Params.Keys() {
		v, _ := c.args.Params.Get(key)
		list, ok := listOf(v)
		if !ok {
			list = []vql.Value{v}
		}
		for _, item := range list {
			out.Add(key, c.scope.String(ctx, item))
		}
	}
	return out
}

// body is the data as it is, files, or a form. It is kept in memory, so that
// another attempt can send it again.
func (c *httpCall) body(ctx context.Context, values url.Values) (io.Reader, string, error) {
	hasBody := c.args.Method != http.MethodGet && c.args.Method != http.MethodHead
	switch {
	case len(c.args.Files) > 0:
		return c.multipart(ctx, values)
	case c.args.Data != "":
		return strings.NewReader(c.args.Data), "", nil
	case hasBody && len(values) > 0:
		return strings.NewReader(values.Encode()), "application/x-www-form-urlencoded", nil
	}
	return nil, "", nil
}

// maxMultipart bounds what a request with files holds in memory.
const maxMultipart = 256 << 20

func (c *httpCall) multipart(ctx context.Context, values url.Values) (io.Reader, string, error) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for _, key := range sortedKeys(values) {
		for _, v := range values[key] {
			if err := w.WriteField(key, v); err != nil {
				return nil, "", err
			}
		}
	}
	for _, item := range c.args.Files {
		d, ok := c.scope.Real(ctx, item).(*vql.Dict)
		if !ok {
			return nil, "", fmt.Errorf("files should hold dicts not %T", item)
		}
		if err := c.addFile(ctx, w, &buf, d); err != nil {
			return nil, "", err
		}
	}
	return &buf, w.FormDataContentType(), w.Close()
}

func (c *httpCall) addFile(ctx context.Context, w *multipart.Writer, buf *bytes.Buffer, d *vql.Dict) error {
	text := func(key, fallback string) string {
		if v, ok := d.Get(key); ok && !vql.IsNull(v) {
			return c.scope.String(ctx, v)
		}
		return fallback
	}
	v, _ := d.Get("path")
	accessor := text("accessor", "")
	path, err := c.scope.ToPath(ctx, v, accessor)
	if err != nil {
		return err
	}
	if path == nil {
		return errNoPath
	}
	part, err := w.CreateFormFile(text("key", "file"), text("file", path.Basename()))
	if err != nil {
		return err
	}
	data, err := readAt(ctx, c.scope, accessor, path, 0, int64(max(maxMultipart-buf.Len(), 0))+1)
	if err != nil {
		return err
	}
	if buf.Len()+len(data) > maxMultipart {
		return fmt.Errorf("%s: %w", path, errTooLarge)
	}
	_, err = part.Write(data)
	return err
}

// store puts the whole body into a temporary file.
func (c *httpCall) store(ctx context.Context, response *http.Response, address string, emit vql.Emit) error {
	file, err := newTempFile(c.scope, c.args.TempfileExtension, c.args.RemoveLast)
	if err != nil {
		return err
	}
	err = copyAll(ctx, c.scope, file, response.Body)
	if err = errors.Join(err, file.Close()); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.scope.Log(vql.LevelDefault, "http_client: %s: %v", address, err)
		return emit(httpRow(address, err.Error(), http.StatusInternalServerError, nil))
	}
	return emit(httpRow(address, file.Name(), response.StatusCode, response.Header))
}

// stream emits the body in pieces; an empty one is a row too.
func (c *httpCall) stream(ctx context.Context, response *http.Response, address string, emit vql.Emit) error {
	chunk := c.args.ChunkSize
	if chunk <= 0 {
		chunk = defaultHTTPChunk
	}
	chunk = min(chunk, maxHTTPChunk)
	for first := true; ; first = false {
		data, err := readUpTo(ctx, c.scope, response.Body, chunk)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.scope.Log(vql.LevelDefault, "http_client: %s: %v", address, err)
			return emit(httpRow(address, err.Error(), http.StatusInternalServerError, nil))
		}
		if len(data) == 0 && !first {
			return nil
		}
		if err := emit(httpRow(address, string(data), response.StatusCode, response.Header)); err != nil {
			return err
		}
		if int64(len(data)) < chunk {
			return nil
		}
	}
}

func httpRow(address, content string, status int, header http.Header) *vql.Dict {
	headers := vql.NewDict()
	names := sortedKeys(header)
	for _, name := range names {
		list := make([]vql.Value, 0, len(header[name]))
		for _, v := range header[name] {
			list = append(list, v)
		}
		headers.Set(name, list)
	}
	row := vql.NewDict()
	row.Set("Url", address)
	row.Set("Content", content)
	row.Set("Response", int64(status))
	row.Set("Headers", headers)
	return row
}
