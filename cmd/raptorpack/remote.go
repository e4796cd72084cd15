package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/filestore"
)

const (
	apiPath = "/api/v1"

	// patience is how long a command goes on asking a pack that says "later",
	// as during a change of masters.
	patience = 15 * time.Second

	maxAnswer = 256 << 20 // bytes of an answer that is kept in memory
)

// remote speaks to the JSON door. It is for one command at a time.
type remote struct {
	door *door
	http *http.Client
	note func(format string, args ...any) // tells the operator what is waited for
	seen uint64                           // the newest ledger entry that a write told of
}

// dial prepares to speak to the server that the flags name; nothing is sent yet.
func (g *globals) dial(c *cobra.Command) (*remote, error) {
	d, err := g.openDoor(c)
	if err != nil {
		return nil, err
	}
	if d.url == "" {
		return nil, fmt.Errorf("--server URL is missing: the API client file only names the gRPC address: %w", errUsage)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: d.tls, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ResponseHeaderTimeout: 2 * time.Minute,
	}
	return &remote{door: d, http: &http.Client{Transport: transport}, note: g.noter(c)}, nil
}

func (r *remote) close() { r.http.CloseIdleConnections() }

// problem is a refusal in the form of RFC 9457.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
		Value    any    `json:"value"`
	} `json:"errors"`
}

func (p *problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if text == "" {
		text = http.StatusText(p.Status)
	}
	for _, e := range p.Errors {
		text += "; " + strings.TrimSpace(e.Location+" "+e.Message)
	}
	return harmless(text)
}

// exit is the exit code for a refusal.
func (p *problem) exit() int {
	switch {
	case p.Status == http.StatusNotFound:
		return exitNotFound
	case p.Status == http.StatusUnauthorized, p.Status == http.StatusForbidden:
		return exitForbidden
	case p.Status == http.StatusServiceUnavailable, p.Status == http.StatusBadGateway, p.Status == http.StatusGatewayTimeout:
		return exitUnreachable
	case p.Status == http.StatusUnprocessableEntity, p.Status == http.StatusBadRequest:
		return exitUsage
	}
	return exitFailed
}

// call is one request.
type call struct {
	method string
	path   string // below /api/v1, escaped
	query  url.Values
	body   any
	file   *upload // sent in place of body
	header http.Header
}

// get asks and decodes the answer into out.
func (r *remote) get(ctx context.Context, path string, query url.Values, out any) error {
	return r.do(ctx, call{method: http.MethodGet, path: path, query: query}, out)
}

// change sends a write, with a key that keeps a repeated one from being done twice.
func (r *remote) change(ctx context.Context, method, path string, body, out any) error {
	header := newKey()
	var answer json.RawMessage
	if err := r.do(ctx, call{method: method, path: path, body: body, header: header}, &answer); err != nil {
		return err
	}
	var done struct {
		Index uint64 `json:"index"`
	}
	if json.Unmarshal(answer, &done) == nil {
		r.seen = max(r.seen, done.Index)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// newKey is the header that keeps a repeated write from being done twice.
func newKey() http.Header {
	key := make([]byte, 16)
	rand.Read(key) // never fails since Go 1.24
	return http.Header{"Idempotency-Key": {fmt.Sprintf("%x", key)}}
}

func (r *remote) do(ctx context.Context, c call, out any) error {
	response, err := r.send(ctx, c)
	if err != nil {
		return err
	}
	return r.decode(ctx, response, out)
}

// decode reads a good answer into out and closes it.
func (r *remote) decode(ctx context.Context, response *http.Response, out any) error {
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return r.broken(ctx, err)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if raw, ok := out.(*json.RawMessage); ok {
		*raw = text
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("answer of %s: %w", r.door.url, err)
	}
	return nil
}

// send returns a good answer, whose body the caller closes. "Later" is obeyed for
// a while; so is a connection that broke, since every write carries its key.
func (r *remote) send(ctx context.Context, c call) (*http.Response, error) {
	var body []byte
	if c.body != nil {
		var err error
		if body, err = json.Marshal(c.body); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	end := time.Now().Add(patience)
	for told := false; ; told = true {
		wait, response, err := r.once(ctx, c, body)
		if err == nil || wait == 0 || time.Now().Add(wait).After(end) {
			return response, err
		}
		if !told {
			r.note("%v; trying again for %d seconds", err, int(patience.Seconds()))
		}
		if !pause(ctx, wait) {
			return nil, context.Cause(ctx)
		}
	}
}

// once sends the request one time. wait is how long to wait before the next try,
// 0 when there is no point.
func (r *remote) once(ctx context.Context, c call, body []byte) (wait time.Duration, _ *http.Response, _ error) {
	address := r.door.url + apiPath + c.path
	if len(c.query) > 0 {
		address += "?" + c.query.Encode()
	}
	var sent io.Reader = bytes.NewReader(body)
	if c.file != nil {
		sent = c.file.body()
	}
	request, err := http.NewRequestWithContext(ctx, c.method, address, sent)
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	if f := c.file; f != nil {
		request.ContentLength = int64(len(f.head)) + f.size + int64(len(f.tail))
	}
	for name, values := range c.header {
		request.Header[name] = values
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if r.door.key != "" {
		request.Header.Set("Authorization", "Bearer "+r.door.key)
	}
	if r.seen > 0 && c.method == http.MethodGet {
		request.Header.Set("X-Raptorpack-Index", strconv.FormatUint(r.seen, 10))
	}
	request.Header.Set("User-Agent", "raptorpack/"+version)
	response, err := r.http.Do(request)
	if err != nil {
		if again(err) && ctx.Err() == nil {
			wait = 500 * time.Millisecond
		}
		return wait, nil, r.broken(ctx, err)
	}
	if response.StatusCode < 300 {
		return 0, response, nil
	}
	defer response.Body.Close()
	refused := refusal(response)
	if response.StatusCode == http.StatusServiceUnavailable {
		wait = retryAfter(response.Header)
	}
	return wait, nil, &exitError{refused.exit(), refused}
}

// again reports whether a connection broke in a way that may pass at once. A
// server that is not there at all is told without delay.
func again(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return false
	}
	var certificate *tls.CertificateVerificationError
	return !errors.Is(err, errNotPinned) && !errors.As(err, &certificate) && !isAlert(err)
}

func isAlert(err error) bool {
	var alert tls.AlertError
	return errors.As(err, &alert) || strings.Contains(err.Error(), "tls: ")
}

func (r *remote) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return &exitError{exitUnreachable, fmt.Errorf("reach %s: %w", r.door.url, err)}
}

func refusal(response *http.Response) *problem {
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	p := &problem{}
	if err != nil || json.Unmarshal(text, p) != nil {
		p.Detail = strings.TrimSpace(string(text[:min(len(text), 500)]))
	}
	p.Status = response.StatusCode
	return p
}

func retryAfter(header http.Header) time.Duration {
	seconds, err := strconv.Atoi(header.Get("Retry-After"))
	if err != nil {
		seconds = 1
	}
	return time.Duration(min(max(seconds, 1), 10)) * time.Second
}

// pause waits; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// escaped joins parts to a path, each a segment of its own.
func escaped(parts ...string) string {
	var path strings.Builder
	for _, part := range parts {
		path.WriteByte('/')
		path.WriteString(url.PathEscape(part))
	}
	return path.String()
}

// page is one answer of a list; items stay as the bytes that came.
type page struct {
	Items []json.RawMessage `json:"items"`
	Next  string            `json:"next"`
	Total int64             `json:"total"`
	State string            `json:"state"`

	Missing int64 `json:"missing"` // of hunts, of the whole table
	Hidden  int64 `json:"hidden"`

	Holes []struct {
		Start int64 `json:"start"`
		End   int64 `json:"end"`
	} `json:"holes"`
	Damage []struct {
		Path   string               `json:"path"`
		Offset int64                `json:"offset"`
		Bytes  int64                `json:"bytes"`
		Kind   filestore.DamageKind `json:"kind"`
	} `json:"damage"`
}

// losses counts what stored rows lack, and tells each.
type losses struct {
	note    func(format string, args ...any)
	rows    int64           // missing by their numbers
	damaged map[string]bool // places; each page of a damaged set tells all of them
}

func (r *remote) losses() *losses { return &losses{note: r.note, damaged: map[string]bool{}} }

// see takes what a page of the rows called name says of itself. What a killed node
// wrote beyond its seal, and the end of a file that is being written, lose nothing:
// nobody was told that it is there.
func (l *losses) see(name string, p *page) {
	for _, hole := range p.Holes {
		l.rows += hole.End - hole.Start
		l.note("%s: rows %d to %d are missing", name, hole.Start, hole.End-1)
	}
	for _, d := range p.Damage {
		place := fmt.Sprintf("%s at %d", d.Path, d.Offset)
		if l.damaged[place] || d.Kind == filestore.DamageBeyondSeal || d.Kind == filestore.DamageTorn && !final(p.State) {
			continue
		}
		l.damaged[place] = true
		l.note("%s: %s: %s, %d bytes cannot be used", name, place, d.Kind, d.Bytes)
	}
}

// short counts rows that the record of an ended collection knows and that neither
// came nor left a hole.
func (l *losses) short(name string, missing int64) {
	if missing > 0 {
		l.rows += missing
		l.note("%s: the record knows %d rows more", name, missing)
	}
}

// err is nil when all is there.
func (l *losses) err() error {
	switch {
	case l.rows > 0:
		return &exitError{exitPartly, fmt.Errorf("%d rows are missing", l.rows)}
	case len(l.damaged) > 0:
		return &exitError{exitPartly, fmt.Errorf("%d places of the stored files are damaged", len(l.damaged))}
	}
	return nil
}

// each walks all pages of a list; limit bounds the items, 0 takes all.
func (r *remote) each(ctx context.Context, path string, query url.Values, limit int64, take func(*page) error) error {
	asked := url.Values{}
	for name, values := range query {
		asked[name] = values
	}
	for left := limit; ; {
		if limit > 0 && (asked.Get("limit") == "" || left < 1000) {
			asked.Set("limit", strconv.FormatInt(min(left, 1000), 10))
		}
		var p page
		if err := r.get(ctx, path, asked, &p); err != nil {
			return err
		}
		if err := take(&p); err != nil {
			return err
		}
		left -= int64(len(p.Items))
		if p.Next == "" || limit > 0 && left <= 0 {
			return nil
		}
		asked.Set("cursor", p.Next)
	}
}
